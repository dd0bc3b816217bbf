package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
)

// A transaction that nobody ends holds back everything behind it, for the mirror as
// for every reader of committed records. The mirror does not end it: at the source its
// coordinator may still decide. It says whose it is.

// hangingEvery is how often a flow asks whose transactions hold its records back.
const hangingEvery = 10 * time.Second

func (f *flow) watchTransactions(ctx context.Context) {
	tick := time.NewTicker(min(hangingEvery, max(f.m.config.TransactionWait, f.m.config.TopicInterval)))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		found := f.hanging(ctx, time.Now())
		f.mu.Lock()
		f.mu.hanging = found
		f.mu.Unlock()
	}
}

// hanging describes the transactions that have held records back for too long.
func (f *flow) hanging(ctx context.Context, now time.Time) map[spillway.TopicPartition]string {
	states := make(map[spillway.TopicPartition]partState)
	f.mu.Lock()
	for tp, s := range f.mu.state {
		if s.undecided > 0 && now.Sub(s.heldBack) >= f.m.config.TransactionWait {
			states[tp] = s
		}
	}
	f.mu.Unlock()
	found := make(map[spillway.TopicPartition]string)
	for _, tp := range slices.SortedFunc(maps.Keys(states), spillway.TopicPartition.Compare) {
		s := states[tp]
		who := "a transaction"
		producers, err := f.source.cluster.Admin().DescribeProducers(ctx, tp)
		if i := slices.IndexFunc(producers, func(p broker.ProducerState) bool { return p.CurrentTxnStart == int64(s.lastStable) }); err == nil && i >= 0 {
			who = fmt.Sprintf("a transaction of producer %d, epoch %d, coordinator epoch %d", producers[i].ID, producers[i].Epoch, producers[i].CoordinatorEpoch)
		}
		found[tp] = fmt.Sprintf("%s is open at site %s since offset %d and %s; what lies behind it waits until it ends, or somebody aborts it (kafka-transactions.sh abort)",
			who, f.source.site, s.lastStable, s.heldBack.UTC().Format(time.RFC3339))
	}
	return found
}
