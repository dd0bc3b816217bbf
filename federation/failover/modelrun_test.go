package failover

import (
	"slices"
	"strings"
	"testing"
)

// statesMax stops a model that grew past what a test can wait for.
const statesMax = 1_000_000

func TestModelHolds(t *testing.T) {
	t.Parallel()
	for name, z := range map[string]size{
		"switchover, two loops":                {kind: Switchover, loops: 2, gates: 1, records: 1, ack: 1},
		"switchover, abort":                    {kind: Switchover, loops: 1, gates: 1, records: 1, aborts: 1, ack: 1},
		"failover, two loops":                  {kind: Failover, loops: 2, gates: 1, records: 1, ack: 1},
		"failover, abort":                      {kind: Failover, loops: 1, gates: 1, records: 1, aborts: 1, ack: 1},
		"failover, ack.sites 2":                {kind: Failover, loops: 1, gates: 1, records: 1, ack: 2},
		"failover, two records":                {kind: Failover, loops: 1, gates: 1, records: 2, ack: 1},
		"switchover, lease deleted":            {kind: Switchover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1},
		"failover, lease deleted, loop anew":   {kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1, starts: 1},
		"switchover, lease deleted, two loops": {kind: Switchover, loops: 2, gates: 1, records: 1, ack: 1, deletes: 1},
		"switchover, writes denied, abort":     {kind: Switchover, loops: 1, gates: 1, records: 1, aborts: 1, ack: 1, denies: true},
		"failover, target goes away":           {kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, fails: 1, quick: true},
		"failover, target is found to hide":    {kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, fails: 1, quick: true, hides: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(variant{}, z)
			broken, states := m.explore(statesMax)
			t.Logf("%d states", states)
			if z.hides && !slices.ContainsFunc(m.shares, func(s Share) bool { return s.State == Open && s.Active == "c" }) {
				t.Error("the failover did not go elsewhere")
			}
			if broken != "" {
				t.Fatal(broken)
			}
		})
	}
}

func TestModelHoldsOnRandomWalks(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Switchover, Failover} {
		for ack := 1; ack <= 2; ack++ {
			for deletes := range int8(3) {
				z := size{kind: kind, loops: 2, gates: 2, records: 5, aborts: 1, ack: ack, deletes: deletes, starts: deletes}
				broken, steps := newModel(variant{}, z).walk(500, 150)
				t.Logf("%s, ack.sites %d, %d leases deleted: %d steps", kind, ack, deletes, steps)
				if broken != "" {
					t.Fatalf("%s, ack.sites %d, %d leases deleted: %s", kind, ack, deletes, broken)
				}
			}
		}
	}
}

// Sites that a failover needs go away and come back, and a person gives it up in between.
func TestModelHoldsWhereSitesComeAndGo(t *testing.T) {
	t.Parallel()
	for ack := 1; ack <= 2; ack++ {
		m := newModel(variant{}, size{kind: Failover, loops: 2, gates: 2, records: 5, aborts: 1, ack: ack, fails: 3, fickle: true})
		broken, steps := m.walk(500, 250)
		t.Logf("ack.sites %d: %d steps", ack, steps)
		if broken != "" {
			t.Fatalf("ack.sites %d: %s", ack, broken)
		}
		if anew := slices.ContainsFunc(m.shares, func(s Share) bool { return s.State == Open && len(s.Gone) > 0 }); ack == 1 && !anew {
			t.Error("no failover that was begun anew came to its end, the test proves nothing")
		}
	}
}

// Each rule that is left out must be found, or the model proves nothing.
func TestModelFindsBrokenVariants(t *testing.T) {
	t.Parallel()
	switchover := size{kind: Switchover, loops: 1, gates: 1, records: 1, ack: 1}
	failover := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1}
	twoLoops := size{kind: Switchover, loops: 2, gates: 1, records: 1, aborts: 1, ack: 1}
	twoRecords := size{kind: Failover, loops: 1, gates: 1, records: 2, ack: 1}
	deleted := size{kind: Switchover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1}
	anew := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1, starts: 1}
	gone := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, fails: 1, quick: true}
	hides := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, fails: 1, quick: true, hides: true}
	for name, c := range map[string]struct {
		variant variant
		size    size
		want    string
	}{
		"no lease wait":                   {variant{noLeaseWait: true}, switchover, "handed out"},
		"no lease wait at a failover":     {variant{noLeaseWait: true}, failover, "A: "},
		"no version check":                {variant{noVersionCheck: true}, twoLoops, "F1: "},
		"range map not awaited":           {variant{mapNotAwaited: true}, twoRecords, "D: "},
		"reserved end raised late":        {variant{reservedLate: true}, failover, "F5: "},
		"inbound flow not stopped":        {variant{flowNotStopped: true}, failover, "C: "},
		"lease not checked before answer": {variant{ackUnchecked: true}, failover, "A: "},
		"lapse of the lease forgotten":    {variant{lapseForgotten: true}, switchover, "A: "},
		"deleted lease is over":           {variant{vanishTrusted: true}, deleted, "handed out"},
		"new loop trusts its first look":  {variant{unseenTrusted: true}, anew, "A: "},
		"begun anew without a fence":      {variant{anewUnfenced: true}, gone, "A: "},
		"nobody named counts as named":    {variant{chosenNamed: true}, hides, "B: "},
	} {
		t.Run(name, func(t *testing.T) {
			broken, states := newModel(c.variant, c.size).explore(statesMax)
			if !strings.Contains(broken, c.want) {
				t.Fatalf("%d states, found %q, want a violation with %q", states, broken, c.want)
			}
			t.Logf("%d states: %s", states, broken)
		})
	}
}
