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

// hangingEvery is how often a flow asks whose transactions hold its records back, and
// namedAfter how long the one must have done so that does it the longest.
const (
	hangingEvery = 10 * time.Second
	namedAfter   = 2 * time.Second
)

// holder is who holds records of a partition back, as long as its last stable offset stays.
type holder struct {
	lastStable spillway.LocalOffset
	who        string
}

func (f *flow) watchTransactions(ctx context.Context) {
	tick := time.NewTicker(min(hangingEvery, max(f.m.config.TransactionWait, f.m.config.TopicInterval)))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		found := f.findHolders(ctx, time.Now())
		f.mu.Lock()
		f.mu.holders = found
		f.mu.Unlock()
	}
}

// findHolders asks whose transactions have held records back for too long, and whose does
// it the longest.
func (f *flow) findHolders(ctx context.Context, now time.Time) map[spillway.TopicPartition]holder {
	states := make(map[spillway.TopicPartition]partState)
	var longest spillway.TopicPartition
	most := namedAfter
	f.mu.Lock()
	for tp, s := range f.mu.state {
		if held := s.heldFor(now); held >= f.m.config.TransactionWait && held > 0 {
			states[tp] = s
		} else if held >= most {
			longest, most = tp, held
		}
	}
	if len(states) == 0 && longest.Topic != "" {
		states[longest] = f.mu.state[longest]
	}
	f.mu.Unlock()
	found := make(map[spillway.TopicPartition]holder)
	for _, tp := range slices.SortedFunc(maps.Keys(states), spillway.TopicPartition.Compare) {
		lastStable := states[tp].lastStable
		producers, err := f.source.cluster.Admin().DescribeProducers(ctx, tp)
		found[tp] = holder{lastStable: lastStable, who: aTransaction}
		if i := slices.IndexFunc(producers, func(p broker.ProducerState) bool { return p.CurrentTxnStart == int64(lastStable) }); err == nil && i >= 0 {
			found[tp] = holder{lastStable, fmt.Sprintf("a transaction of producer %d, epoch %d, coordinator epoch %d", producers[i].ID, producers[i].Epoch, producers[i].CoordinatorEpoch)}
		}
	}
	return found
}

const aTransaction = "a transaction" // of nobody knows whom

// heldFor is for how long the same records have been held back.
func (s partState) heldFor(now time.Time) time.Duration {
	if s.undecided == 0 {
		return 0
	}
	return now.Sub(s.heldBack)
}

// addHeldBack adds what transactions hold back of a partition. The caller holds mu.
func (f *flow) addHeldBack(info *FlowInfo, tp spillway.TopicPartition, s partState, now time.Time) {
	held := s.heldFor(now)
	if held <= 0 {
		return
	}
	h, known := f.mu.holders[tp]
	if known = known && h.lastStable == s.lastStable; !known {
		h.who = aTransaction
	}
	what := fmt.Sprintf("%s is open at site %s since offset %d and %s; what lies behind it waits until it ends, or somebody aborts it (kafka-transactions.sh abort)",
		h.who, f.source.site, s.lastStable, s.heldBack.UTC().Format(time.RFC3339))
	if known && held >= f.m.config.TransactionWait {
		info.Hanging[tp] = what
	}
	if held > info.HeldBack {
		info.HeldBack, info.HeldBackBy = held, fmt.Sprintf("%s: %s", tp, what)
	}
}
