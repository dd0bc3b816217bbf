package orders

import (
	"context"
	"io"
	"reflect"
	"testing"
	"time"

	"spillway/tests/orders/history"
)

func TestJoinHoldsAStepUntilItsCausesCame(t *testing.T) {
	id := func(topic string, n int64) history.ID { return history.ID{Producer: "p", Topic: topic, Counter: n} }
	placed := history.Payload{ID: id(Orders, 0)}
	paid := history.Payload{ID: id(Orders, 1), After: []history.ID{placed.ID}}
	reserved := history.Payload{ID: id(Inventory, 0), After: []history.ID{placed.ID}}
	shipped := history.Payload{ID: id(Orders, 2), After: []history.ID{paid.ID, reserved.ID}}
	j := NewJoin()
	// Inventory is read first, as it may be.
	if got := j.Add(reserved); got != nil {
		t.Errorf("reserved is handed on before placed: %v", got)
	}
	if got := j.Add(placed); !reflect.DeepEqual(got, []history.Payload{placed, reserved}) {
		t.Errorf("placed releases %v", got)
	}
	if got := j.Add(shipped); got != nil {
		t.Errorf("shipped is handed on before paid: %v", got)
	}
	if got := j.Add(shipped); got != nil {
		t.Errorf("shipped again: %v", got)
	}
	if got := j.Add(paid); !reflect.DeepEqual(got, []history.Payload{paid, shipped}) {
		t.Errorf("paid releases %v", got)
	}
	if held, waiting := j.Held(); held != 2 || waiting != 0 {
		t.Errorf("held %d, waiting %d; want 2, 0", held, waiting)
	}
}

func TestPlansAreAFunctionOfTheSeed(t *testing.T) {
	cancelled, sales := 0, 0
	for n := range 200 {
		a, b := plans(3, n, 8, true), plans(3, n, 8, true)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("slot %d: %v and %v", n, a, b)
		}
		if len(a) == SaleOrders {
			sales++
			home := PartitionOf(a[0].order, 8)
			for _, p := range a {
				if PartitionOf(p.order, 8) != home {
					t.Errorf("%s is not in the partition of its sale", p.order)
				}
				if sale, ok := saleOf(p.order); !ok || sale != p.sale {
					t.Errorf("saleOf(%s) = %s", p.order, sale)
				}
			}
		} else if len(a[0].steps) > 1 && a[0].steps[1].name == Missing {
			cancelled++
		}
	}
	if sales != 5 || cancelled < 20 || cancelled > 60 {
		t.Errorf("%d sales, %d cancelled orders of 200 slots", sales, cancelled)
	}
}

func TestSaleRule(t *testing.T) {
	s := &saleSoFar{}
	for i, c := range []struct {
		won  bool
		want bool
	}{{true, false}, {true, false}, {false, false}, {true, true}} {
		if got := s.next("o", c.won) != ""; got != c.want {
			t.Errorf("order %d: wrong=%v, want %v", i, got, c.want)
		}
	}
}

// A failover may lose a placed order that was acknowledged: nobody ever reads it.
func TestAnOrderThatMayBeLostIsNotWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &Workload{stock: newStock(), rec: history.NewRecorder(io.Discard)}
	before := w.stock.untilLoss()
	w.Mark(history.Event{Name: history.MoveEnd, Move: history.Failover})
	if _, decided := w.decide(ctx, plan{order: "sale-1-1", sale: "sale-1"}, before); decided || ctx.Err() != nil {
		t.Errorf("decided: %v, %v", decided, ctx.Err())
	}
	select {
	case <-w.stock.untilLoss():
		t.Error("an order that begins behind the failover is lost too")
	default:
	}
}
