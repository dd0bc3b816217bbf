package failover

import (
	"reflect"
	"testing"
)

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
	old := lead.Beside(carries(Following{Epoch: 3, Source: "east", GroupSeconds: 12, GroupBehind: "group b", Partitions: 4}),
		carries(Following{Epoch: 3, Source: "east", GroupSeconds: 70, GroupBehind: "group a", Partitions: 4})).Following["shop/0"]
	if text := old.GroupsLate(); text != "positions of consumer groups have not been carried for 1m10s: group a" {
		t.Errorf("%q", text)
	}
	if text := (Following{GroupSeconds: 9.9, GroupBehind: "group a"}).GroupsLate(); text != "" {
		t.Errorf("%q", text)
	}
	held := lead.Beside(carries(Following{Epoch: 3, Source: "east", HeldBackSeconds: 6, HeldBackBy: "a-1", Hanging: 2, Partitions: 4}),
		carries(Following{Epoch: 3, Source: "east", HeldBackSeconds: 2, HeldBackBy: "a-2", Hanging: 1, Partitions: 4})).Following["shop/0"]
	if held.HeldBackSeconds != 6 || held.HeldBackBy != "a-1" || held.Hanging != 3 {
		t.Errorf("transactions that hold back what others carry: %+v", held)
	}
	if lead.Following["shop/0"].CatchingUp {
		t.Error("what a process said was changed")
	}
}

// A site is behind by what any of its mirror processes is, and as far as what others have
// is in nobody's word, it is catching up.
func TestWhatMirrorProcessesSayTogether(t *testing.T) {
	t.Parallel()
	leads := func(elsewhere int) MirrorLease {
		return MirrorLease{Site: "west", Worker: "1", Following: map[string]Following{"orders/0": {Epoch: 4, Source: "east", EndSum: 900, Partitions: 12, Elsewhere: elsewhere, LagSeconds: 0.5}}}
	}
	carries := func(f Following) MirrorLease {
		f.Epoch, f.Source = 4+f.Epoch, "east"
		return MirrorLease{Site: "west", Worker: "2", Waits: true, Carries: map[string]Following{"orders/0": f}}
	}
	there := carries(Following{Partitions: 5, LagSeconds: 3})
	there.Site = "north"
	for _, c := range []struct {
		name       string
		elsewhere  int
		others     []MirrorLease
		lag        float64
		catchingUp bool
	}{
		{"alone", 0, nil, 0.5, false},
		{"all is told of", 7, []MirrorLease{carries(Following{Partitions: 4, LagSeconds: 0.25}), carries(Following{Partitions: 3, LagSeconds: 2})}, 2, false},
		{"one is catching up", 5, []MirrorLease{carries(Following{Partitions: 5, CatchingUp: true})}, 0.5, true},
		{"one carries nothing, and says that it never had all", 5, []MirrorLease{carries(Following{Partitions: 5}), carries(Following{CatchingUp: true, LagSeconds: 9})}, 0.5, false},
		{"one is not heard", 7, []MirrorLease{carries(Following{Partitions: 4})}, 0.5, true},
		{"nobody is heard", 1, nil, 0.5, true},
		{"it is of an older epoch", 5, []MirrorLease{carries(Following{Epoch: -1, Partitions: 5})}, 0.5, true},
		{"it is at another site", 5, []MirrorLease{there}, 0.5, true},
	} {
		first := leads(c.elsewhere)
		f := first.Beside(append([]MirrorLease{first}, c.others...)...).Following["orders/0"]
		if f.LagSeconds != c.lag || f.CatchingUp != c.catchingUp || f.EndSum != 900 || f.Partitions != 12 {
			t.Errorf("%s: %+v", c.name, f)
		}
		if !reflect.DeepEqual(first, leads(c.elsewhere)) {
			t.Errorf("%s: what was said is changed", c.name)
		}
	}
	waits := MirrorLease{Site: "west", Waits: true}
	if got := waits.Beside(leads(0)); len(got.Following) != 0 {
		t.Errorf("one that waits: %+v", got)
	}
}
