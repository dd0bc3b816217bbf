package failover

import (
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
	} {
		t.Run(name, func(t *testing.T) {
			broken, states := newModel(variant{}, z).explore(statesMax)
			t.Logf("%d states", states)
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

// Each rule that is left out must be found, or the model proves nothing.
func TestModelFindsBrokenVariants(t *testing.T) {
	t.Parallel()
	switchover := size{kind: Switchover, loops: 1, gates: 1, records: 1, ack: 1}
	failover := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1}
	twoLoops := size{kind: Switchover, loops: 2, gates: 1, records: 1, aborts: 1, ack: 1}
	twoRecords := size{kind: Failover, loops: 1, gates: 1, records: 2, ack: 1}
	deleted := size{kind: Switchover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1}
	anew := size{kind: Failover, loops: 1, gates: 1, records: 1, ack: 1, deletes: 1, starts: 1}
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
