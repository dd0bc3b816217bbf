package control

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// teller is what a store would tell a hub of a prefix.
type teller struct {
	t       *testing.T
	h       *hub
	version uint64
	entries map[string][]coordination.Entry // by prefix
}

func newTeller(t *testing.T) *teller {
	return &teller{t: t, h: newHub(nil, "shop", coordination.SystemClock{}, coordination.LeaseTTL, coordination.LeaseMargin), entries: map[string][]coordination.Entry{}}
}

// put changes a key, or adds one, and tells the whole prefix.
func (s *teller) put(prefix, key string, value any) {
	s.t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		s.t.Fatal(err)
	}
	s.version++
	e := coordination.Entry{Key: key, Value: b, Version: s.version}
	next, known := []coordination.Entry(nil), false
	for _, o := range s.entries[prefix] {
		if o.Key == key {
			o, known = e, true
		}
		next = append(next, o)
	}
	if !known {
		next = append(next, e)
	}
	s.tell(prefix, next)
}

func (s *teller) tell(prefix string, entries []coordination.Entry) {
	s.entries[prefix] = entries
	s.h.take(prefix, entries)
}

// woken are those of some shares that a change wakes, and whether it is news for all.
func (s *teller) woken(ids []spillway.ShareID, change func()) (woken []spillway.ShareID, news bool) {
	own := map[spillway.ShareID]<-chan struct{}{}
	var all <-chan struct{}
	for _, id := range ids {
		own[id], all = s.h.waitFor(id)
	}
	change()
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for _, id := range ids {
		if closed(own[id]) {
			woken = append(woken, id)
		}
	}
	return woken, closed(all)
}

func someShares(n int) (ids []spillway.ShareID) {
	for i := range n {
		ids = append(ids, spillway.ShareID{Group: fmt.Sprintf("group-%03d", i)})
	}
	return ids
}

// A thousand shares look at the same leases and reports, many times a second: what is
// stored is decoded once for each change of it, and not for each look or each share.
func TestAHubDecodesEachVersionOnce(t *testing.T) {
	const changes = 50
	s := newTeller(t)
	keys, ids := s.h.keys, someShares(100)
	sites := []spillway.SiteID{"east", "west", "north"}
	written := 0
	report := func(id spillway.ShareID, site spillway.SiteID, n int64) {
		written++
		s.put(keys.Moves(), keys.SiteReport(id, 2, site), failover.SiteReport{Site: site, Stopped: true, MapPosition: n})
	}
	lease := func(site spillway.SiteID, beat uint64) {
		written++
		l := failover.MirrorLease{Site: site, Worker: "1", Boot: "1", Beat: beat, Following: map[string]failover.Following{}}
		for _, id := range ids {
			l.Following[id.String()] = failover.Following{Epoch: 1, EndSum: int64(beat)}
		}
		s.put(keys.Mirrors(), keys.Mirror(site, "1"), l)
	}
	for _, id := range ids {
		for _, site := range sites {
			report(id, site, 1)
		}
	}
	for beat := range uint64(changes) {
		for _, site := range sites {
			lease(site, beat)
		}
		report(ids[3], "west", int64(beat)+2)
		for _, id := range ids { // as all drivers do at each look
			views := s.h.siteViews(spillway.FailoverGroup{Sites: sites}, id, nil, nil)
			if beat > 0 && (views["west"].Following == nil || views["west"].Following.EndSum != int64(beat)) {
				t.Fatalf("after beat %d west says %+v of %s", beat, views["west"].Following, id)
			}
			_, reports := s.h.reports(id, 2)
			if want := int64(1); id != ids[3] && (len(reports) != 3 || reports["west"].MapPosition != want) {
				t.Fatalf("reports of %s: %+v", id, reports)
			}
		}
		if _, reports := s.h.reports(ids[3], 2); reports["west"].MapPosition != int64(beat)+2 {
			t.Fatalf("after change %d: %+v", beat, reports)
		}
	}
	if s.h.digest.decodes != written {
		t.Errorf("%d values were decoded, and %d were written", s.h.digest.decodes, written)
	}
}

// What is new of one share wakes its driver and no other; what leases say again wakes none.
func TestAHubWakesWhomItConcerns(t *testing.T) {
	s := newTeller(t)
	keys, ids := s.h.keys, someShares(5)
	one := ids[2:3]
	for _, id := range ids {
		s.put(keys.Shares(), keys.Share(id), failover.Share{Group: id.Group, Epoch: 1})
	}
	votes := func(beat uint64, west failover.Verdict, evidence string) func() {
		return func() {
			s.put(keys.Ballots(), keys.Ballot("east"), failover.Ballot{Beat: beat, Votes: []failover.Vote{{About: "west", Observer: "east", Verdict: west, Evidence: evidence}}})
		}
	}
	votes(1, failover.Up, "well")()
	s.put(keys.Mirrors(), keys.Mirror("west", "1"), failover.MirrorLease{Site: "west", Beat: 1})
	s.put(keys.Moves(), keys.SiteReport(ids[2], 1, "west"), failover.SiteReport{Site: "west"})
	s.put(keys.Gateways(), keys.Gateway("gw"), map[string]any{"id": "gw", "beat": 1})
	older := s.entries[keys.Shares()]
	for _, c := range []struct {
		what   string
		change func()
		own    []spillway.ShareID
		news   bool
	}{
		{"its record", func() { s.put(keys.Shares(), keys.Share(ids[2]), failover.Share{Group: "group-002", Epoch: 2}) }, one, false},
		{"an older record, from a backup", func() { s.tell(keys.Shares(), older) }, one, false},
		{"its record is gone", func() { s.tell(keys.Shares(), append(older[:2:2], older[3:]...)) }, one, false},
		{"its record is back", func() { s.tell(keys.Shares(), older) }, one, false},
		{"a report", func() { s.put(keys.Moves(), keys.SiteReport(ids[2], 2, "west"), failover.SiteReport{Site: "west"}) }, one, false},
		{"a report again", func() {
			s.put(keys.Moves(), keys.SiteReport(ids[2], 2, "west"), failover.SiteReport{Site: "west", Opened: true})
		}, one, false},
		{"reports are gone", func() { s.tell(keys.Moves(), s.entries[keys.Moves()][:1]) }, one, false},
		{"the same again", func() { s.tell(keys.Moves(), s.entries[keys.Moves()]) }, nil, false},
		{"a mirror's lease", func() { s.put(keys.Mirrors(), keys.Mirror("west", "1"), failover.MirrorLease{Site: "west", Beat: 2}) }, nil, false},
		{"a gateway's lease", func() { s.put(keys.Gateways(), keys.Gateway("gw"), map[string]any{"id": "gw", "beat": 2}) }, nil, false},
		{"a ballot that says the same", votes(2, failover.Up, "still well"), nil, false},
		{"a verdict", votes(3, failover.Down, "nobody there"), nil, true},
		{"a mark", func() { s.put(keys.DrainedAll(), keys.Drained("west"), failover.Drained{Who: "anna"}) }, nil, true},
		{"automation", func() { s.put(keys.Automation(), keys.Automation(), failover.Automation{Paused: true}) }, nil, true},
	} {
		if own, news := s.woken(ids, c.change); !reflect.DeepEqual(own, c.own) || news != c.news {
			t.Errorf("%s wakes %v, all: %t; want %v, all: %t", c.what, own, news, c.own, c.news)
		}
	}
	if _, reports := s.h.reports(ids[2], 2); len(reports) != 0 {
		t.Errorf("reports that are gone: %+v", reports)
	}
	if e, ok := s.h.record(ids[2]); !ok || e.Version != older[2].Version {
		t.Errorf("the record is %+v", e)
	}
	if !s.h.automation().Paused || s.h.drained()["west"].Who != "anna" {
		t.Errorf("automation %+v, drained %+v", s.h.automation(), s.h.drained())
	}
}

// A store that was restored counts its versions up again: the same version with something
// else in it is new.
func TestAVersionThatIsCountedAgainIsNew(t *testing.T) {
	s := newTeller(t)
	keys, id := s.h.keys, spillway.ShareID{Group: "orders"}
	again := func(prefix, key string, value any) {
		t.Helper()
		s.version = 6
		s.put(prefix, key, value)
	}
	for round, say := range []struct {
		epoch   spillway.Epoch
		end     int64
		stopped bool
		verdict failover.Verdict
	}{{1, 10, false, failover.Up}, {2, 20, true, failover.Down}} {
		own, news := s.woken([]spillway.ShareID{id}, func() { again(keys.Shares(), keys.Share(id), failover.Share{Group: "orders", Epoch: say.epoch}) })
		if len(own) != 1 || news != (round == 0) {
			t.Errorf("round %d: the record wakes %v, all: %t", round, own, news)
		}
		again(keys.Mirrors(), keys.Mirror("west", "1"), failover.MirrorLease{Site: "west", Following: map[string]failover.Following{id.String(): {EndSum: say.end}}})
		if own, _ := s.woken([]spillway.ShareID{id}, func() {
			again(keys.Moves(), keys.SiteReport(id, 1, "west"), failover.SiteReport{Site: "west", Stopped: say.stopped})
		}); len(own) != 1 {
			t.Errorf("round %d: the report wakes %v", round, own)
		}
		again(keys.Ballots(), keys.Ballot("east"), failover.Ballot{Votes: []failover.Vote{{About: "west", Verdict: say.verdict}}})
		if m := s.h.digest.mirrors[keys.Mirror("west", "1")].value; m.Following[id.String()].EndSum != say.end {
			t.Errorf("round %d: the mirror says %+v", round, m)
		}
		if _, reports := s.h.reports(id, 1); reports["west"].Stopped != say.stopped {
			t.Errorf("round %d: reported is %+v", round, reports)
		}
		if b := s.h.digest.ballots[keys.Ballot("east")].value; b.Votes[0].Verdict != say.verdict {
			t.Errorf("round %d: the ballot is %+v", round, b)
		}
	}
}
