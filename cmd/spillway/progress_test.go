package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"spillway"
	"spillway/mirror"
)

// A problem is said once, when it lasts, and again that it is over.
func TestProgressSaysWhatLasts(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out)
	tp := spillway.TopicPartition{Topic: "orders", Partition: 3}
	begins := mirror.FlowInfo{Problems: map[spillway.TopicPartition]string{tp: "waits for the lease"}}
	lasts := mirror.FlowInfo{Problem: "list topics: refused", Problems: map[spillway.TopicPartition]string{tp: "the target refuses it"}}
	for _, i := range []mirror.FlowInfo{begins, lasts, lasts, lasts, {}, lasts} {
		p.flow(i)
	}
	want := "problem: list topics: refused\nproblem: orders-3: the target refuses it\nno more: list topics: refused\nno more: orders-3: the target refuses it\n"
	if got := out.String(); got != want {
		t.Errorf("said:\n%swant:\n%s", got, want)
	}
}

// Who comes and goes, and what changes hands, is said at once.
func TestProgressSaysWhoSharesTheFlow(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out)
	many := make([]spillway.TopicPartition, 12)
	for i := range many {
		many[i] = spillway.TopicPartition{Topic: "orders", Partition: int32(i)}
	}
	a, b := mirror.WorkerShare{Worker: "a-1", Partitions: 12, This: true}, mirror.WorkerShare{Worker: "b-2", Partitions: 5}
	p.workers(mirror.WorkersInfo{Workers: []mirror.WorkerShare{a}, Partitions: 12, Came: []string{"a-1"}, Taken: many})
	a.Partitions = 7
	p.workers(mirror.WorkersInfo{Workers: []mirror.WorkerShare{a, b}, Partitions: 12, Came: []string{"b-2"}, Given: many[:5]})
	p.workers(mirror.WorkersInfo{Workers: []mirror.WorkerShare{a}, Partitions: 12, Gone: []string{"b-2"}, Taken: many[3:5]})
	want := `1 worker: a-1 came; 12 of 12 partitions are here; 12 are taken over: orders-0, orders-1, orders-2, orders-3, orders-4, orders-5, orders-6, orders-7, orders-8, orders-9 and 2 more
2 workers: b-2 came; 7 of 12 partitions are here; 5 are given away: orders-0, orders-1, orders-2, orders-3, orders-4
1 worker: b-2 has gone; 7 of 12 partitions are here; 2 are taken over: orders-3, orders-4
`
	if got := out.String(); got != want {
		t.Errorf("said:\n%swant:\n%s", got, want)
	}
	if got := others([]mirror.WorkerShare{a, b}); got != "; b-2 has 5" {
		t.Errorf("beside this one: %q", got)
	}
}

// What a run counts can be scraped, and an address that cannot be listened to is an error.
func TestARunServesMetrics(t *testing.T) {
	e, at, end, err := serveMetrics(t.Context(), "127.0.0.1:0", "west")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	e.FlowState(mirror.FlowInfo{Share: spillway.ShareID{Group: "run-east"}, Source: "east", Target: "west", Partitions: 3, Elsewhere: 2, Workers: make([]mirror.WorkerShare, 2)})
	answer, err := http.Get(fmt.Sprintf("http://%s/metrics", at))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(body), `spillway_mirror_workers{failover_group="run-east",source="east",target="west"} 2`+"\n") {
		t.Errorf("%v\n%s", err, body)
	}
	if _, _, _, err := serveMetrics(t.Context(), at.String(), "west"); err == nil || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("an address that is taken: %v", err)
	}
}
