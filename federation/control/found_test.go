package control

import (
	"testing"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// found waits until the history of the first move says what a site alone had.
func (w *world) found(at spillway.SiteID) int64 {
	w.t.Helper()
	var move history.Record
	w.eventually("the history says what only "+string(at)+" had", func() bool {
		records, err := w.operator.History(within(w.t), "orders")
		if err != nil {
			w.t.Fatal(err)
		}
		move = records[0]
		return len(move.Found) > 0
	})
	f := move.Found[0]
	var sum int64
	for _, r := range f.Ranges {
		tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
		if r.From != move.Verified.Get(tp) || r.To > move.Start.Get(tp) {
			w.t.Errorf("%s [%d,%d) was found, [%d,%d) was announced", tp, r.From, r.To, move.Verified.Get(tp), move.Start.Get(tp))
		}
		sum += r.Records
	}
	if f.Site != at || sum != f.Records || f.Records > move.LostMost || len(move.Found) != 1 {
		w.t.Errorf("%+v of at most %d", move.Found, move.LostMost)
	}
	return f.Records
}

// Once the site that was given up is back, the history says how many records only it
// had, and which.
func TestTheHistoryCountsWhatOnlyTheLostSiteHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	w.produce("east", "a", 10)
	w.eventually("the others have the ten", func() bool { return len(w.visible("west", orders0)) == 10 && len(w.visible("north", orders0)) == 10 })
	w.kill("east")
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "east is gone", false)
	if err != nil {
		t.Fatal(err)
	}
	share := w.settled(plan.Epoch)
	records, err := w.operator.History(within(t), "orders")
	if err != nil || len(records) != 1 || len(records[0].Found) > 0 || records[0].Who != "ann" || records[0].Known == nil || len(records[0].Known.Evidence) != 3 {
		t.Fatalf("%+v, %v", records, err)
	}
	w.sites["east"].restart(func() {
		for range 7 { // as if they had been written before it died
			if _, err := produceTo(within(t), w.sites["east"].cluster, orders0, "only here"); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := w.found("east"); n != 7 {
		t.Errorf("%d records were found", n)
	}
	w.settled(share.Epoch)
	// It is written once, also if the site comes again.
	before, err := w.store.Get(within(t), failover.Keys("shop").HistoryFound(share.ID(), share.Epoch, "east"))
	if err != nil {
		t.Fatal(err)
	}
	w.sites["east"].stop()
	w.sites["east"].start()
	w.settled(share.Epoch)
	again, err := w.store.Get(within(t), before.Key)
	if err != nil || again.Version != before.Version {
		t.Errorf("version %d, then %d, %v", before.Version, again.Version, err)
	}
}

// A term that an aborted move continued was ended by the move after that one.
func TestWhichMoveEndedATerm(t *testing.T) {
	share := failover.Share{Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 3, Site: "east", Continues: true}, {Epoch: 4, Site: "west", Lossy: true}, {Epoch: 6, Site: "east"}}}
	for term, want := range map[spillway.Epoch]spillway.Epoch{1: 4, 3: 4, 4: 6, 6: 0} {
		if got := endedBy(share, term); got != want {
			t.Errorf("term %d was ended by the move to %d, not %d", term, got, want)
		}
	}
}
