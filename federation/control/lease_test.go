package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// The source of all shares goes away, and each says so at length, with each broker that
// was tried: the store takes the lease, and every share still has its problem.
func TestALeaseOfManySharesWithProblems(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("site east at 10.0.0.1:9092: connect to 10.0.0.1:9092: dial tcp: ünreachable; ", 20)
	names := strings.Split(strings.Repeat("a.rather.long.name.of.a.topic,", 200), ",")
	hiding := map[string]string{}
	for i := range hidingMax {
		hiding[fmt.Sprintf("a.rather.long.name.of.a.topic-%03d", i)] = "unreplicated in 12 partitions, late in 3 partitions"
	}
	for _, shares := range []int{1, 600, 1200} {
		said := map[string]failover.Following{}
		for i := range shares {
			said[fmt.Sprintf("failover-group-%04d/0", i)] = failover.Following{Epoch: 17, Source: "east", EndSum: 9_000_000_000, Partitions: 100, LagSeconds: 0.123, CatchingUp: true,
				Problem: long, SourceProblem: long, HeldBackBy: long, OnlyHere: names, Compacted: names, Hiding: hiding}
		}
		for what, lease := range map[string]failover.MirrorLease{"leads": {Site: "west", Following: said}, "waits": {Site: "west", Waits: true, Carries: said}} {
			value := encodeLease(lease)
			if err := coordination.CheckOps([]coordination.Op{{Key: "mirrors/west/1", Value: value}}); err != nil {
				t.Errorf("%d shares: %v", shares, err)
			}
			var back failover.MirrorLease
			if err := json.Unmarshal(value, &back); err != nil {
				t.Fatal(err)
			}
			told := back.Following
			if what == "waits" {
				told = back.Carries
			}
			if len(told) != shares {
				t.Errorf("%d of %d shares", len(told), shares)
			}
			for share, f := range told {
				if f.Problem == "" || f.SourceProblem == "" || f.HeldBackBy == "" || len(f.Compacted)+f.CompactedMore != len(names) || f.Hiding != nil && len(f.Hiding)+f.HidingMore != hidingMax || len(f.OnlyHere) == 0 || f.EndSum != 9_000_000_000 || f.Epoch != 17 {
					t.Fatalf("%s: %+v", share, f)
				}
				if shares == 1 && (len(f.SourceProblem) != len(long) || len(f.Compacted) != len(names)) {
					t.Errorf("%d bytes of a problem, %d topics are left", len(f.SourceProblem), len(f.Compacted))
				}
			}
			t.Logf("%d shares that a process has which %s: %d bytes", shares, what, len(value))
		}
	}
	if whole := said(long); len(whole.SourceProblem) != len(long) {
		t.Error("what the process knows was shortened")
	}
}

// said encodes a lease and gives back what it was made of.
func said(problem string) failover.Following {
	following := map[string]failover.Following{"orders/0": {SourceProblem: problem}}
	encodeLease(failover.MirrorLease{Following: following})
	return following["orders/0"]
}

// Where a lease has no room for all names it says how many there are more, and how many more
// groups fail; where it has no room for sentences, that there is a problem.
func TestWhatIsCutFromALeaseIsCounted(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("topic-%03d", i))
	}
	long := strings.Repeat("the broker does not answer; ", 40)
	f := failover.Following{Problem: long, GroupBehind: "group app: " + long + " (17 more fail)", OnlyHere: names, Compacted: names[:2]}
	short := clipped(map[string]failover.Following{"orders/0": f}, leaseClips[0])["orders/0"]
	if len(short.OnlyHere) != 11 || short.OnlyHere[10] != "and 290 more" || !slices.Equal(short.Compacted, names[:2]) {
		t.Errorf("%q, %q", short.OnlyHere, short.Compacted)
	}
	if !strings.HasPrefix(short.GroupBehind, "group app: ") || !strings.HasSuffix(short.GroupBehind, " (17 more fail)") || len(short.GroupBehind) > 230 {
		t.Errorf("%q", short.GroupBehind)
	}
	least := clipped(map[string]failover.Following{"orders/0": f}, leaseClips[len(leaseClips)-1])["orders/0"]
	if least.Problem != "t…" || least.SourceProblem != "" || least.GroupBehind == "" || !slices.Equal(least.OnlyHere, []string{"300 topics"}) || len(least.Compacted) > 0 || least.CompactedMore != 2 || least.Hiding != nil {
		t.Errorf("%+v", least)
	}
	said := map[string]failover.Following{}
	for i := range 1500 {
		said[fmt.Sprintf("failover-group-%04d/0", i)] = failover.Following{Epoch: 17, Source: "east", EndSum: 9_000_000_000, Partitions: 100, LagSeconds: 0.123, CatchingUp: true,
			Problem: long, SourceProblem: long, HeldBackBy: long, GroupBehind: long, OnlyHere: names, Compacted: names, Hiding: map[string]string{names[0]: long}}
	}
	value := encodeLease(failover.MirrorLease{Site: "west", Following: said})
	if err := coordination.CheckOps([]coordination.Op{{Key: "mirrors/west/1", Value: value}, {Key: "other", Value: []byte("x")}}); err != nil {
		t.Error(err)
	}
	t.Logf("%d bytes", len(value))
}

// A lease that has no room for the names of compacted topics, or of those that hide records,
// makes no site fit that is not: of what is not named the worst counts (C11).
func TestACutLeaseMakesNoSiteFit(t *testing.T) {
	t.Parallel()
	var names []string
	hiding := map[string]string{}
	for i := range 30 {
		names = append(names, fmt.Sprintf("topic-%03d", i))
	}
	hiding["topic-029"] = "unreplicated in partition 0"
	group := spillway.FailoverGroup{Name: "orders", Sites: []spillway.SiteID{"east", "west", "north"}}
	for name, c := range map[string]struct {
		west, north failover.Following
		unfit       bool
	}{
		"it hides one of many":             {failover.Following{Compacted: names, Hiding: hiding}, failover.Following{}, true},
		"it hides one that north compacts": {failover.Following{Hiding: hiding}, failover.Following{Compacted: names}, true},
		"it hides nothing":                 {failover.Following{Compacted: names, Hiding: map[string]string{}}, failover.Following{Compacted: names}, false},
		"it has not said":                  {failover.Following{Compacted: names}, failover.Following{}, true},
		"it has not said, north compacts":  {failover.Following{}, failover.Following{Compacted: names}, true},
		"nothing is compacted":             {failover.Following{Hiding: hiding}, failover.Following{}, false},
	} {
		for cut := range len(leaseClips) + 1 {
			said := map[string]failover.Following{"west": c.west, "north": c.north}
			if cut < len(leaseClips) {
				said = clipped(said, leaseClips[cut])
			}
			view := failover.View{Sites: map[spillway.SiteID]failover.SiteView{}}
			for site, f := range said {
				view.Sites[spillway.SiteID(site)] = failover.SiteView{Following: &f}
			}
			if why := failover.Unfit("west", view, group); (why != "") != c.unfit {
				t.Errorf("%s, cut %d: %q", name, cut, why)
			}
		}
	}
}
