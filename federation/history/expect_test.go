package history

import (
	"strings"
	"testing"
	"time"

	"spillway/federation/failover"
)

// took is a move that needed so long to be fenced, and then to open.
func took(kind failover.Kind, fence, open int, leftOut string) Record {
	return Record{Kind: kind, Gateways: []failover.WaitGateway{{ID: "gw", LeftOut: leftOut}}, Passages: []failover.Passage{
		{State: failover.Fencing, At: after(0)}, {State: failover.Fenced, At: after(fence)}, {State: failover.Open, At: after(fence + open)},
	}}
}

func TestExpect(t *testing.T) {
	given := Record{Kind: failover.Switchover, Passages: []failover.Passage{{State: failover.Fencing, At: after(0)}, {State: failover.Stable, At: after(7000)}}}
	switchovers := []Record{took(failover.Switchover, 40, 60, ""), given, took(failover.Switchover, 900, 800, ""), took(failover.Switchover, 50, 70, "")}
	long := took(failover.Switchover, 50, 70, "")
	long.Passages = append([]failover.Passage{{State: failover.Draining, At: long.Passages[0].At.Add(-2 * time.Second)}}, long.Passages...)
	drained := []Record{long}
	silent := took(failover.Failover, 5000, 300, "its lease ran out")
	heard := took(failover.Failover, 100, 200, "")
	ms := time.Millisecond
	for name, c := range map[string]struct {
		earlier []Record
		now     Conditions
		pause   time.Duration
		why     string // a part of it
		unknown bool
	}{
		"a move that was given up does not count": {switchovers, Conditions{Kind: failover.Switchover}, 120 * ms, "median of the last 3 switchovers", false},
		"what the target lacks comes to it":       {switchovers, Conditions{Kind: failover.Switchover, Behind: 500 * ms}, 620 * ms, "500ms for what the target lacks", false},
		"it is carried while groups drain":        {drained, Conditions{Kind: failover.Switchover, Behind: 2500 * ms}, 620 * ms, "500ms for what the target lacks when groups have drained", false},
		"and may be there by then":                {drained, Conditions{Kind: failover.Switchover, Behind: 1900 * ms}, 120 * ms, "as the last switchover", false},
		"failovers tell nothing of switchovers":   {[]Record{heard}, Conditions{Kind: failover.Switchover}, 0, "no earlier move", true},
		"the store tells of the first one":        {nil, Conditions{Kind: failover.Switchover, Answer: 5 * ms}, 60 * ms, "12 answers of the coordinator store, 5ms each", false},
		"all gateways are heard":                  {[]Record{silent, heard}, Conditions{Kind: failover.Failover}, 300 * ms, "as the last failover", false},
		"leases were waited for then, not now":    {append(switchovers, silent), Conditions{Kind: failover.Failover}, 120 * ms, "switchovers", false},
		"leases are waited for":                   {[]Record{silent, heard}, Conditions{Kind: failover.Failover, Leases: 2 * time.Second}, 2300 * ms, "after 2s for the leases", false},
		"leases may be waited for":                {[]Record{silent, heard}, Conditions{Kind: failover.Failover, LeasesMost: 5 * time.Second}, 300 * ms, "and before it up to 5s for the leases", false},
		"leases are waited for, the first time":   {nil, Conditions{Kind: failover.Failover, Leases: 2 * time.Second}, 2 * time.Second, "no earlier move", true},
	} {
		pause, why, known := Expect(c.earlier, c.now)
		if pause != c.pause || known == c.unknown || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, %q, %v", name, pause, why, known)
		}
	}
	many := switchovers
	for range EarlierMax {
		many = append(many, took(failover.Switchover, 1, 1, ""))
	}
	if pause, _, _ := Expect(many, Conditions{Kind: failover.Switchover}); pause != 2*ms {
		t.Errorf("moves of long ago count: %v", pause)
	}
}

func TestReread(t *testing.T) {
	late := planned()
	late.Undrained = aborted().Undrained
	notDrained := planned()
	notDrained.Passages = notDrained.Passages[1:]
	early := aborted()
	early.Passages, early.Undrained = early.Passages[:1], nil
	for want, r := range map[string]Record{
		"nothing": planned(), "members at east-1 did not pause in time: up to one commit interval of each": late,
		"not measured; at most one commit interval of each consumer group whose position the target had": notDrained,
	} {
		if got := r.Reread(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got := lossy().Reread(); got != "not measured; at most one commit interval of each consumer group whose position the target had" {
		t.Errorf("a failover: %q", got)
	}
	if got := early.Reread(); got != "nothing" {
		t.Errorf("given up while groups drained: %q", got)
	}
}

func TestStepsTellHowLongEachStateLasted(t *testing.T) {
	steps := planned().Steps()
	if len(steps) != 7 || steps[0].Took != 700*time.Millisecond || steps[3].Took != 66*time.Millisecond || steps[6].Took != 0 {
		t.Errorf("%+v", steps)
	}
}
