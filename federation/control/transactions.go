package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	for {
		open, err := d.openTransactions(ctx, site)
		if err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		if len(open) == 0 {
			return nil
		}
		// A loop that is behind would end transactions of the epoch after.
		e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id))
		if err != nil {
			return fmt.Errorf("ask whether %d open transactions may be ended: %w", len(open), err)
		}
		if e.Version != d.version {
			return fmt.Errorf("%d open transactions are left alone: %w", len(open), errNewerRecord)
		}
		if err := endAll(ctx, d.c.cfg.Sites[site].Cluster.Admin(), open); err != nil {
			return fmt.Errorf("abort what is open before the cutover: %w", err)
		}
		pause(ctx, endingPause)
		if ctx.Err() != nil {
			return fmt.Errorf("%d transactions are still open at %s: %w", len(open), site, ctx.Err())
		}
	}
}

// errNewerRecord: somebody else has changed the record of the share.
var errNewerRecord = errors.New("the record of the share is newer than what this loop has seen")

// openTransactions are those of the group at a site.
func (d *driver) openTransactions(ctx context.Context, site spillway.SiteID) ([]broker.Transaction, error) {
	all, err := d.c.cfg.Sites[site].Cluster.Admin().OpenTransactions(ctx)
	return slices.DeleteFunc(all, func(t broker.Transaction) bool {
		g, ok := d.c.cfg.Topology.GroupOfTransactionalID(t.TransactionalID)
		return !ok || g.Name != d.group.Name
	}), err
}

// endingAtOnce bounds the transactions that are ended at the same time: clients are held.
const endingAtOnce = 32

// endAll asks the coordinators to abort those that are not being ended already.
func endAll(ctx context.Context, admin broker.Admin, open []broker.Transaction) error {
	return atOnce(open, func(t broker.Transaction) error {
		if t.State != broker.TransactionOngoing {
			return nil
		}
		if err := admin.EndTransaction(ctx, t.TransactionalID); err != nil && !errors.Is(err, broker.ErrTransactionEnding) {
			return err
		}
		return nil
	})
}

// atOnce does something about each transaction, endingAtOnce at a time, and gives one error.
func atOnce(all []broker.Transaction, do func(broker.Transaction) error) error {
	var working sync.WaitGroup
	var mu sync.Mutex
	var failed error
	free := make(chan struct{}, endingAtOnce)
	for _, t := range all {
		free <- struct{}{}
		working.Go(func() {
			defer func() { <-free }()
			if err := do(t); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	working.Wait()
	return failed
}

// warmTransactions finds the coordinators of what is open: endTransactions asks them.
func (d *driver) warmTransactions(ctx context.Context) {
	if len(d.group.TransactionalIDs) == 0 {
		return
	}
	open, _ := d.openTransactions(ctx, d.share.Active) // asked again when it counts
	_ = atOnce(open, func(t broker.Transaction) error {
		_, err := d.c.cfg.Sites[d.share.Active].Cluster.Coordinator(ctx, broker.TransactionCoordinator, t.TransactionalID)
		return err
	})
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
