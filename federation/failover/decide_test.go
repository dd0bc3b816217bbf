package failover

import (
	"testing"

	"spillway"
)

// What is known already is passed in one write, and is in the history all the same;
// what is not known stops there.
func TestDecidePassesWhatIsKnown(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s, err := Begin(stable(), Request{Kind: Switchover, Target: "west", Who: "ann"}, v, l)
	if err != nil {
		t.Fatal(err)
	}
	if next, _, written := Decide(s, v, l); next.State != Fenced || !written {
		t.Fatalf("%s, written %v: the record must say FENCED before anything is denied", next.State, written)
	}
	v.Fence = "lease-only" // nothing ever is
	next, actions, written := Decide(s, v, l)
	if next.State != Fenced || written || len(actions) != 1 {
		t.Fatalf("%s, written %v: %+v", next.State, written, actions)
	}
	v.LogEnds = PartitionOffsets{"t": {10}}
	next, _, written = Decide(next, v, l)
	if next.State != Cutover || !written || len(next.Passages) != 3 {
		t.Fatalf("%s, written %v: %+v", next.State, written, next.Passages)
	}
	report := func(site spillway.SiteID, r SiteReport) {
		sv := v.Sites[site]
		sv.Report = &r
		v.Sites[site] = sv
	}
	report("west", SiteReport{Stopped: true, GroupsCopied: true, Opened: true, Ends: PartitionOffsets{"t": {10}}, MapPosition: 7})
	report("east", SiteReport{Armed: true})
	if same, why, _ := Decide(next, v, l); same.State != Cutover || why[0].Why != "west has everything, north arm their flow from it" {
		t.Fatalf("%s, %+v", same.State, why)
	}
	v.InState = armEarly // north is far behind: it must not catch up from east first
	if late, _, written := Decide(next, v, l); late.State != CaughtUp || !written {
		t.Fatalf("%s", late.State)
	}
	v.InState = 0
	report("north", SiteReport{Armed: true})
	open, _, written := Decide(next, v, l)
	if open.State != Open || !written || open.Active != "west" || open.MapPosition["west"] != 7 || len(open.Passages) != 5 {
		t.Fatalf("%s, %+v", open.State, open.Passages)
	}
	report("west", SiteReport{Stopped: true, GroupsCopied: true, Ends: PartitionOffsets{"t": {10}}})
	if half, _, _ := Decide(next, v, l); half.State != CaughtUp {
		t.Fatalf("%s before the epoch is in the map of west", half.State)
	}
}
