package control

import (
	"encoding/json"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// An observer says of all sites what it thinks in one key, and nothing of a site
// whose probes do not end any more.
func TestAnObserverWritesOneBallot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	keys := failover.Keys(w.topology.Name())
	w.eventually("three ballots of three votes", func() bool {
		entries, err := w.store.List(within(t), keys.Ballots())
		if err != nil || len(entries) != 3 {
			return false
		}
		for _, e := range entries {
			var b failover.Ballot
			if json.Unmarshal(e.Value, &b) != nil || len(b.Votes) != 3 {
				return false
			}
		}
		return true
	})

	clock := coordination.GoClock{}
	o := newObserver(&Control{cfg: Config{Topology: w.topology, Site: "east", LeaseTTL: time.Minute, Clock: clock, Store: coordtest.NewMemory()}, keys: keys})
	long := clock.Now()
	long.Time = long.Time.Add(-2 * time.Minute)
	for site, at := range map[spillway.SiteID]coordination.Instant{"east": clock.Now(), "west": long} {
		o.think(site, opinion{verdict: failover.Up, since: at, probed: at})
	}
	if votes := o.votes(); len(votes) != 1 || votes[0].About != "east" || votes[0].Observer != "east" {
		t.Errorf("%+v", votes)
	}
}
