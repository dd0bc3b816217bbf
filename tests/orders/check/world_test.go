package check_test

import (
	"fmt"
	"testing"

	"spillway"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// Offsets of the world: virtual = index × stride + base, so that there are
// holes between records, and each site counts in its own way.
const (
	virtualBase = int64(1000)
	eastBase    = int64(0)
	westBase    = int64(70)
)

// world is a run that went well: producers wrote at east, a mirror brought all
// to west, and two readers read everything. Tests spoil it in one place.
type world struct {
	east, west *check.Site
	events     []history.Event
	expect     check.Expect
	now        int64
	counters   map[history.ID]int64
	clientPID  int64
	mirrorPID  int64
}

func newWorld() *world {
	w := &world{
		east: &check.Site{Name: "east", Logs: map[check.Partition]*check.Log{}}, west: &check.Site{Name: "west", Logs: map[check.Partition]*check.Log{}},
		expect: check.Expect{Home: "west"}, now: 1, counters: map[history.ID]int64{},
		clientPID: spillway.ClientProducerID(7), mirrorPID: spillway.MirrorProducerID(7),
	}
	for _, p := range []string{"one", "two"} {
		w.event(history.Event{Kind: history.Start, Client: p, Role: history.Producer, Idempotent: true})
	}
	w.event(history.Event{Kind: history.Start, Client: "plain", Role: history.Producer})
	w.event(history.Event{Kind: history.Start, Client: "ledger", Role: history.Assigned})
	w.event(history.Event{Kind: history.Start, Client: "desk-1", Role: history.Member, Group: "desk"})
	for p := range int32(2) {
		at := check.Partition{Topic: "orders", Index: p}
		w.east.Logs[at], w.west.Logs[at] = &check.Log{}, &check.Log{}
		for _, client := range []string{"ledger", "desk-1"} {
			w.event(history.Event{Kind: history.Position, Client: client, Topic: at.Topic, Partition: p, Offset: history.NoOffset})
		}
	}
	return w
}

func (w *world) event(e history.Event) {
	w.now += 10
	e.Time = w.now
	w.events = append(w.events, e)
}

func (w *world) mark(name, kind string) {
	w.event(history.Event{Kind: history.Mark, Name: name, Move: kind, From: "east", To: "west"})
}

func (w *world) newID(producer string, partition int32) history.ID {
	place := history.ID{Producer: producer, Topic: "orders", Partition: partition}
	id := place
	id.Counter = w.counters[place]
	w.counters[place]++
	return id
}

func (w *world) invoke(id history.ID) {
	w.event(history.Event{Kind: history.Invoke, Client: id.Producer, Payload: id})
}

func (w *world) ack(id history.ID, virtual int64) {
	w.event(history.Event{Kind: history.Ack, Client: id.Producer, Payload: id, Offset: virtual})
}

// store puts a record into a site's log. Every third offset holds nothing.
func (w *world) store(s *check.Site, id history.ID, after ...history.ID) *check.Record {
	log := s.Logs[check.Partition{Topic: id.Topic, Index: id.Partition}]
	base, pid := eastBase, w.clientPID
	if s == w.west {
		base, pid = westBase, w.mirrorPID
	}
	log.Records = append(log.Records, check.Record{Offset: base + stride(len(log.Records)), ID: id, After: after, ProducerID: pid, Digest: 1})
	log.End = log.Records[len(log.Records)-1].Offset + 1
	return &log.Records[len(log.Records)-1]
}

func stride(i int) int64 { return int64(i + i/3) }

// virtual is the offset that clients see of the newest record of a partition.
func (w *world) virtual(partition int32) int64 {
	return virtualBase + stride(len(w.east.Logs[check.Partition{Topic: "orders", Index: partition}].Records)-1)
}

// write does everything right for one record: sent, stored at both sites,
// acknowledged.
func (w *world) write(producer string, partition int32, after ...history.ID) history.ID {
	id := w.newID(producer, partition)
	w.invoke(id)
	w.store(w.east, id, after...)
	w.store(w.west, id, after...)
	w.ack(id, w.virtual(partition))
	return id
}

func (w *world) consume(client string, id history.ID, virtual int64) {
	w.event(history.Event{Kind: history.Consume, Client: client, Topic: id.Topic, Partition: id.Partition, Offset: virtual, Payload: id})
}

// read lets a reader read what is at east, from one index on.
func (w *world) read(client string, partition int32, from int) {
	at := check.Partition{Topic: "orders", Index: partition}
	for i, r := range w.east.Logs[at].Records {
		if i >= from {
			w.consume(client, r.ID, virtualBase+stride(i))
		}
	}
}

// setBack is a loss of east that sets the group back; what it reads again it begins to read
// when the move home has begun.
func (w *world) setBack(late func()) {
	w.event(history.Event{Kind: history.Mark, Name: history.Kill, Note: "east"})
	w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
	w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Switchover, From: "west", To: "east"})
	late()
}

// finish lets both readers read all, and stop.
func (w *world) finish() *world {
	for _, client := range []string{"ledger", "desk-1"} {
		w.read(client, 0, 0)
		w.read(client, 1, 0)
		w.event(history.Event{Kind: history.Stop, Client: client, Drained: true})
	}
	return w
}

func (w *world) check(t interface {
	Helper()
	Fatal(...any)
}) *check.Report {
	t.Helper()
	report, err := check.Run(history.All(w.events), []*check.Site{w.east, w.west}, w.expect)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// standard is a world with twenty records of two producers, some of which
// follow others.
func standard() *world {
	w := newWorld()
	var last history.ID
	for i := range 20 {
		producer, partition := []string{"one", "two"}[i%2], int32(i/2%2)
		var after []history.ID
		if !last.IsZero() {
			after = append(after, last)
		}
		last = w.write(producer, partition, after...)
	}
	return w
}

// records of a site's partition.
func (w *world) records(s *check.Site, partition int32) *[]check.Record {
	return &s.Logs[check.Partition{Topic: "orders", Index: partition}].Records
}

// dropEvents removes the events that match.
func (w *world) dropEvents(match func(history.Event) bool) {
	kept := w.events[:0]
	for _, e := range w.events {
		if !match(e) {
			kept = append(kept, e)
		}
	}
	w.events = kept
}

// find returns the n-th event of a kind and client.
func (w *world) find(kind history.Kind, client string, n int) *history.Event {
	for i := range w.events {
		if e := &w.events[i]; e.Kind == kind && e.Client == client {
			if n--; n < 0 {
				return e
			}
		}
	}
	panic(fmt.Sprintf("no such event: %s of %s", kind, client))
}

func wantOnly(t *testing.T, r *check.Report, want map[check.Kind]int64) {
	t.Helper()
	for _, k := range check.Kinds {
		if r.Counts[k] != want[k] {
			t.Errorf("%s: %d, want %d", k, r.Counts[k], want[k])
		}
	}
	for _, f := range r.Findings {
		if f.Payload == "" && f.Local < 0 || f.Topic == "" || f.Detail == "" {
			t.Errorf("finding without evidence: %+v", f)
		}
		if r.Promises[f.Promise] != "broken" {
			t.Errorf("promise %s is %q in spite of %s", f.Promise, r.Promises[f.Promise], f)
		}
	}
	if t.Failed() {
		t.Log("\n" + r.Text())
	}
}
