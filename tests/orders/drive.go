package orders

import (
	"context"
	"strings"

	"spillway/tests/orders/history"
)

// launch starts one order after the other, as many at once as the window allows.
func (w *Workload) launch() {
	window := make(chan struct{}, w.cfg.InFlight)
	next := 0 // which shop takes the next order; the ten of a sale go to all
	for n := 0; w.cfg.Slots == 0 || n < w.cfg.Slots; n++ {
		for _, p := range plans(w.cfg.Seed, n, w.cfg.Partitions, len(w.cfg.Readers) > 0) {
			// The orders of a sale wait for each other's reader, not for each
			// other, so a window smaller than a sale does no harm.
			select {
			case window <- struct{}{}:
			case <-w.finishing:
				return
			case <-w.ordersCtx.Done():
				return
			}
			s := w.shops[next%len(w.shops)]
			next++
			w.orders.Go(func() {
				defer func() { <-window }()
				w.drive(w.ordersCtx, s, p)
			})
		}
	}
}

// answered is the outcome of a plan's step.
type answered struct {
	step int
	id   history.ID
	err  error
}

// drive sends the steps of one order, each after those that it follows.
func (w *Workload) drive(ctx context.Context, s *shop, p plan) {
	loss := w.stock.untilLoss()
	done, ok := w.steps(ctx, s, p, nil)
	if ok && p.sale != "" {
		rest, decided := w.decide(ctx, p, loss)
		if !decided {
			w.counts.abandoned.Add(1)
			return
		}
		_, ok = w.steps(ctx, s, rest, done)
	}
	if ok {
		w.counts.complete.Add(1)
	} else {
		w.counts.abandoned.Add(1)
	}
}

// decide waits until the reader of the orders has seen this one in its turn, but
// not behind a failover, which may have lost it.
func (w *Workload) decide(ctx context.Context, p plan, loss <-chan struct{}) (plan, bool) {
	select {
	case got := <-w.stock.verdict(p.order):
		p.steps = notInStock
		if got {
			p.steps = inStock
		}
		return p, true
	case <-loss:
		return p, false
	case <-ctx.Done():
		return p, false
	}
}

// steps sends what of the plan is not done, and returns the ids of all its
// records. It ends at the first step that fails: what follows it must not be.
func (w *Workload) steps(ctx context.Context, s *shop, p plan, done []history.ID) ([]history.ID, bool) {
	ids := make([]history.ID, len(p.steps))
	acked := make([]bool, len(p.steps))
	sent := make([]bool, len(p.steps))
	left := len(p.steps)
	for i, id := range done {
		ids[i], acked[i], sent[i] = id, true, true
		left--
	}
	answers := make(chan answered, len(p.steps))
	for left > 0 {
		for i, st := range p.steps {
			if sent[i] || !allOf(acked, st.after) {
				continue
			}
			if w.limit.Wait(ctx) != nil {
				return ids, false
			}
			sent[i] = true
			w.sendStep(s, p, i, ids, answers)
		}
		select {
		case a := <-answers:
			if a.err != nil {
				return ids, false
			}
			ids[a.step], acked[a.step] = a.id, true
			left--
		case <-ctx.Done():
			return ids, false
		}
	}
	return ids, true
}

func (w *Workload) sendStep(s *shop, p plan, i int, ids []history.ID, answers chan<- answered) {
	st := p.steps[i]
	payload := history.Payload{Order: p.order, Step: st.name, Pad: max(0, w.cfg.RecordBytes-paddingOverhead)}
	for _, cause := range st.after {
		payload.After = append(payload.After, ids[cause])
	}
	s.send(payload, st.topic, PartitionOf(p.order, w.cfg.Partitions), func(id history.ID, err error) {
		answers <- answered{i, id, err}
	})
}

func allOf(acked []bool, steps []int) bool {
	for _, i := range steps {
		if !acked[i] {
			return false
		}
	}
	return true
}

// saleOf returns the sale that an order belongs to.
func saleOf(order string) (string, bool) {
	i := strings.LastIndexByte(order, '-')
	if !strings.HasPrefix(order, "sale-") || i < len("sale-") {
		return "", false
	}
	return order[:i], true
}
