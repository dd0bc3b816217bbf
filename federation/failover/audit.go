package failover

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Bounds of what clients write into the audit log. It has a prefix of its own
// (Keys.ClientAudits); what people did stays.
const (
	clientAuditBytesMax = 1000 // of what was done, and of why
	// ClientAuditsMax and ClientAuditAge bound the entries that are kept.
	ClientAuditsMax = 2000
	ClientAuditAge  = 90 * 24 * time.Hour
)

// ClientAudit is the value of an entry about what a client did.
func ClientAudit(at time.Time, who, what, why string) []byte {
	short := func(text string) string {
		if len(text) <= clientAuditBytesMax {
			return text
		}
		return strings.ToValidUTF8(text[:clientAuditBytesMax], "") + " …"
	}
	b, err := json.Marshal(AuditEntry{At: at, Who: who, What: short(what), Why: short(why), Client: true})
	if err != nil {
		panic(fmt.Sprintf("audit entry cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

// StaleClientAudits chooses which entries of clients are to go: those that are too old, or
// more than are kept. values are in the order of their keys, oldest first; the indexes come
// back.
func StaleClientAudits(values [][]byte, now time.Time) (stale []int) {
	for i, value := range values {
		var a AuditEntry
		known := json.Unmarshal(value, &a) == nil // what is not counts, but has no age
		if len(values)-i > ClientAuditsMax || known && now.Sub(a.At) > ClientAuditAge {
			stale = append(stale, i)
		}
	}
	return stale
}
