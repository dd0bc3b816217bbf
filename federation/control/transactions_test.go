package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
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
