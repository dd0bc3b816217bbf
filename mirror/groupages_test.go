package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// A group that may not be read is told of by the flow, with its name and since when; the
// others are carried, and when it may be read again all is well.
func TestAGroupThatIsNotCarriedIsTold(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	site := embeddedSite(t, "east", map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	for _, group := range []string{"app", "app-2"} {
		if err := site.Admin().CommitGroupOffsets(ctx, group, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 1, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	east := &deniedGroup{Cluster: site}
	east.deny("app")
	west := embeddedSite(t, "west", nil)
	small(t, site.Addresses(), 5)
	assign(t, testMirror(t, site), ordersAssignment("", 1))
	westM := testMirror(t, west, east)
	assign(t, westM, ordersAssignment("east", 1))
	info := func() FlowInfo {
		for _, f := range westM.Flows() {
			if f.Source == "east" {
				return f
			}
		}
		return FlowInfo{}
	}
	eventually(t, "the group is told of", func() bool { return info().GroupsBehind == 1 })
	begun := info()
	if !strings.Contains(begun.GroupBehind, "group app: ") || !strings.Contains(begun.GroupBehind, errDenied.Error()) || begun.GroupAge <= 0 {
		t.Errorf("%s %q", begun.GroupAge, begun.GroupBehind)
	}
	eventually(t, "the other one is carried", func() bool {
		offsets, err := west.Admin().FetchGroupOffsets(ctx, "app-2")
		return err == nil && len(offsets) == 1
	})
	eventually(t, "its age grows", func() bool { return info().GroupAge > begun.GroupAge+200*time.Millisecond })
	east.deny("")
	eventually(t, "all are carried", func() bool { f := info(); return f.GroupAge == 0 && f.GroupBehind == "" && f.GroupsBehind == 0 })
}

// deniedGroup is a site at which one group may not be read.
type deniedGroup struct {
	broker.Cluster
	mu     sync.Mutex
	denied string
}

var errDenied = errors.New("not authorized")

func (d *deniedGroup) deny(group string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.denied = group
}

type deniedAdmin struct {
	broker.Admin
	site *deniedGroup
}

func (d *deniedGroup) Admin() broker.Admin { return deniedAdmin{d.Cluster.Admin(), d} }

func (a deniedAdmin) FetchGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	a.site.mu.Lock()
	denied := a.site.denied == group
	a.site.mu.Unlock()
	if denied {
		return nil, errDenied
	}
	return a.Admin.FetchGroupOffsets(ctx, group)
}

// The oldest of those that fail counts, and what is not listed for a while is not well.
func TestTheAgeOfGroups(t *testing.T) {
	t.Parallel()
	var g groupAges
	at := time.Unix(1_000_000, 0)
	fails, groups := errors.New("fails"), []broker.GroupListing{{ID: "a"}, {ID: "b"}}
	look := func(after time.Duration, age time.Duration, what string, groups int) {
		t.Helper()
		if a, w, n := g.oldest(at.Add(after)); a != age || w != what || n != groups {
			t.Errorf("after %s: %s, %q, %d; want %s, %q, %d", after, a, w, n, age, what, groups)
		}
	}
	look(0, 0, "", 0)
	g.took(at, "b", nil)
	g.took(at, "a", fails)
	g.listed(at, groups, nil)
	look(5*time.Second, 5*time.Second, "group a: fails", 1)
	g.took(at.Add(10*time.Second), "a", fails)
	look(15*time.Second, 15*time.Second, "group a: fails", 1)
	g.took(at.Add(10*time.Second), "b", fails) // it was carried last at the beginning
	look(20*time.Second, 20*time.Second, "group a: fails (1 more fail)", 2)
	g.listed(at.Add(10*time.Second), groups, nil)
	g.took(at.Add(25*time.Second), "a", nil)
	look(30*time.Second, 30*time.Second, "group b: fails", 1)
	g.took(at.Add(25*time.Second), "a", fails)
	look(30*time.Second, 30*time.Second, "group b: fails (1 more fail)", 2)
	// A broker does not list its groups: b is carried, a may be one of them.
	g.took(at.Add(30*time.Second), "b", nil)
	g.listed(at.Add(30*time.Second), groups[1:], errors.New("broker 2 hangs"))
	look(40*time.Second, 15*time.Second, "group a: fails (1 more fail)", 2)
	g.took(at.Add(50*time.Second), "a", nil)
	g.listed(at.Add(50*time.Second), groups, errors.New("broker 2 hangs"))
	look(60*time.Second, 30*time.Second, "broker 2 hangs", 1)
	g.listed(at.Add(70*time.Second), groups, nil)
	look(80*time.Second, 0, "", 0)
	// The source is away for an hour: nobody commits, and that time does not count.
	g.took(at.Add(80*time.Second), "a", nil)
	g.took(at.Add(80*time.Second), "b", fails)
	g.away(at.Add(115 * time.Second))
	g.away(at.Add(200 * time.Second))
	look(time.Hour, 85*time.Second, "group b: fails", 1)
	g.back(at.Add(115*time.Second + time.Hour))
	g.took(at.Add(116*time.Second+time.Hour), "a", fails)
	look(120*time.Second+time.Hour, 90*time.Second, "group b: fails (1 more fail)", 2)
	g.took(at.Add(120*time.Second+time.Hour), "b", nil)
	look(120*time.Second+time.Hour, 40*time.Second, "group a: fails", 1)
	g.listed(at.Add(120*time.Second+time.Hour), groups[1:], nil)
	look(120*time.Second+time.Hour, 0, "", 0)
	if len(g.last) != 1 {
		t.Errorf("groups that are gone are kept: %v", g.last)
	}
}

func TestGroupsThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	carried := map[string]carriedGroup{}
	for i := range 100 {
		carried[fmt.Sprint("console-consumer-", i)] = carriedGroup{}
	}
	forgetGone(carried, []broker.GroupListing{{ID: "console-consumer-7"}, {ID: "new"}, {ID: "console-consumer-8"}})
	if _, seven := carried["console-consumer-7"]; len(carried) != 2 || !seven {
		t.Errorf("%v", carried)
	}
}

// Nothing is kept of groups that nobody is about.
func TestTurnsForgetWhoIsGone(t *testing.T) {
	t.Parallel()
	var turns copyTurns
	var wg sync.WaitGroup
	var mu sync.Mutex
	at := map[string]int{}
	for i := range 200 {
		name := fmt.Sprint("console-consumer-", i%40)
		wg.Go(func() {
			leave, err := turns.enter(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			defer leave()
			mu.Lock()
			at[name]++
			if at[name] > 1 {
				t.Errorf("two at %s", name)
			}
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			at[name]--
			mu.Unlock()
		})
	}
	wg.Wait()
	leave, err := turns.enter(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.enter(gone, "app"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	leave()
	if len(turns.queue) != 0 {
		t.Errorf("%d names are kept", len(turns.queue))
	}
}

// Partitions of a site are told apart from those that are gone in a moment, however many
// there are.
func TestManyPartitionsAreKept(t *testing.T) {
	t.Parallel()
	const many = 200_000
	ends, here := map[spillway.TopicPartition]spillway.Offset{}, []spillway.TopicPartition(nil)
	for i := range many {
		tp := spillway.TopicPartition{Topic: fmt.Sprint("orders-", i)}
		if ends[tp] = 1; i%1000 > 0 {
			here = append(here, tp)
		}
	}
	begun := time.Now()
	keepOnly(ends, here)
	if took := time.Since(begun); took > 5*time.Second || len(ends) != len(here) {
		t.Errorf("%d of %d, in %s", len(ends), len(here), took)
	}
}

// The same entry of the gap log is written once, and again when it says something else.
func TestAGapIsLoggedOnce(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := testMirror(t, embeddedSite(t, "east", nil))
	said := func(detail string) int64 {
		t.Helper()
		if err := m.LogGap(ctx, maptopic.Gap{ID: "degrade-1", Kind: maptopic.GapDegrade, Detail: detail}); err != nil {
			t.Fatal(err)
		}
		if err := m.readMap(ctx); err != nil {
			t.Fatal(err)
		}
		if g, ok := m.reader.Gap("degrade-1"); !ok || g.Detail != detail {
			t.Errorf("%+v, %v", g, ok)
		}
		return m.reader.Position()
	}
	first := said("west is down")
	if again := said("west is down"); again != first {
		t.Errorf("written twice: %d, %d", first, again)
	}
	if other := said("west is back"); other == first {
		t.Error("what has changed is not written")
	}
	if gaps := m.reader.Gaps(); len(gaps) != 1 {
		t.Errorf("%+v", gaps)
	}
}

// The source goes away: nobody commits there, so its groups do not grow old.
func TestASiteThatIsAwayMakesNoGroupOld(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	site := embeddedSite(t, "east", map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := site.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 1, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	east := &unlistedGroups{Cluster: site}
	west := embeddedSite(t, "west", nil)
	small(t, site.Addresses(), 5)
	assign(t, testMirror(t, site), ordersAssignment("", 1))
	westM := testMirror(t, west, east)
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "the group is carried", func() bool {
		offsets, err := west.Admin().FetchGroupOffsets(ctx, "app")
		return err == nil && len(offsets) == 1
	})
	asked := east.silence(broker.ErrAllUnreachable)
	eventually(t, "it is asked again and again", func() bool { return east.asked.Load() > asked+5 })
	for _, f := range westM.Flows() {
		if f.GroupAge > 0 || f.GroupsBehind > 0 {
			t.Errorf("%s from %s: %s, %q", f.Share, f.Source, f.GroupAge, f.GroupBehind)
		}
	}
	east.silence(errDenied) // some answer, and do not list theirs
	eventually(t, "what is not listed is told of", func() bool {
		return slices.ContainsFunc(westM.Flows(), func(f FlowInfo) bool { return f.GroupAge > 0 })
	})
}

// unlistedGroups is a site that lists no groups.
type unlistedGroups struct {
	broker.Cluster
	asked atomic.Int64
	fault atomic.Pointer[error]
}

func (s *unlistedGroups) silence(fault error) (asked int64) {
	s.fault.Store(&fault)
	return s.asked.Load()
}

type unlistedAdmin struct {
	broker.Admin
	site *unlistedGroups
}

func (s *unlistedGroups) Admin() broker.Admin { return unlistedAdmin{s.Cluster.Admin(), s} }

func (a unlistedAdmin) ListGroups(ctx context.Context) ([]broker.GroupListing, error) {
	a.site.asked.Add(1)
	if fault := a.site.fault.Load(); fault != nil {
		return nil, *fault
	}
	return a.Admin.ListGroups(ctx)
}

// A coordinator of the target that hangs has many groups: the others are carried all the
// same, those that hang take less time once that is known, and are told of as they fail.
func TestGroupsThatHangStarveNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hang = 320
		g := &groupAges{}
		var groups []broker.GroupListing
		for i := range hang + 20 {
			groups = append(groups, broker.GroupListing{ID: fmt.Sprint("group-", i)})
		}
		hangs := func(group string) bool {
			n, err := strconv.Atoi(strings.TrimPrefix(group, "group-"))
			return err == nil && n < hang
		}
		well := 0
		round := func() (carried, took time.Duration) {
			began := time.Now()
			well = 0
			var mu sync.Mutex
			g.carry(t.Context(), time.Now, groups, Assignment{ConsumerGroups: []string{"group-*"}}, func(ctx context.Context, group string) error {
				if hangs(group) {
					<-ctx.Done()
					return ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				well++
				carried = max(carried, time.Since(began))
				return nil
			})
			return carried, time.Since(began)
		}
		_, first := round()
		if first > 10*time.Second+hang/groupsAtOnce*time.Second {
			t.Errorf("the first round took %s", first)
		}
		if carried, _ := round(); carried > 0 || well != 20 {
			t.Errorf("in the second %d of 20 others were carried, after up to %s", well, carried)
		}
		g = &groupAges{}
		go round()
		time.Sleep(groupMax + time.Second/2)
		synctest.Wait()
		if _, _, n := g.oldest(time.Now()); n == 0 || n == hang {
			t.Errorf("%d are told of while others take their time", n)
		}
		time.Sleep(time.Minute)
	})
}
