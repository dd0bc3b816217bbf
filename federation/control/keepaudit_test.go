package control

import (
	"fmt"
	"testing"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// The loops keep the newest of what clients have written into the audit log.
func TestAuditOfClientsIsPruned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	const beyond = 100 // more than one transaction of the store takes
	at := time.Now().Add(-time.Hour)
	person := w.operator.audit("switchover", "ann", "")
	person.Key = w.operator.keys.Audit(at.Add(-time.Hour), "ann")
	if err := w.store.Txn(within(t), []coordination.Op{person}); err != nil {
		t.Fatal(err)
	}
	for i := range failover.ClientAuditsMax + beyond {
		key := w.operator.keys.Audit(at.Add(time.Duration(i)*time.Millisecond), "client")
		if err := w.store.Txn(within(t), []coordination.Op{{Key: key, Value: failover.ClientAudit(at, "client", fmt.Sprint(i), "")}}); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("what is beyond is gone", func() bool {
		log, err := w.operator.Audit(within(t))
		return err == nil && len(log) == failover.ClientAuditsMax+1 && log[0].Who == "ann" && log[1].What == fmt.Sprint(beyond)
	})
}
