package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// auditEvery is how often the audit log is looked at for what is to go; what clients of one
// gateway write in between is bounded there (router.changesPerSecond).
const auditEvery = time.Minute

// keepAudit bounds what clients have written into the audit log, so that they cannot fill
// the store. What people did is elsewhere, stays, and is not read for it.
func (c *Control) keepAudit(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.AuditEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.pruneAudit(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, coordination.ErrConflict) { // another loop was faster
			c.cfg.Events.storeLost(err)
		}
	}
}

func (c *Control) pruneAudit(ctx context.Context) error {
	entries, err := c.cfg.Store.List(ctx, c.keys.ClientAudits())
	if err != nil || len(entries) == 0 {
		return err
	}
	values := make([][]byte, len(entries))
	for i, e := range entries {
		values[i] = e.Value
	}
	for stale := range slices.Chunk(failover.StaleClientAudits(values, time.Now()), coordination.OpsMax) {
		ops := make([]coordination.Op, len(stale))
		for i, at := range stale {
			ops[i] = coordination.Op{Key: entries[at].Key, Version: entries[at].Version, Delete: true}
		}
		if err := c.cfg.Store.Txn(ctx, ops); err != nil {
			return err
		}
	}
	return nil
}
