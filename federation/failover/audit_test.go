package failover

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// What clients write into the audit log is bounded in size, number and age.
func TestAuditEntriesOfClientsAreBounded(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	long := ClientAudit(now, "client", strings.Repeat("x", 100_000), strings.Repeat("é", 100_000))
	if len(long) > 3*clientAuditBytesMax || bytes.Contains(long, []byte("\ufffd")) {
		t.Errorf("an entry of %d bytes", len(long))
	}
	values := [][]byte{ClientAudit(now.Add(-ClientAuditAge-time.Second), "client", "old", ""), []byte("not one"), ClientAudit(now, "client", "new", "")}
	if stale := StaleClientAudits(values, now); !slices.Equal(stale, []int{0}) {
		t.Errorf("too old: %v", stale)
	}
	for len(values) < ClientAuditsMax+2 {
		values = append(values, ClientAudit(now, "client", "new", ""))
	}
	if stale := StaleClientAudits(values, now); !slices.Equal(stale, []int{0, 1}) {
		t.Errorf("too many: %v", stale)
	}
}
