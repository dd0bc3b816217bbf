package control

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/mirror"
	"spillway/mirror/sitelog"
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
	// It is written once, also if another process of the site counts again.
	east := w.sites["east"]
	again := &followed{f: &Follower{cfg: FollowerConfig{Topology: w.topology, Store: w.store, Cluster: east.cluster, Mirror: east.mirror}, keys: "shop", site: "east"}, group: w.topology.Groups()[0], id: share.ID()}
	key := again.f.keys.HistoryFound(share.ID(), share.Epoch, "east")
	before, err := w.store.Get(within(t), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range []func() error{
		func() error { return again.tellFound(within(t), share, map[spillway.Epoch]bool{}) },
		func() error { return again.writeFound(within(t), share, share.Epoch, key) },
	} {
		if err := count(); err != nil {
			t.Fatal(err)
		}
		if after, err := w.store.Get(within(t), key); err != nil || after.Version != before.Version {
			t.Errorf("version %d, then %d, %v", before.Version, after.Version, err)
		}
	}
	// A move of which that fails keeps no other one from being told of.
	again.f.cfg.Store = unread{w.store, key}
	share.Terms = append(share.Terms, failover.Term{Epoch: 20, Site: "east"}, failover.Term{Epoch: 21, Site: "west", Lossy: true})
	written := map[spillway.Epoch]bool{}
	if err := again.tellFound(within(t), share, written); !errors.Is(err, errUnread) || written[share.Epoch] || !written[21] {
		t.Errorf("%v, %v", written, err)
	}
	// What is not there any more is not counted, and nobody tries for ever.
	gone := spillway.TopicPartition{Topic: "deleted"}
	counts, err := countFound(within(t), east.cluster, map[spillway.TopicPartition]sitelog.Span{gone: {To: 5}, orders0: {From: 1 << 40, To: 1<<40 + 5}})
	if err != nil || len(counts) != 0 {
		t.Errorf("%v, %v", counts, err)
	}
}

// unread is a store of which one key cannot be read.
type unread struct {
	coordination.Store
	key string
}

var errUnread = errors.New("unread")

func (u unread) Get(ctx context.Context, key string) (coordination.Entry, error) {
	if key == u.key {
		return coordination.Entry{}, errUnread
	}
	return u.Store.Get(ctx, key)
}

func TestWhatWasNotCountedIsUnknown(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	ranges := func() []history.Range {
		return []history.Range{{Topic: "a", Records: -1}, {Topic: "b", Records: -1}, {Topic: "c", Records: -1}}
	}
	counts := map[spillway.TopicPartition]mirror.Counted{{Topic: "a"}: {Records: 2, First: at, Last: at}, {Topic: "b"}: {Records: 0}, {Topic: "c"}: {Records: 3, First: at.Add(-1), Last: at.Add(1)}}
	if f := foundOf("east", ranges(), counts); f.Records != 5 || f.Ranges[2].Records != 3 || !f.First.Equal(at.Add(-1)) || !f.Last.Equal(at.Add(1)) {
		t.Errorf("%+v", f)
	}
	delete(counts, spillway.TopicPartition{Topic: "b"})
	if f := foundOf("east", ranges(), counts); f.Records != -1 || f.Ranges[1].Records != -1 || f.Ranges[2].Records != 3 || !f.First.IsZero() {
		t.Errorf("%+v", f)
	}
	if f := foundOf("east", nil, nil); f.Records != 0 {
		t.Errorf("there was nothing: %+v", f)
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

// oneByOne is a site whose topics' settings take long one by one.
type oneByOne struct {
	broker.Cluster
	asked *int
}

type oneByOneAdmin struct {
	broker.Admin
	asked *int
}

func (c oneByOne) Admin() broker.Admin { return oneByOneAdmin{c.Cluster.Admin(), c.asked} }

func (a oneByOneAdmin) TopicConfigs(context.Context, string) (map[string]broker.ConfigValue, error) {
	return nil, errors.New("this takes as long as there are topics")
}

func (a oneByOneAdmin) TopicValues(ctx context.Context, topics []string, key string) (map[string]string, error) {
	*a.asked++
	return a.Admin.TopicValues(ctx, topics, key)
}

// Which of many topics are compacted is asked in one request.
func TestPoliciesAreAskedTogether(t *testing.T) {
	t.Parallel()
	site, err := embedded.Start(embedded.Config{Site: "west", Topics: map[string]int32{"orders": 1, "orders-own": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { site.Close() })
	policy := "compact"
	if err := site.Admin().SetTopicConfigs(within(t), "orders", map[string]*string{"cleanup.policy": &policy}); err != nil {
		t.Fatal(err)
	}
	group := testGroup([]spillway.SiteID{"east", "west"})
	group.Topics = []string{"orders*"}
	topology := spillway.NewTopology("shop", "", []spillway.Site{{ID: "east"}, {ID: "west"}}, []spillway.FailoverGroup{group})
	asked := 0
	s := &followed{f: &Follower{cfg: FollowerConfig{Topology: topology, Cluster: oneByOne{site, &asked}}, site: "west"}, group: group, id: spillway.ShareID{Group: "orders"}}
	got, err := s.compacted(within(t))
	if err != nil || !slices.Equal(got, []string{"orders"}) || asked != 1 {
		t.Errorf("%v, %v; asked %d times", got, err, asked)
	}
}
