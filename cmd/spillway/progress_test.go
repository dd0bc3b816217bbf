package main

import (
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
