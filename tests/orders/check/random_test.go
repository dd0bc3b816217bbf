package check_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// Random histories in which everything went right, with all that is allowed
// to happen in one: unsure outcomes, certain failures, retries of plain
// producers, announced losses, a failover, readers that restart, groups that
// rebalance. They come out clean; and one random fault in them is found, under
// its own name.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		if r := w.check(t); !r.OK {
			t.Fatalf("a valid history is called bad:\n%s", r.Text())
		}
		fault := rapid.SampledFrom(faults).Draw(t, "fault")
		want := fault.spoil(t, w)
		r := w.check(t)
		for _, k := range check.Kinds {
			if (r.Counts[k] > 0) != (k == want) {
				t.Fatalf("fault %q, want only %s:\n%s", fault.name, want, r.Text())
			}
		}
	})
}

func randomWorld(t *rapid.T) *world {
	w := newWorld()
	var stored []history.ID
	producers := rapid.SampledFrom([]string{"one", "two", "plain"})
	for range rapid.IntRange(8, 60).Draw(t, "records") {
		p := producers.Draw(t, "producer")
		partition := rapid.Int32Range(0, 1).Draw(t, "partition")
		switch rapid.IntRange(0, 11).Draw(t, "what") {
		case 0: // unsure, and not there
			id := w.newID(p, partition)
			w.invoke(id)
			w.event(history.Event{Kind: history.Fail, Client: p, Payload: id, Error: "timed out"})
		case 1: // unsure, and there
			id := w.newID(p, partition)
			w.invoke(id)
			w.event(history.Event{Kind: history.Fail, Client: p, Payload: id, Error: "timed out"})
			w.store(w.east, id)
			w.store(w.west, id)
		case 2: // certainly failed
			id := w.newID(p, partition)
			w.invoke(id)
			w.event(history.Event{Kind: history.Fail, Client: p, Payload: id, Error: "too large", Definite: true})
		case 3: // no answer at all
			w.invoke(w.newID(p, partition))
		case 4: // a plain producer's retry
			id := w.write("plain", partition)
			w.store(w.east, id)
			w.store(w.west, id)
		case 5: // follows one of another order or topic
			if len(stored) > 0 {
				w.write(p, partition, rapid.SampledFrom(stored).Draw(t, "cause"))
			}
		default:
			stored = append(stored, w.write(p, partition))
		}
	}
	// Some to read, whatever was drawn.
	for partition := range int32(2) {
		for range 3 {
			w.write("one", partition)
			w.write("two", partition)
		}
	}
	w.randomReading(t)
	return w
}

// randomReading lets both readers read all: the one restarts, the other hands
// its partitions to a second member; maybe there was a failover, after which
// the group reads again; maybe with a loss.
func (w *world) randomReading(t *rapid.T) {
	failover := rapid.Bool().Draw(t, "failover")
	w.event(history.Event{Kind: history.Start, Client: "desk-2", Role: history.Member, Group: "desk"})
	for partition := range int32(2) {
		at := check.Partition{Topic: "orders", Index: partition}
		records := w.east.Logs[at].Records
		cut := rapid.IntRange(0, len(records)-1).Draw(t, "cut")
		for _, client := range []string{"ledger", "desk-1"} {
			for i, r := range records[:cut] {
				w.consume(client, r.ID, virtualBase+stride(i))
			}
		}
		w.event(history.Event{Kind: history.Position, Client: "ledger", Topic: "orders", Partition: partition, Offset: virtualBase + stride(cut)})
		w.read("ledger", partition, cut)
		if failover {
			w.mark(history.MoveStart, history.Failover)
			w.mark(history.MoveEnd, history.Failover)
		}
		w.event(history.Event{Kind: history.Position, Client: "desk-2", Group: "desk", Topic: "orders", Partition: partition, Offset: history.NoOffset})
		back := 0
		if failover {
			back = rapid.IntRange(0, cut).Draw(t, "back")
		}
		w.read("desk-2", partition, cut-back)
	}
	if failover {
		w.loseSome(t)
	}
	for _, client := range []string{"ledger", "desk-2"} {
		w.event(history.Event{Kind: history.Stop, Client: client, Drained: true})
	}
}

// loseSome adds acknowledged records that stayed at the old site, as announced.
// They were sent before the move, so their events belong to the beginning.
func (w *world) loseSome(t *rapid.T) {
	late := w.events
	n := slices.IndexFunc(w.events, func(e history.Event) bool { return e.Kind == history.Mark })
	w.events = slices.Clone(late[:n])
	from := w.east.Logs[check.Partition{Topic: "orders"}].End
	for i := range rapid.IntRange(1, 4).Draw(t, "lost") {
		id := w.newID("two", 0)
		w.invoke(id)
		w.store(w.east, id)
		w.ack(id, 9000+int64(i))
	}
	w.events = append(w.events, late[n:]...)
	for i := range w.events {
		w.events[i].Time = int64(10 * (i + 1))
	}
	w.now = int64(10 * (len(w.events) + 1))
	w.expect.Losses = []check.Range{{Topic: "orders", Partition: 0, From: 9000, To: 9100}}
	w.expect.Hidden = map[string][]check.Range{"east": {{Topic: "orders", Partition: 0, From: from, To: 1 << 40}}}
}

// fault spoils a valid world in one place and names what must be found.
type fault struct {
	name  string
	spoil func(*rapid.T, *world) check.Kind
}

// idempotent draws a place in a log where there is a record that can be spoiled
// unambiguously: acknowledged, once in the log, of an idempotent producer.
func (w *world) idempotent(t *rapid.T, partition int32) int {
	log := *w.records(w.west, partition)
	var places []int
	for i, r := range log {
		if r.ID.Producer != "plain" && w.ackOf(r.ID) != nil {
			places = append(places, i)
		}
	}
	return rapid.SampledFrom(places).Draw(t, "place")
}

func (w *world) ackOf(id history.ID) *history.Event {
	for i := range w.events {
		if e := &w.events[i]; e.Kind == history.Ack && e.Payload == id {
			return e
		}
	}
	return nil
}

var faults = []fault{
	{"drop a record at home", func(t *rapid.T, w *world) check.Kind {
		log := w.records(w.west, 0)
		i := w.idempotent(t, 0)
		*log = slices.Delete(*log, i, i+1)
		return check.Lost
	}},
	{"drop a record at a standby", func(t *rapid.T, w *world) check.Kind {
		w.expect.Hidden = nil // nothing is hidden once all of it is at home
		w.expect.Home = "east"
		w.expect.Losses = nil
		w.dropUnreplicated()
		log := w.records(w.west, 1)
		i := rapid.IntRange(0, len(*log)-1).Draw(t, "place")
		id := (*log)[i].ID
		*log = slices.DeleteFunc(*log, func(r check.Record) bool { return r.ID == id })
		return check.Lost
	}},
	{"repeat a record", func(t *rapid.T, w *world) check.Kind {
		w.store(w.west, (*w.records(w.west, 0))[w.idempotent(t, 0)].ID)
		return check.Duplicated
	}},
	{"swap two records of a producer", func(t *rapid.T, w *world) check.Kind {
		log := *w.records(w.west, 0)
		var pairs [][2]int // each record, and the next one of its producer
		for i, r := range log {
			j := slices.IndexFunc(log[i+1:], func(later check.Record) bool { return later.ID.Producer == r.ID.Producer })
			if j >= 0 && r.ID.Producer != "plain" {
				pairs = append(pairs, [2]int{i, i + 1 + j})
			}
		}
		pair := rapid.SampledFrom(pairs).Draw(t, "pair")
		swap(log, pair[0], pair[1])
		return check.Reordered
	}},
	{"a record that nobody sent", func(t *rapid.T, w *world) check.Kind {
		w.store(w.west, history.ID{Producer: "one", Topic: "orders", Counter: 1 << 30})
		return check.Phantom
	}},
	{"leave out a record for one reader", func(t *rapid.T, w *world) check.Kind {
		id := (*w.records(w.west, 0))[w.idempotent(t, 0)].ID
		w.dropEvents(func(e history.Event) bool {
			return e.Kind == history.Consume && e.Client == "ledger" && e.Payload == id
		})
		return check.Skipped
	}},
	{"give a reader a record again", func(t *rapid.T, w *world) check.Kind {
		i := w.idempotent(t, 0)
		w.consume("ledger", (*w.records(w.west, 0))[i].ID, w.ackOf((*w.records(w.west, 0))[i].ID).Offset)
		return check.ReRead
	}},
	{"damage a record", func(t *rapid.T, w *world) check.Kind {
		(*w.records(w.west, 1))[w.idempotent(t, 1)].Damage = "its sum is wrong"
		return check.Torn
	}},
	{"change bytes", func(t *rapid.T, w *world) check.Kind {
		(*w.records(w.west, 1))[w.idempotent(t, 1)].Digest++
		return check.Torn
	}},
	{"an effect of nothing", func(t *rapid.T, w *world) check.Kind {
		r := &(*w.records(w.west, 1))[w.idempotent(t, 1)]
		r.After = []history.ID{{Producer: "one", Topic: "carts", Counter: 77}}
		return check.EffectBeforeCause
	}},
	{"shift an acknowledged offset", func(t *rapid.T, w *world) check.Kind {
		w.ackOf((*w.records(w.west, 0))[w.idempotent(t, 0)].ID).Offset += rapid.SampledFrom([]int64{-1, 1}).Draw(t, "by")
		return check.Misplaced
	}},
	{"acknowledge at a site that does not serve", func(t *rapid.T, w *world) check.Kind {
		w.mark(history.MoveStart, history.Switchover)
		w.mark(history.MoveEnd, history.Switchover)
		id := w.newID("one", 1)
		w.invoke(id)
		r := w.store(w.east, id)
		w.ack(id, w.virtual(1))
		if w.expect.Hidden == nil {
			w.expect.Hidden = map[string][]check.Range{}
		}
		w.expect.Hidden["east"] = append(w.expect.Hidden["east"], check.Range{Topic: "orders", Partition: 1, From: r.Offset, To: 1 << 40})
		return check.Split
	}},
}

// dropUnreplicated takes lost records out of the world.
func (w *world) dropUnreplicated() {
	there := map[history.ID]bool{}
	for p := range int32(2) {
		for _, r := range *w.records(w.west, p) {
			there[r.ID] = true
		}
	}
	log := w.records(w.east, 0)
	gone := map[history.ID]bool{}
	*log = slices.DeleteFunc(*log, func(r check.Record) bool {
		gone[r.ID] = gone[r.ID] || !there[r.ID]
		return !there[r.ID]
	})
	w.dropEvents(func(e history.Event) bool { return gone[e.Payload] })
}
