package router

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/mirror/offsetmap"
)

// first is a term without a past, second one that opened now after it.
var (
	first  = Term{Epoch: 1, Base: 1}
	second = func() Term {
		return Term{Epoch: 2, Base: 2, Past: []failover.Term{{Epoch: 1}}, Opened: time.Now()}
	}
)

type step struct {
	first, last int32
	want        verdict
	at          spillway.Offset
}

func TestFirstContact(t *testing.T) {
	trail := []offsetmap.TrailEntry{
		{ProducerEpoch: 0, First: 0, Last: 9, Virtual: 100},
		{ProducerEpoch: 0, First: 10, Last: 14, Virtual: 110},
	}
	old := second()
	old.Opened = time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		term    Term
		trail   []offsetmap.TrailEntry
		acked   int32 // by this gateway in the term before; −1: nothing
		epoch   int16
		repeats bool
		steps   []step
	}{
		"first term takes any sequence":        {first, nil, -1, 0, false, []step{{500, 509, forward, 0}, {510, 511, forward, 0}}},
		"a new producer starts at 0":           {second(), nil, -1, 0, false, []step{{0, 4, forward, 0}, {5, 9, forward, 0}}},
		"next after the trail":                 {second(), trail, -1, 0, false, []step{{15, 19, forward, 0}, {20, 24, forward, 0}}},
		"lost answers":                         {second(), trail, -1, 0, false, []step{{0, 9, isDuplicate, 100}, {10, 14, isDuplicate, 110}, {15, 15, forward, 0}}},
		"older than the trail remembers":       {second(), trail[1:], -1, 0, false, []step{{0, 4, torn, 0}}},
		"one that later ones went past":        {second(), []offsetmap.TrailEntry{{First: 270, Last: 278, Virtual: 5}, {First: 303, Last: 304, Virtual: 14}}, -1, 0, false, []step{{279, 302, torn, 0}, {303, 304, isDuplicate, 14}, {305, 305, forward, 0}}},
		"other boundaries, all there":          {second(), trail, -1, 0, false, []step{{8, 12, wasThere, 115}, {3, 4, wasThere, 115}}},
		"other boundaries":                     {second(), trail, -1, 0, false, []step{{12, 17, torn, 0}}},
		"a gap waits":                          {second(), trail, -1, 0, false, []step{{20, 24, wait, 0}, {25, 29, wait, 0}, {15, 19, forward, 0}, {20, 24, forward, 0}, {25, 29, forward, 0}}},
		"a gap does not wait for ever":         {old, trail, -1, 0, false, []step{{20, 24, forward, 0}, {25, 29, forward, 0}}},
		"this gateway acknowledged the gap":    {second(), trail, 19, 0, false, []step{{20, 24, forward, 0}}},
		"what was acknowledged is sent again":  {second(), trail, 29, 0, false, []step{{20, 24, forward, 0}}},
		"a new producer epoch":                 {second(), trail, 14, 1, false, []step{{0, 4, forward, 0}}},
		"a new producer epoch must start at 0": {second(), trail, 14, 1, false, []step{{5, 9, wait, 0}}},
		"an old producer epoch":                {second(), []offsetmap.TrailEntry{{ProducerEpoch: 3, Last: 4}}, -1, 2, false, []step{{0, 4, stale, 0}}},
		"sequences wrap":                       {second(), []offsetmap.TrailEntry{{First: 1<<31 - 5, Last: 1<<31 - 1, Virtual: 7}}, -1, 0, false, []step{{1<<31 - 5, 1<<31 - 1, isDuplicate, 7}, {5, 9, wait, 0}, {0, 4, forward, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			cs := newContacts(100, 35*time.Second)
			k := contactKey{id: spillway.ClientProducerID(1)}
			if c.acked >= 0 {
				cs.check(arrival{contactKey: k, first: c.acked, last: c.acked, term: first})
				cs.acked(k, 0, c.acked, 1)
			}
			for i, s := range c.steps {
				v, at, until, changed := cs.check(arrival{contactKey: k, epoch: c.epoch, first: s.first, last: s.last, term: c.term, trail: c.trail, repeats: c.repeats})
				if v != s.want || at != s.at {
					t.Fatalf("step %d: %d-%d: verdict %d at %d, want %d at %d", i, s.first, s.last, v, at, s.want, s.at)
				}
				if v == wait && (changed == nil || until.Before(time.Now())) {
					t.Fatalf("step %d: nothing ends the wait", i)
				}
			}
		})
	}
}

// A batch that comes again after it was refused proves, for clients that retry
// in order, that nothing older is in flight.
func TestRefusedBatchThatComesAgain(t *testing.T) {
	k := contactKey{id: spillway.ClientProducerID(1)}
	for _, repeats := range []bool{true, false} {
		cs := newContacts(100, 35*time.Second)
		a := arrival{contactKey: k, first: 20, last: 24, term: second(), repeats: repeats}
		if v, _, _, _ := cs.check(a); v != wait {
			t.Fatalf("verdict %d", v)
		}
		cs.refuse(k, 0, 20)
		later := a
		later.first, later.last = 25, 29
		if v, _, _, _ := cs.check(later); v != wait {
			t.Fatalf("a later batch: verdict %d", v)
		}
		if v, _, _, _ := cs.check(a); (v == forward) != repeats {
			t.Fatalf("repeats %t: verdict %d", repeats, v)
		}
	}
}

// What was acknowledged and lost with its site never comes again. When that is
// clear, the batches that wait for it go in their order: librdkafka ends for good
// if the site knows a later one first.
func TestWhatWaitedGoesInOrder(t *testing.T) {
	k := contactKey{id: spillway.ClientProducerID(1)}
	over := second()
	over.Opened = time.Now().Add(-40 * time.Second) // the wait of 35 s is over
	for _, where := range []string{"waits", "was sent back"} {
		t.Run(where, func(t *testing.T) {
			cs := newContacts(100, 35*time.Second)
			ask := func(first int32) (verdict, <-chan struct{}) {
				v, _, until, changed := cs.check(arrival{contactKey: k, first: first, last: first, term: over})
				if v == wait && until.Before(time.Now()) {
					t.Errorf("%d waits until %s, which is over", first, until)
				}
				return v, changed
			}
			cs.enqueue(k, 0, 445)
			cs.enqueue(k, 0, 444)
			cs.enqueue(k, 0, 446)
			if where == "was sent back" {
				cs.check(arrival{contactKey: k, first: 444, last: 444, term: second()}) // the contact begins
				cs.mu.young[k].since = over.Opened
				cs.dequeue(k, 0, 444)
				cs.refuse(k, 0, 444)
				over.Base = second().Base
			}
			v, changed := ask(445)
			if v != wait {
				t.Fatalf("445 overtakes 444, which %s", where)
			}
			if v, _ := ask(444); v != forward {
				t.Fatalf("444: verdict %d", v)
			}
			select {
			case <-changed:
			default:
				t.Fatal("445 is not woken")
			}
			cs.dequeue(k, 0, 444)
			for _, next := range []int32{445, 446} {
				if v, _ := ask(next); v != forward {
					t.Fatalf("%d: verdict %d", next, v)
				}
				cs.dequeue(k, 0, next)
			}
		})
	}
}

// A batch that was sent back comes again. Those behind it wait for it, also where
// the site takes any first sequence, or the row is believed to be beyond it.
func TestWhatWasSentBackIsNotOvertaken(t *testing.T) {
	trail := []offsetmap.TrailEntry{{First: 0, Last: 14}}
	for name, c := range map[string]struct {
		term   Term
		trail  []offsetmap.TrailEntry
		before []int32 // batches that went before, one sequence each
	}{
		"in the first term":                     {term: first},
		"in the first term, behind others":      {term: first, before: []int32{18, 19, 20}},
		"in a later term, and the row is there": {term: second(), trail: trail, before: []int32{15, 16, 17, 18, 19, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			cs := newContacts(100, 35*time.Second)
			k := contactKey{id: spillway.ClientProducerID(1)}
			ask := func(first int32) (verdict, <-chan struct{}) {
				v, _, until, changed := cs.check(arrival{contactKey: k, first: first, last: first, term: c.term, trail: c.trail})
				if v == wait && until.Before(time.Now()) {
					t.Errorf("%d waits until %s, which is over", first, until)
				}
				return v, changed
			}
			for _, first := range c.before {
				if v, _ := ask(first); v != forward {
					t.Fatalf("%d: verdict %d", first, v)
				}
			}
			cs.refuse(k, 0, 19)
			cs.refuse(k, 0, 20)
			if v, _ := ask(20); v != wait {
				t.Fatalf("20 overtakes 19: verdict %d", v)
			}
			cs.enqueue(k, 0, 20)
			_, changed := ask(21)
			if v, _ := ask(19); v != forward {
				t.Fatalf("19: verdict %d", v)
			}
			select {
			case <-changed:
			default:
				t.Fatal("21 is not woken")
			}
			if v, _ := ask(21); v != wait {
				t.Fatalf("21 overtakes 20, which waits: verdict %d", v)
			}
			for _, next := range []int32{20, 21} {
				if v, _ := ask(next); v != forward {
					t.Fatalf("%d: verdict %d", next, v)
				}
				cs.dequeue(k, 0, next)
			}
		})
	}
}

// What was sent back is waited for only while it may come: not once it has been
// written on another way, is too old, or belongs to an older epoch of its producer.
func TestWhatWasSentBackMayNotComeAgain(t *testing.T) {
	k := contactKey{id: spillway.ClientProducerID(1)}
	for name, c := range map[string]struct {
		arrival
		happens func(*contacts)
	}{
		"the trail has it":                 {arrival{term: second(), trail: []offsetmap.TrailEntry{{First: 5, Last: 9}}}, func(*contacts) {}},
		"this gateway has acknowledged it": {arrival{term: first}, func(cs *contacts) { cs.acked(k, 0, 9, 0) }},
		"the site's own log has it": {arrival{term: first}, func(cs *contacts) {
			cs.found(k, offsetmap.TrailEntry{Last: 9}, first.Base)
		}},
		"a newer epoch":   {arrival{term: first, epoch: 1}, func(*contacts) {}},
		"time has passed": {arrival{term: first}, func(cs *contacts) { cs.mu.young[k].sentBack[0].at = time.Now().Add(-36 * time.Second) }},
		"five others have": {arrival{term: first}, func(cs *contacts) { // been sent back since, so it was written elsewhere
			for n := range int32(refusedMax) {
				cs.refuse(k, 0, 11+n)
			}
		}},
		"and its client proves it": {arrival{term: first, repeats: true}, func(cs *contacts) { cs.refuse(k, 0, 10) }},
	} {
		t.Run(name, func(t *testing.T) {
			cs := newContacts(100, 35*time.Second)
			a := c.arrival
			a.contactKey, a.first, a.last = k, 10, 10
			begin := a
			begin.first, begin.last, begin.epoch, begin.term, begin.trail = 5, 9, 0, first, nil
			cs.check(begin)
			cs.refuse(k, 0, 5)
			c.happens(cs)
			if v, _, _, _ := cs.check(a); v != forward {
				t.Errorf("verdict %d", v)
			}
		})
	}
}

// Whatever a part is refused for with the order to send it again, the contact knows.
func TestARefusedPartIsExpectedAgain(t *testing.T) {
	r := &Router{contacts: newContacts(100, 35*time.Second)}
	c := &Client{router: r, produces: newProduces(nil, nil)}
	part := func(sequence int32) *part {
		p := &part{op: &produce{client: c, done: make(chan struct{})}, out: &kmsg.ProduceResponseTopicPartition{}}
		p.op.open.Store(1)
		p.header.ProducerID, p.header.BaseSequence = spillway.ClientProducerID(1), sequence
		return p
	}
	p := part(5)
	p.refuse(kerr.NotLeaderForPartition.Code, "moving")
	if v, _, _, _ := r.contacts.check(arrival{contactKey: p.contact(), first: 6, last: 6, term: first}); v != wait {
		t.Errorf("verdict %d", v)
	}
	q := part(0)
	q.header.ProducerID = spillway.ClientProducerID(2)
	q.refuse(kerr.InvalidRecord.Code, "invalid")
	if v, _, _, _ := r.contacts.check(arrival{contactKey: q.contact(), first: 1, last: 1, term: first}); v != forward {
		t.Errorf("behind one that was refused for good: verdict %d", v)
	}
}

// The first batches of a producer are lost with their connection. What comes
// after them would wedge the producer: the site does not know it yet.
func TestLostFirstBatch(t *testing.T) {
	cs := newContacts(100, 35*time.Second)
	k := contactKey{id: spillway.ClientProducerID(1)}
	ask := func(from, to int32) (verdict, <-chan struct{}) {
		v, _, _, changed := cs.check(arrival{contactKey: k, first: from, last: to, term: first})
		return v, changed
	}
	for _, b := range [][2]int32{{0, 4}, {5, 9}} {
		if v, _ := ask(b[0], b[1]); v != forward {
			t.Fatalf("verdict %d", v)
		}
	}
	cs.failed(k, 0, 5, 1)
	cs.failed(k, 0, 0, 1)
	v, changed := ask(10, 14)
	if v != wait {
		t.Fatalf("a batch overtakes lost ones: verdict %d", v)
	}
	if v, _ := ask(0, 4); v != forward {
		t.Fatalf("verdict %d", v)
	}
	select {
	case <-changed:
	default:
		t.Fatal("the waiting batch is not woken")
	}
	cs.acked(k, 0, 4, 1) // from here on the site checks
	if v, _ := ask(10, 14); v != forward {
		t.Fatalf("established: verdict %d", v)
	}
}

func TestContactsAreBounded(t *testing.T) {
	cs := newContacts(10, time.Second)
	for i := range 1000 {
		cs.check(arrival{contactKey: contactKey{id: spillway.ClientProducerID(uint64(i))}, term: first})
	}
	if n := len(cs.mu.young) + len(cs.mu.old); n > 10 {
		t.Errorf("%d contacts", n)
	}
}

// What a site still knows of older terms counts only where nothing of them was
// lost: it keeps lost batches too, hidden, and the client sends them again.
func TestOlderTermsOfTheSite(t *testing.T) {
	id := spillway.ClientProducerID(1)
	term := Term{Epoch: 5, Base: 5, Site: "east", Mask: 5, Past: []failover.Term{
		{Epoch: 1, Site: "east", Mask: 1},
		{Epoch: 2, Site: "west", Mask: 2},
		{Epoch: 3, Site: "east", Mask: 3},
		{Epoch: 4, Site: "west", Mask: 4, Lossy: true},
	}}
	var states []broker.ProducerState
	for mask := range uint64(5) {
		states = append(states, broker.ProducerState{ID: spillway.MaskProducerID(id, mask+1), Epoch: 7, LastSequence: int32(mask+1) * 10})
	}
	known, older := ofProducer(term, id, states)
	if len(known) != 1 || known[0] != 7 {
		t.Errorf("in the term: %v", known)
	}
	if len(older) != 1 || older[0] != (offsetmap.TrailEntry{Epoch: 1, ProducerEpoch: 7, Last: 10}) {
		t.Errorf("of older terms: %v", older)
	}
	if known, older := ofProducer(term, spillway.ClientProducerID(1<<40), states); known != nil || older != nil {
		t.Errorf("of another producer: %v, %v", known, older)
	}
}
