package failover

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// What clients write into the audit log is bounded in size, number and age; what people
// wrote stays.
func TestAuditEntriesOfClientsAreBounded(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	long := ClientAudit(now, "client", strings.Repeat("x", 100_000), strings.Repeat("é", 100_000))
	if len(long) > 3*clientAuditBytesMax || bytes.Contains(long, []byte("\ufffd")) {
		t.Errorf("an entry of %d bytes", len(long))
	}
	person, _ := json.Marshal(AuditEntry{At: now.Add(-2 * ClientAuditAge), Who: "ann", What: "switchover"})
	values := [][]byte{person, ClientAudit(now.Add(-ClientAuditAge-time.Second), "client", "old", ""), []byte("not one")}
	if stale := StaleClientAudits(values, now); !slices.Equal(stale, []int{1}) {
		t.Errorf("too old: %v", stale)
	}
	for range ClientAuditsMax {
		values = append(values, ClientAudit(now, "client", "new", ""))
	}
	values[1] = ClientAudit(now, "client", "one too many", "")
	if stale := StaleClientAudits(values, now); !slices.Equal(stale, []int{1}) {
		t.Errorf("too many: %v", stale)
	}
}
