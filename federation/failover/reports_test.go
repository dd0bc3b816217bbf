package failover

import "testing"

// A site is as late as the latest of its mirror processes, as far as they carry the same.
func TestASiteIsAsLateAsItsLatestProcess(t *testing.T) {
	t.Parallel()
	lead := MirrorLease{Site: "west", Worker: "a", Following: map[string]Following{"shop/0": {Epoch: 3, Source: "east", Partitions: 8, EndSum: 90, LagSeconds: 0.5}}}
	carries := func(f Following) MirrorLease {
		return MirrorLease{Site: "west", Worker: "b", Waits: true, Carries: map[string]Following{"shop/0": f, "other/0": f}}
	}
	late := carries(Following{Epoch: 3, Source: "east", Partitions: 4, EndSum: 7, LagSeconds: 9, CatchingUp: true})
	elsewhere := late
	elsewhere.Site = "north"
	for name, c := range map[string]struct {
		other MirrorLease
		late  bool
	}{
		"behind":          {late, true},
		"of another site": {elsewhere, false},
		"of an old epoch": {carries(Following{Epoch: 2, Source: "east", LagSeconds: 9, CatchingUp: true}), false},
		"from elsewhere":  {carries(Following{Epoch: 3, Source: "north", LagSeconds: 9, CatchingUp: true}), false},
		"leads itself":    {MirrorLease{Site: "west", Carries: late.Carries}, false},
	} {
		got := lead.Beside(c.other).Following
		want := Following{Epoch: 3, Source: "east", Partitions: 8, EndSum: 90, LagSeconds: 0.5}
		if c.late {
			want.LagSeconds, want.CatchingUp = 9, true
		}
		if f := got["shop/0"]; len(got) != 1 || f.LagSeconds != want.LagSeconds || f.CatchingUp != want.CatchingUp || f.EndSum != want.EndSum || f.Partitions != want.Partitions {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if lead.Following["shop/0"].CatchingUp {
		t.Error("what a process said was changed")
	}
}
