package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// endingPause is between two looks at transactions that are being ended.
const endingPause = 20 * time.Millisecond

// endTransactions ends at the site that a switchover leaves what producers of the group
// have open there, when no gateway serves any more: its coordinator aborts it and refuses
// the producer from then on. Those that are about to be committed are waited for. The log
// ends that are read afterwards are behind all markers, and mirrors reach them: they stop
// at what is undecided.
//
// Most transactions ended while the groups drained. Nothing of a failover waits for this:
// what the target has is committed.
func (d *driver) endTransactions(ctx context.Context, site spillway.SiteID) error {
	if len(d.group.TransactionalIDs) == 0 {
		return nil
	}
	admin := d.c.cfg.Sites[site].Cluster.Admin()
	for {
		all, err := admin.OpenTransactions(ctx)
		if err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		left := 0
		for _, t := range all {
			if g, ok := d.c.cfg.Topology.GroupOfTransactionalID(t.TransactionalID); !ok || g.Name != d.group.Name {
				continue
			}
			left++
			if t.State != broker.TransactionOngoing {
				continue
			}
			if err := admin.EndTransaction(ctx, t.TransactionalID); err != nil && !errors.Is(err, broker.ErrTransactionEnding) {
				return fmt.Errorf("abort what is open before the cutover: %w", err)
			}
		}
		if left == 0 {
			return nil
		}
		pause(ctx, endingPause)
		if ctx.Err() != nil {
			return fmt.Errorf("%d transactions are still open at %s: %w", left, site, ctx.Err())
		}
	}
}

// tornBy says what a move does to transactions of the group.
func tornBy(kind failover.Kind, g spillway.FailoverGroup, active, target spillway.SiteID) string {
	ids := strings.Join(g.TransactionalIDs, ", ")
	switch {
	case len(g.TransactionalIDs) == 0:
		return "not possible: the group has no transactional ids, and gateways refuse all others"
	case kind == failover.Switchover:
		return fmt.Sprintf("not possible: transactions of %s end while groups drain, %s at most, and what is open then is aborted whole", ids, g.GroupDrain)
	default:
		return fmt.Sprintf("possible, of %s: each partition is cut where %s has it, so of a transaction that was committed at %s shortly before, some partitions may have their part and others not, and positions that were committed in it may be missing; nothing of open or aborted ones is kept", ids, target, active)
	}
}
