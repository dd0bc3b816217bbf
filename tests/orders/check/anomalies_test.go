package check_test

import (
	"slices"
	"testing"
	"time"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// Each anomaly, made by hand in a history that is right otherwise, is found,
// and nothing else is.
func TestEachAnomalyIsFoundAndNoneMisreported(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(w *world)
		want  map[check.Kind]int64
	}{
		{"acknowledged and nowhere", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.ack(id, 5000)
		}, map[check.Kind]int64{check.Lost: 1}},
		{"acknowledged at the old site only", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.store(w.east, id)
			w.ack(id, w.virtual(0))
			w.expect.Hidden = map[string][]check.Range{"east": {{Topic: "orders", Partition: 0, From: w.east.Logs[check.Partition{Topic: "orders"}].End - 1, To: 1 << 40}}}
		}, map[check.Kind]int64{check.Lost: 1}},
		{"handed out and gone", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.consume("ledger", id, 5000)
		}, map[check.Kind]int64{check.Lost: 1}},
		{"missing at a standby", func(w *world) {
			w.expect.Home = "east"
			log := w.records(w.west, 0)
			*log = slices.Delete(*log, 3, 5)
		}, map[check.Kind]int64{check.Lost: 2}},
		{"missing at a standby, in a compacted topic, and no later record has its key", func(w *world) {
			w.expect.Home, w.expect.Compacted = "east", []string{"orders"}
			for _, s := range []*check.Site{w.east, w.west} {
				(*w.records(s, 0))[2].Key = 7
			}
			log := w.records(w.west, 0)
			*log = slices.Delete(*log, 2, 3)
		}, map[check.Kind]int64{check.Lost: 1}},
		{"dropped by the mirror, then served there", func(w *world) {
			log := w.records(w.west, 1)
			gone := (*log)[4].ID
			*log = slices.Delete(*log, 4, 5)
			// Readers went on at west and got what is there.
			w.dropEvents(func(e history.Event) bool { return e.Kind == history.Consume && e.Payload == gone })
		}, map[check.Kind]int64{check.Lost: 1}},
		{"written twice", func(w *world) {
			for _, s := range []*check.Site{w.east, w.west} {
				w.store(s, (*w.records(s, 0))[9].ID)
			}
		}, map[check.Kind]int64{check.Duplicated: 2}}, // at both sites
		{"repeated by the mirror", func(w *world) {
			w.store(w.west, (*w.records(w.west, 0))[9].ID)
		}, map[check.Kind]int64{check.Duplicated: 1}},
		{"repeated by the mirror, of a plain producer", func(w *world) {
			id := w.write("plain", 0)
			w.store(w.west, id)
			w.consumeAll(id)
		}, map[check.Kind]int64{check.Duplicated: 1}},
		{"two records of one producer swapped at both sites", func(w *world) {
			for _, s := range []*check.Site{w.east, w.west} {
				swap(*w.records(s, 0), 0, 2)
			}
		}, map[check.Kind]int64{check.Reordered: 2}},
		{"two records swapped by the mirror", func(w *world) {
			w.expect.Home = "east"
			swap(*w.records(w.west, 0), 2, 3)
		}, map[check.Kind]int64{check.Reordered: 1}},
		{"handed out the other way round", func(w *world) {
			a, b := w.find(history.Consume, "ledger", 3), w.find(history.Consume, "ledger", 4)
			a.Payload, b.Payload, a.Offset, b.Offset = b.Payload, a.Payload, b.Offset, a.Offset
		}, map[check.Kind]int64{check.Reordered: 1}},
		{"nobody sent it", func(w *world) {
			w.store(w.west, history.ID{Producer: "one", Topic: "orders", Counter: 99})
			w.store(w.east, history.ID{Producer: "one", Topic: "orders", Counter: 99})
		}, map[check.Kind]int64{check.Phantom: 1}},
		{"nobody sent it, and it is in no log", func(w *world) {
			w.consume("ledger", history.ID{Producer: "one", Topic: "orders", Counter: 99}, 5000)
		}, map[check.Kind]int64{check.Phantom: 1}},
		{"it had certainly failed", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.event(history.Event{Kind: history.Fail, Client: "one", Payload: id, Error: "too large", Definite: true})
			w.store(w.east, id)
			w.store(w.west, id)
		}, map[check.Kind]int64{check.Phantom: 1}},
		{"foreign data", func(w *world) {
			w.expect.Home = "east"
			r := w.store(w.west, history.ID{Producer: "x", Topic: "orders"})
			r.ID, r.Damage = history.ID{}, "no payload"
		}, map[check.Kind]int64{check.Phantom: 1}},
		{"in the wrong partition", func(w *world) {
			w.consume("ledger", w.misrouted(), 5000)
		}, map[check.Kind]int64{check.Phantom: 1}},
		{"went past a record", func(w *world) {
			gone := w.find(history.Consume, "ledger", 5).Payload
			w.dropEvents(func(e history.Event) bool {
				return e.Kind == history.Consume && e.Client == "ledger" && e.Payload == gone
			})
		}, map[check.Kind]int64{check.Skipped: 1}},
		{"never got the end", func(w *world) {
			last := (*w.records(w.east, 1))[8].Offset + virtualBase
			w.dropEvents(func(e history.Event) bool {
				return e.Kind == history.Consume && e.Client == "desk-1" && e.Partition == 1 && e.Offset >= last
			})
		}, map[check.Kind]int64{check.Skipped: 2}},
		{"resumed below its position", func(w *world) {
			w.event(history.Event{Kind: history.Position, Client: "ledger", Topic: "orders", Offset: virtualBase + stride(9)})
			r := (*w.records(w.east, 0))[8]
			w.consume("ledger", r.ID, virtualBase+stride(8))
		}, map[check.Kind]int64{check.ReRead: 1}},
		{"a group went back", func(w *world) {
			w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
			w.read("desk-1", 0, 7)
		}, map[check.Kind]int64{check.ReRead: 3}},
		{"read twice at the lost site", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.consume("ledger", id, 900)
			w.consume("ledger", id, 900)
			w.expect.Losses = []check.Range{{Topic: "orders", Partition: 0, From: 900, To: 910}}
		}, map[check.Kind]int64{check.ReRead: 1}},
		{"a group went back behind its commit", func(w *world) {
			w.expect.GroupsRepeat = true
			w.event(history.Event{Kind: history.Commit, Client: "desk-1", Group: "desk", Topic: "orders", Offset: virtualBase + stride(8)})
			w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
			w.read("desk-1", 0, 7) // 8 and 9 it may
		}, map[check.Kind]int64{check.ReRead: 1}},
		{"a group that came back late went back once more", func(w *world) {
			w.setBack(func() { w.read("desk-1", 0, 8) })
			w.read("desk-1", 0, 9) // had come again already
		}, map[check.Kind]int64{check.ReRead: 1}},
		{"a group went back before anything came again", func(w *world) {
			w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
			w.event(history.Event{Kind: history.Mark, Name: history.Kill, Note: "east"})
			w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Switchover, From: "west", To: "east"})
			w.read("desk-1", 0, 8)
		}, map[check.Kind]int64{check.ReRead: 2}},
		{"a group comes back a move too late", func(w *world) {
			w.setBack(func() {
				w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Switchover, From: "east", To: "west"})
				w.read("desk-1", 0, 8)
			})
		}, map[check.Kind]int64{check.ReRead: 2}},
		{"a group that had come back went back at the next move", func(w *world) {
			w.event(history.Event{Kind: history.Mark, Name: history.Kill, Note: "east"})
			w.read("desk-1", 0, 7)
			w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Switchover, From: "west", To: "east"})
			w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
			w.read("desk-1", 0, 8)
		}, map[check.Kind]int64{check.ReRead: 2}},
		{"damaged", func(w *world) {
			for _, s := range []*check.Site{w.east, w.west} {
				(*w.records(s, 0))[1].Damage = "its sum is wrong"
			}
		}, map[check.Kind]int64{check.Torn: 2}}, // at both sites
		{"other bytes at the other site", func(w *world) {
			(*w.records(w.west, 0))[1].Digest = 2
		}, map[check.Kind]int64{check.Torn: 1}},
		{"half a transaction", func(w *world) {
			w.transaction(history.Unsure, 1)
		}, map[check.Kind]int64{check.Torn: 1}},
		{"half a committed transaction", func(w *world) {
			w.transaction(history.Committed, 1)
		}, map[check.Kind]int64{check.Lost: 1}},
		{"an aborted transaction", func(w *world) {
			w.transaction(history.Aborted, 2)
		}, map[check.Kind]int64{check.Phantom: 2}},
		{"effect before its cause in one partition", func(w *world) {
			a, b := w.newID("one", 0), w.newID("two", 0)
			w.invoke(a)
			w.invoke(b)
			for _, id := range []history.ID{b, a} {
				w.store(w.east, id)
				w.store(w.west, id)
				w.consumeAll(id)
				w.ack(id, w.virtual(0))
			}
			for _, s := range []*check.Site{w.east, w.west} {
				(*w.records(s, 0))[10].After = []history.ID{a}
			}
		}, map[check.Kind]int64{check.EffectBeforeCause: 1}},
		{"effect without its cause", func(w *world) {
			w.consumeAll(w.write("two", 0, history.ID{Producer: "one", Topic: "carts", Counter: 3}))
		}, map[check.Kind]int64{check.EffectBeforeCause: 1}},
		{"read before it was sent", func(w *world) {
			w.find(history.Invoke, "one", 3).Time = 1 << 40
			slices.SortStableFunc(w.events, func(a, b history.Event) int { return int(a.Time - b.Time) })
		}, map[check.Kind]int64{check.EffectBeforeCause: 2}}, // and sent after its effect
		{"acknowledged one offset too high", func(w *world) {
			w.find(history.Ack, "one", 4).Offset++
		}, map[check.Kind]int64{check.Misplaced: 1}},
		{"one reader saw it elsewhere", func(w *world) {
			w.find(history.Consume, "desk-1", 4).Offset++
		}, map[check.Kind]int64{check.Misplaced: 1}},
		{"two records at one offset", func(w *world) {
			a, b := w.write("one", 0), w.write("two", 0)
			w.dropOffsets(a, b)
			for _, client := range []string{"ledger", "desk-1"} {
				w.consume(client, a, 7000)
				w.consume(client, b, 7000)
			}
		}, map[check.Kind]int64{check.Misplaced: 1}},
		{"the old site acknowledged after the move", func(w *world) {
			w.mark(history.MoveStart, history.Switchover)
			w.mark(history.MoveEnd, history.Switchover)
			id := w.newID("one", 0)
			w.invoke(id)
			w.store(w.east, id)
			w.ack(id, w.virtual(0))
			w.expect.Hidden = map[string][]check.Range{"east": {{Topic: "orders", Partition: 0, From: w.east.Logs[check.Partition{Topic: "orders"}].End - 1, To: 1 << 40}}}
		}, map[check.Kind]int64{check.Split: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := standard().finish()
			c.spoil(w)
			wantOnly(t, w.check(t), c.want)
		})
	}
}

// What looks like an anomaly and is none is not reported, but counted.
func TestWhatIsAllowedIsNotReported(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(w *world)
		counted func(f check.Figures) int64
	}{
		{"an unsure record that is there", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.event(history.Event{Kind: history.Fail, Client: "one", Payload: id, Error: "timed out"})
			w.store(w.east, id)
			w.store(w.west, id)
			w.consumeAll(id)
		}, func(f check.Figures) int64 { return f.Failed }},
		{"a record without an answer", func(w *world) { w.invoke(w.newID("one", 0)) }, func(f check.Figures) int64 { return f.Open }},
		{"acknowledged without acks and gone", func(w *world) {
			w.event(history.Event{Kind: history.Start, Client: "zero", Role: history.Producer, Acks: "0"})
			id := w.newID("zero", 0)
			w.invoke(id)
			w.ack(id, history.NoOffset)
		}, func(f check.Figures) int64 { return f.Sent - 19 - 1 }},
		{"a plain producer's retry", func(w *world) {
			id := w.write("plain", 0)
			w.consumeAll(id)
			w.store(w.east, id)
			w.store(w.west, id)
			w.consumeAll(id)
		}, func(f check.Figures) int64 { return f.Resent }},
		{"a plain producer's records out of turn", func(w *world) {
			a, b := w.newID("plain", 0), w.newID("plain", 0)
			w.invoke(a)
			w.invoke(b)
			for _, id := range []history.ID{b, a} {
				w.store(w.east, id)
				w.store(w.west, id)
				w.consumeAll(id)
				w.ack(id, w.virtual(0))
			}
		}, func(f check.Figures) int64 { return f.OutOfTurn }},
		{"an announced loss, and a step that stands without its cause", func(w *world) {
			lost := w.newID("one", 1)
			w.invoke(lost)
			w.ack(lost, 9000)
			w.consume("ledger", lost, 9000)
			w.consumeAll(w.write("two", 0, lost))
			w.expect.Losses = []check.Range{{Topic: "orders", Partition: 1, From: 9000, To: 9010}}
		}, func(f check.Figures) int64 { return f.LostAnnounced * f.TornOrders * (f.AnnouncedSize - 9) }},
		{"lost as announced, then replayed at a new offset", func(w *world) {
			id := w.newID("one", 0)
			w.invoke(id)
			w.ack(id, 900)
			w.store(w.east, id)
			w.store(w.west, id)
			w.consumeAll(id)
			w.expect.Losses = []check.Range{{Topic: "orders", Partition: 0, From: 900, To: 910}}
		}, func(f check.Figures) int64 { return f.AnnouncedSize - 9 }},
		{"read at the lost site, then written and read anew", func(w *world) {
			a, b := w.newID("one", 0), w.newID("one", 0)
			w.invoke(a)
			w.invoke(b)
			w.consume("ledger", a, 900)
			w.consume("ledger", b, 901)
			for _, id := range []history.ID{a, b} {
				w.store(w.east, id)
				w.store(w.west, id)
				w.ack(id, w.virtual(0))
				w.consumeAll(id)
			}
			w.expect.Losses = []check.Range{{Topic: "orders", Partition: 0, From: 900, To: 910}}
		}, func(f check.Figures) int64 { return f.AnnouncedSize - 9 }},
		{"a group that reads again after a kill", func(w *world) {
			w.event(history.Event{Kind: history.Mark, Name: history.Kill, Note: "east"})
			w.read("desk-1", 0, 9)
		}, func(f check.Figures) int64 { return f.GroupRepeats }},
		{"a group that reads again later than the next move begins", func(w *world) {
			w.setBack(func() { w.read("desk-1", 0, 9) })
		}, func(f check.Figures) int64 { return f.GroupRepeats }},
		{"a group that reads again above its commit, where that is allowed", func(w *world) {
			w.expect.GroupsRepeat = true
			w.event(history.Event{Kind: history.Commit, Client: "desk-1", Group: "desk", Topic: "orders", Offset: virtualBase + stride(9)})
			w.event(history.Event{Kind: history.Position, Client: "desk-1", Group: "desk", Topic: "orders", Offset: history.NoOffset})
			w.read("desk-1", 0, 9)
		}, func(f check.Figures) int64 { return f.GroupRepeats }},
		{"a compacted record", func(w *world) {
			w.expect.Compacted = []string{"orders"}
			for _, s := range []*check.Site{w.east, w.west} {
				log := w.records(s, 0)
				*log = slices.Delete(*log, 2, 3)
			}
		}, func(f check.Figures) int64 { return f.Records["west"] - 18 }},
		{"compaction that has gone further at one site", func(w *world) {
			w.expect.Home, w.expect.Compacted = "east", []string{"orders"}
			for _, s := range []*check.Site{w.east, w.west} {
				(*w.records(s, 0))[2].Key, (*w.records(s, 0))[5].Key = 7, 7
			}
			log := w.records(w.west, 0)
			*log = slices.Delete(*log, 2, 3)
		}, func(f check.Figures) int64 { return f.Records["west"] - 18 }},
		{"a site that is behind", func(w *world) {
			w.expect.Home, w.expect.Behind = "east", []string{"west"}
			log := w.records(w.west, 0)
			*log = (*log)[:4]
		}, func(f check.Figures) int64 { return f.Records["west"] - 13 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := standard().finish()
			c.happens(w)
			r := w.check(t)
			wantOnly(t, r, nil)
			if n := c.counted(r.Figures); n != 1 {
				t.Errorf("counted %d times, want once: %+v", n, r.Figures)
			}
		})
	}
}

// A failover whose target was open when it began is one move all the same, and
// the gap that it tore is that between two answers around it.
func TestMoveGap(t *testing.T) {
	w := standard()
	held := w.newID("one", 0)
	w.invoke(held)
	w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Failover, From: "east"})
	w.now += 5_000_000
	w.event(history.Event{Kind: history.Mark, Name: history.MoveEnd, Move: history.Failover, From: "east", To: "west"})
	w.store(w.west, held).ProducerID = w.clientPID
	w.store(w.east, held).ProducerID = w.mirrorPID
	w.ack(held, w.virtual(0))
	w.finish()
	r := w.check(t)
	wantOnly(t, r, nil)
	gaps := r.Figures.MoveGaps
	if len(gaps) != 1 || gaps[0].To != "west" || gaps[0].Gap < 5*time.Millisecond || gaps[0].Gap > 6*time.Millisecond {
		t.Errorf("gaps: %+v, want one to west of 5 ms", gaps)
	}
	if len(gaps) != 1 || len(gaps[0].Producers) != 1 || gaps[0].Producers["one"] != gaps[0].Gap {
		t.Errorf("gaps: %+v, want that of the only producer", gaps)
	}
	if r.Promises["A"] != "held" {
		t.Errorf("promise A: %s", r.Promises["A"])
	}
}

// Between a planned move and a kill before it, nothing excuses a group that
// reads again.
func TestAPlannedMoveEndsTheExcuse(t *testing.T) {
	w := standard().finish()
	w.event(history.Event{Kind: history.Mark, Name: history.Kill, Note: "east"})
	w.mark(history.MoveStart, history.Failover)
	w.mark(history.MoveEnd, history.Failover)
	w.event(history.Event{Kind: history.Mark, Name: history.MoveStart, Move: history.Switchover, From: "west", To: "east"})
	w.event(history.Event{Kind: history.Mark, Name: history.MoveEnd, Move: history.Switchover, From: "west", To: "east"})
	w.read("desk-1", 0, 8)
	wantOnly(t, w.check(t), map[check.Kind]int64{check.ReRead: 2})
}

func swap(log []check.Record, i, j int) {
	log[i], log[j] = log[j], log[i]
	log[i].Offset, log[j].Offset = log[j].Offset, log[i].Offset
}

// consumeAll lets both readers have a record that was written after finish.
func (w *world) consumeAll(id history.ID) {
	for _, client := range []string{"ledger", "desk-1"} {
		w.consume(client, id, w.virtual(id.Partition))
	}
}

// dropOffsets makes the acknowledgements say no offset.
func (w *world) dropOffsets(ids ...history.ID) {
	for i := range w.events {
		if e := &w.events[i]; e.Kind == history.Ack && slices.Contains(ids, e.Payload) {
			e.Offset = history.NoOffset
		}
	}
}

// misrouted is a record of partition 1 that a reader will get in partition 0.
func (w *world) misrouted() history.ID {
	return history.ID{Producer: "one", Topic: "carts", Partition: 1, Counter: 0}
}

// transaction sends two records as one, of which so many come into the logs.
func (w *world) transaction(outcome string, stored int) {
	for i := range 2 {
		id := w.newID("one", 0)
		w.event(history.Event{Kind: history.Invoke, Client: "one", Payload: id, Txn: "t"})
		offset := int64(5000 + i)
		if i < stored {
			w.store(w.east, id)
			w.store(w.west, id)
			offset = w.virtual(0)
			w.consumeAll(id)
		}
		w.ack(id, offset)
	}
	w.event(history.Event{Kind: history.TxnEnd, Client: "one", Txn: "t", Outcome: outcome})
}
