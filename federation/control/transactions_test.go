package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/mirror"
)

// openSite has transactions open; each call to its coordinators takes 60 ms.
type openSite struct {
	broker.Cluster
	mu    sync.Mutex
	open  map[string]string // state by transactional id
	found int               // coordinators that were asked for
}

type openAdmin struct {
	broker.Admin
	*openSite
}

func (s *openSite) Admin() broker.Admin { return openAdmin{openSite: s} }

func (s *openSite) Coordinator(context.Context, broker.CoordinatorKind, string) (int32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found++
	return 0, nil
}

func (a openAdmin) OpenTransactions(context.Context) (open []broker.Transaction, err error) {
	time.Sleep(60 * time.Millisecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, state := range a.open {
		open = append(open, broker.Transaction{TransactionalID: id, State: state})
	}
	return open, nil
}

func (a openAdmin) EndTransaction(_ context.Context, id string) error {
	time.Sleep(60 * time.Millisecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, id)
	return broker.ErrTransactionEnding // as it writes the markers
}

// endingWorld is a driver before a site at which 64 transactions of its group are open, and
// one of another group.
func endingWorld(t *testing.T) (*driver, *openSite) {
	t.Helper()
	site := &openSite{open: map[string]string{"other-1": broker.TransactionOngoing}}
	for n := range 64 {
		site.open[fmt.Sprintf("app-%d", n)] = broker.TransactionOngoing
	}
	group := testGroup([]spillway.SiteID{"east"})
	group.TransactionalIDs = []string{"app-*"}
	topology := spillway.NewTopology("test", "id", []spillway.Site{{ID: "east"}}, []spillway.FailoverGroup{group})
	c, err := New(Config{Topology: topology, Store: coordtest.NewMemory(), Site: "east", Sites: map[spillway.SiteID]Access{"east": {Cluster: site}}})
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(c, group, spillway.ShareID{Group: group.Name})
	d.share = failover.Share{Group: group.Name, State: failover.Fenced, Active: "east"}
	changeRecord(t, d)
	e, err := c.cfg.Store.Get(t.Context(), c.keys.Share(d.id))
	if err != nil {
		t.Fatal(err)
	}
	d.version = e.Version
	return d, site
}

func changeRecord(t *testing.T, d *driver) {
	t.Helper()
	err := d.c.cfg.Store.Txn(t.Context(), []coordination.Op{{Key: d.c.keys.Share(d.id), Value: d.share.Encode(), Version: d.version}})
	if err != nil {
		t.Fatal(err)
	}
}

// Clients are held while transactions are ended: many take no longer than a few.
func TestManyTransactionsAreEndedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, site := endingWorld(t)
		if d.warmTransactions(t.Context()); site.found != 64 {
			t.Errorf("%d coordinators are known", site.found)
		}
		begun := time.Now()
		if err := d.endTransactions(t.Context(), "east"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("clients were held for %v", took)
		}
		if len(site.open) != 1 || site.open["other-1"] == "" {
			t.Errorf("open are %v", site.open)
		}
	})
}

// What is decided is waited for, and not ended.
func TestATransactionThatIsCommittedIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, site := endingWorld(t)
		site.open = map[string]string{"app-1": broker.TransactionCommitting}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.endTransactions(ctx, "east"); !errors.Is(err, context.DeadlineExceeded) || len(site.open) != 1 {
			t.Errorf("%v; open are %v", err, site.open)
		}
	})
}

// A switchover leaves a transaction of others open, and would hold clients until it is given
// up: it does not begin, by what the mirror says, and says who has it open.
func TestNoSwitchoverBeginsBehindATransactionOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, site := endingWorld(t)
		if err := d.endTransactions(t.Context(), "east"); err != nil || site.open["other-1"] == "" {
			t.Fatalf("%v; open are %v", err, site.open)
		}
		share := failover.Share{Group: d.group.Name, Epoch: 3, State: failover.Stable, Active: "east"}
		limits := failover.Limits{Group: d.group}
		limits.Group.Sites, limits.Group.GroupDrain = []spillway.SiteID{"east", "west"}, 3*time.Second
		begin := func(flow mirror.FlowInfo) (failover.Share, error) {
			flow.Share, flow.Epoch, flow.Source = share.ID(), 3, "east"
			at := failover.Following{Epoch: 3}
			lateness(&at, share, []mirror.FlowInfo{flow})
			view := failover.View{Sites: map[spillway.SiteID]failover.SiteView{"east": {Mirror: true}, "west": {Mirror: true, Following: &at}}}
			return failover.Begin(share, failover.Request{Kind: failover.Switchover, Target: "west", Who: "ann"}, view, limits)
		}
		if next, err := begin(mirror.FlowInfo{HeldBack: time.Second, HeldBackBy: "orders-0: other-1"}); err != nil || next.State != failover.Draining {
			t.Errorf("behind one that is young: %s, %v", next.State, err)
		}
		for name, flow := range map[string]mirror.FlowInfo{
			"old":   {HeldBack: 6 * time.Second, HeldBackBy: "orders-0: other-1"},
			"hangs": {HeldBack: time.Second, HeldBackBy: "orders-0: other-1", Hanging: map[spillway.TopicPartition]string{{Topic: "orders"}: "other-1"}},
		} {
			if _, err := begin(flow); !errors.Is(err, failover.ErrBehind) || !strings.Contains(err.Error(), "orders-0: other-1") {
				t.Errorf("behind one that is %s: %v", name, err)
			}
		}
	})
}

// A plan reckons with what transactions hold back, and says whose they are.
func TestAPlanTellsOfWhatTransactionsHoldBack(t *testing.T) {
	t.Parallel()
	view := failover.View{Sites: map[spillway.SiteID]failover.SiteView{"east": {}, "west": {Following: &failover.Following{HeldBackSeconds: 4, HeldBackBy: "orders-0: other-1"}}}}
	next := failover.Share{Kind: failover.Switchover, Active: "east", Target: "west"}
	var before, p Plan
	before.expect(nil, next, failover.View{}, time.Millisecond)
	p.expect(nil, next, view, time.Millisecond)
	p.explain(spillway.FailoverGroup{}, next, next, view)
	if p.PauseMillis != before.PauseMillis+4000 || !slices.ContainsFunc(p.Effects, func(e string) bool {
		return strings.HasPrefix(e, "west lacks what an open transaction has held back for 4.0 s") && strings.Contains(e, "orders-0: other-1")
	}) {
		t.Errorf("%d ms, %d without; %q", p.PauseMillis, before.PauseMillis, p.Effects)
	}
}

// A loop that does not know yet that its move is over leaves transactions alone: they are
// those of the epoch after, whose producers would be refused for good.
func TestALoopThatIsBehindEndsNoTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, site := endingWorld(t)
		d.share.Epoch++
		changeRecord(t, d)
		if err := d.endTransactions(t.Context(), "east"); !errors.Is(err, errNewerRecord) {
			t.Error(err)
		}
		if len(site.open) != 65 {
			t.Errorf("%d are open", len(site.open))
		}
	})
}
