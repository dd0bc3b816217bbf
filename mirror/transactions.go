package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// Only the mirror writes to the partitions of a standby, and never in
// transactions. One that is open there is of somebody who should not write, or of a
// client that was there when the site served and has moved. What it wrote is hidden,
// and still it holds up all who read committed records at the site, the mirrors
// that it feeds among them, until its coordinator ends it: that may take a
// quarter of an hour, or for ever if the coordinator does not know of it (C6).

// openTransaction is one that somebody has open in a partition of this site.
type openTransaction struct {
	spillway.TopicPartition
	broker.ProducerState
	end spillway.LocalOffset // of the log
}

func (t openTransaction) describe(site spillway.SiteID) string {
	return fmt.Sprintf("producer %d has had a transaction open in %s of site %s since offset %d", t.ID, t.TopicPartition, site, t.CurrentTxnStart)
}

// openTransactions finds the transactions that are open at this site.
func (m *Mirror) openTransactions(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition][]openTransaction, error) {
	stable, ends, err := m.twoEnds(ctx, tps)
	if err != nil {
		return nil, err
	}
	open := make(map[spillway.TopicPartition][]openTransaction)
	for _, tp := range tps {
		if stable[tp] >= ends[tp] {
			continue
		}
		states, err := m.local.Admin().DescribeProducers(ctx, tp)
		if err != nil {
			return nil, err
		}
		for _, s := range states {
			if s.CurrentTxnStart >= int64(stable[tp]) { // −1: none; the embedded cluster goes on to name one that was aborted
				open[tp] = append(open[tp], openTransaction{tp, s, ends[tp]})
			}
		}
	}
	return open, nil
}

// twoEnds asks for the last stable offsets and the log ends at once: clients may
// be held meanwhile.
func (m *Mirror) twoEnds(ctx context.Context, tps []spillway.TopicPartition) (stable, ends map[spillway.TopicPartition]spillway.LocalOffset, err error) {
	var err1, err2 error
	var both sync.WaitGroup
	both.Go(func() { stable, err1 = m.local.Admin().StableEnds(ctx, tps) })
	both.Go(func() { ends, err2 = m.local.Admin().LogEnds(ctx, tps) })
	both.Wait()
	return stable, ends, errors.Join(err1, err2)
}

// abortTransactions aborts transactions and says so in the gap log. Where the
// cluster does not let it, the log says that, and readers wait for the
// coordinator: a flow or a move does not (promise H).
func (m *Mirror) abortTransactions(ctx context.Context, epoch spillway.Epoch, open []openTransaction) error {
	var entries []maptopic.Entry
	for _, t := range open {
		detail := t.describe(m.site) + "; it was aborted"
		if err := m.local.Admin().AbortTransaction(ctx, t.TopicPartition, t.ProducerState); err != nil {
			if ctx.Err() != nil {
				return err
			}
			detail = fmt.Sprintf("%s, and cannot be aborted: %v; readers of committed records wait until its coordinator ends it", t.describe(m.site), err)
		}
		entries = append(entries, m.gap(maptopic.Gap{Kind: maptopic.GapTransaction, Topic: t.Topic, Partition: t.Partition, Epoch: epoch,
			From: -1, To: -1, LocalFrom: spillway.LocalOffset(t.CurrentTxnStart), LocalTo: t.end, Detail: detail}))
	}
	_, err := m.writer.Save(ctx, entries...)
	return err
}

// stableEnds are the log ends of partitions in which an epoch is about to start
// here, after transactions of others were aborted: the first records of the epoch
// can be read at once.
func (m *Mirror) stableEnds(ctx context.Context, epoch spillway.Epoch, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	stable, ends, err := m.twoEnds(ctx, tps)
	if err != nil {
		return nil, err
	}
	var held []spillway.TopicPartition
	for _, tp := range tps {
		// Where an epoch is open the site has served, and transactions may be
		// its clients'.
		if _, serves := m.reader.View(tp).Open(); stable[tp] < ends[tp] && !serves {
			held = append(held, tp)
		}
	}
	if len(held) == 0 {
		return ends, nil
	}
	open, err := m.openTransactions(ctx, held)
	if err != nil {
		return nil, err
	}
	var all []openTransaction
	for _, tp := range held {
		all = append(all, open[tp]...)
	}
	if err := m.abortTransactions(ctx, epoch, all); err != nil {
		return nil, err
	}
	return m.local.Admin().LogEnds(ctx, tps) // behind the markers
}
