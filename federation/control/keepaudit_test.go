package control

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// askedStore remembers what it was asked for.
type askedStore struct {
	coordination.Store
	listed  []string
	changed int
}

func (s *askedStore) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	s.listed = append(s.listed, prefix)
	return s.Store.List(ctx, prefix)
}

func (s *askedStore) Txn(ctx context.Context, ops []coordination.Op) error {
	s.changed++
	return s.Store.Txn(ctx, ops)
}

// The loops keep the newest of what clients have written into the audit log, and do not read
// what people did for it. People are shown both.
func TestAuditOfClientsIsPruned(t *testing.T) {
	t.Parallel()
	const beyond = 100 // more than one transaction of the store takes
	store := &askedStore{Store: coordtest.NewMemory()}
	c := &Control{keys: "test", cfg: Config{Store: store}}
	operator := &Operator{keys: "test", store: store}
	put := func(key string, value []byte) {
		t.Helper()
		if _, err := store.Put(within(t), key, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now().Add(-2 * time.Hour)
	for i := range 2 * beyond {
		value, err := json.Marshal(failover.AuditEntry{At: at.Add(time.Duration(i) * time.Minute), Who: "ann", What: "switchover"})
		if err != nil {
			t.Fatal(err)
		}
		put(c.keys.Audit(at.Add(time.Duration(i)*time.Minute), "ann"), value)
	}
	if err := c.pruneAudit(within(t)); err != nil || len(store.listed) != 1 || store.listed[0] != c.keys.ClientAudits() || store.changed > 0 {
		t.Errorf("without any of clients: %v, %v, %d changes", err, store.listed, store.changed)
	}
	for i := range failover.ClientAuditsMax + beyond {
		then := at.Add(time.Duration(i) * time.Millisecond)
		put(c.keys.ClientAudit(then, "client"), failover.ClientAudit(then, "client", fmt.Sprint(i), ""))
	}
	if err := c.pruneAudit(within(t)); err != nil {
		t.Fatal(err)
	}
	log, err := operator.Audit(within(t))
	if err != nil || len(log) != failover.ClientAuditsMax+2*beyond || log[0].Who != "ann" || log[1].What != fmt.Sprint(beyond) || !log[1].Client || log[len(log)-1].Who != "ann" {
		t.Errorf("%d entries, %v", len(log), err)
	}
}

// The loops look at it by themselves.
func TestAuditOfClientsIsKeptAtBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east"}})
	old := time.Now().Add(-2 * failover.ClientAuditAge)
	key := w.operator.keys.ClientAudit(old, "client")
	if _, err := w.store.Put(within(t), key, failover.ClientAudit(old, "client", "old", ""), 0); err != nil {
		t.Fatal(err)
	}
	w.eventually("what is too old is gone", func() bool {
		log, err := w.operator.Audit(within(t))
		return err == nil && len(log) == 0
	})
}
