package router

import (
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/mirror/offsetmap"
)

// contacts knows, for every idempotent producer and partition, which sequence
// may be forwarded next. A site of a new term does not know the producer's
// masked id and would take any first sequence, so a batch that overtakes a
// missing one would wedge it for good (design idea 5, experiments L3). The same
// holds where an upstream connection was lost with the first batches on their way.
//
//	A  while a contact is not established, batches are forwarded only in the
//	   unbroken row that starts at next
//	B  a batch of an older term that is at the site is never forwarded again
//	C  a contact is established by a success of the site in the term: from then
//	   on the site itself knows the masked id and checks every sequence
//	D  while it is not, a batch waits for every earlier one that waits here, or was
//	   sent back and comes again, also where next is behind that one
//
// A contact waits for a missing sequence for at most OutstandingMax: after that
// the client cannot have it in flight any more. What is missing then was lost with
// its site, and what waited goes in the order of sequences, one after the other:
// librdkafka takes it for fatal if the site knows a later one first.
type contacts struct {
	max         int
	outstanding time.Duration

	mu struct {
		sync.Mutex
		young, old map[contactKey]*contact // two generations bound the number
		// released are the terms in which nothing older comes any more: the newest of
		// each share, as epochs count by share.
		released map[spillway.ShareID]spillway.Epoch
	}
}

type contactKey struct {
	id int64
	tp spillway.TopicPartition
}

type contact struct {
	epoch       int16 // of the producer
	term        spillway.Epoch
	established bool
	next        int32
	hasAcked    bool
	acked       int32     // last sequence that this gateway acknowledged
	since       time.Time // when the present uncertainty began
	begun       time.Time // when the first batch of the term could have gone
	sentBack    []outside // refused, and not come again; in order, refusedMax at most
	waiting     []outside // here for a missing one
	changed     chan struct{}
}

// outside is a batch that is known to this gateway and not on its way.
type outside struct {
	epoch int16 // of the producer
	first int32
	at    time.Time // since when
}

// refusedMax is how many batches a producer may have open in a partition: of one
// more, the first has been written elsewhere.
const refusedMax = 5

type verdict int

const (
	forward     verdict = iota // send it
	isDuplicate                // the site has it, at the offset given
	stale                      // a newer epoch of the producer has written
	wasThere                   // the site has all of it, in other batches below the offset given
	torn                       // it comes before the end of what is there, which is not all of it
	wait                       // an earlier sequence is missing
)

func newContacts(most int, outstanding time.Duration) *contacts {
	c := &contacts{max: most, outstanding: outstanding}
	c.mu.young, c.mu.old = make(map[contactKey]*contact), make(map[contactKey]*contact)
	c.mu.released = make(map[spillway.ShareID]spillway.Epoch)
	return c
}

// after tells whether sequence a comes after b. Sequences wrap at 2^31.
func after(a, b int32) bool { d := (a - b) & 0x7fffffff; return d != 0 && d < 1<<30 }

func following(sequence int32) int32 { return int32((int64(sequence) + 1) & 0x7fffffff) }

func (cs *contacts) get(k contactKey) *contact {
	if c := cs.mu.young[k]; c != nil {
		return c
	}
	c := cs.mu.old[k]
	if c == nil {
		c = &contact{epoch: -1}
	}
	if len(cs.mu.young) >= cs.max/2 {
		cs.mu.old, cs.mu.young = cs.mu.young, make(map[contactKey]*contact)
	}
	cs.mu.young[k] = c
	return c
}

// arrival is a batch that wants to be forwarded.
type arrival struct {
	contactKey
	share       spillway.ShareID
	epoch       int16 // of the producer
	first, last int32
	term        Term
	trail       []offsetmap.TrailEntry // of this producer over all past terms, see trailOf
	// repeats: this client sends a refused batch again only when nothing older
	// is in flight, so a batch that comes again proves that nothing is missing.
	repeats bool
}

// check decides about a batch. With forward it also notes that the batch is on
// its way, so the caller must send it or call failed. With wait it returns when
// waiting is over at the latest, and a channel that is closed when it may be
// worth asking again.
func (cs *contacts) check(a arrival) (v verdict, at spillway.Offset, until time.Time, changed <-chan struct{}) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(a.contactKey)
	now := time.Now()
	c.forget(a, now.Add(-cs.outstanding))
	switch {
	case c.epoch > a.epoch && c.term == a.term.Base:
		return stale, 0, time.Time{}, nil
	case c.term != a.term.Base || c.epoch < a.epoch:
		v, at = c.renew(a)
		if v != forward {
			return v, at, time.Time{}, nil
		}
	case !c.established:
		if v, at = inTrail(a); v != forward {
			return v, at, time.Time{}, nil
		}
	}
	until = c.since.Add(cs.outstanding)
	if cs.mu.released[a.share] == a.term.Base && c.since.Equal(a.term.Opened) {
		until = c.begun.Add(releaseAfter)
	}
	seen, earlier := c.earlier(a, now)
	if end := seen.Add(cs.outstanding); earlier && end.After(until) {
		until = end
	}
	missing := !c.established && (earlier || after(a.first, c.next))
	proved := a.repeats && slices.ContainsFunc(c.sentBack, func(o outside) bool { return o.epoch == a.epoch && o.first == a.first })
	if missing && !proved && now.Before(until) {
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		return wait, 0, until, c.changed
	}
	if !after(c.next, following(a.last)) {
		c.next = following(a.last)
	}
	c.came(a.epoch, a.last)
	c.wake()
	return forward, 0, time.Time{}, nil
}

// renew starts the contact over, in a new term or for a new producer epoch.
func (c *contact) renew(a arrival) (verdict, spillway.Offset) {
	if v, at := inTrail(a); v != forward {
		return v, at
	}
	expected := int32(0)
	if n := len(a.trail); n > 0 && a.trail[n-1].ProducerEpoch == a.epoch {
		expected = following(a.trail[n-1].Last)
	}
	// What this gateway acknowledged is not outstanding, also where it was lost.
	if c.hasAcked && c.epoch == a.epoch && after(following(c.acked), expected) {
		expected = following(c.acked)
	}
	if c.epoch != a.epoch {
		c.hasAcked = false
	}
	c.epoch, c.term, c.next, c.since, c.begun = a.epoch, a.term.Base, expected, a.term.Opened, time.Now()
	c.established = false
	if len(a.term.Past) == 0 { // nothing was before: the site's own state is all there is
		c.next = a.first
	}
	return forward, 0
}

// earlier tells whether a batch before this one waits here, or was sent back and
// has not come again, and when that was last known to be so.
func (c *contact) earlier(a arrival, now time.Time) (seen time.Time, yes bool) {
	for _, o := range c.sentBack {
		if o.epoch == a.epoch && after(a.first, o.first) {
			yes = true
			if o.at.After(seen) {
				seen = o.at
			}
		}
	}
	for _, o := range c.waiting {
		if o.epoch == a.epoch && after(a.first, o.first) {
			return now, true
		}
	}
	return seen, yes
}

// forget drops the batches that were sent back but do not come again: before too
// long a time, with an older epoch of the producer, or because older terms have them.
func (c *contact) forget(a arrival, before time.Time) {
	if n := len(a.trail); n > 0 {
		c.came(a.trail[n-1].ProducerEpoch, a.trail[n-1].Last)
	}
	c.drop(func(o outside) bool { return o.epoch < a.epoch || o.at.Before(before) })
}

// came notes that nothing up to a sequence will come for the first time.
func (c *contact) came(epoch int16, last int32) {
	c.drop(func(o outside) bool { return o.epoch == epoch && !after(o.first, last) })
}

func (c *contact) drop(which func(outside) bool) {
	n := len(c.sentBack)
	if c.sentBack = slices.DeleteFunc(c.sentBack, which); len(c.sentBack) < n {
		c.wake()
	}
}

// inTrail looks for the batch in what older terms left at the site. The trail has the
// newest batches of a producer, as many as it may have open, so an older one that
// comes was refused, and later ones were written without it: it must not be
// acknowledged.
func inTrail(a arrival) (verdict, spillway.Offset) {
	n := len(a.trail)
	if n == 0 {
		return forward, 0
	}
	newest := a.trail[n-1]
	if newest.ProducerEpoch > a.epoch {
		return stale, 0
	}
	if newest.ProducerEpoch < a.epoch || after(a.first, newest.Last) {
		return forward, 0
	}
	for _, e := range a.trail {
		if e.ProducerEpoch == a.epoch && e.First == a.first && e.Last == a.last {
			return isDuplicate, e.Virtual
		}
	}
	if covered(a) {
		return wasThere, newest.End()
	}
	return torn, 0
}

// covered tells whether batches of the trail have every sequence of the arrival.
func covered(a arrival) bool {
	next := a.first
	for _, e := range a.trail {
		if e.ProducerEpoch == a.epoch && !after(e.First, next) && !after(next, e.Last) {
			next = following(e.Last)
		}
	}
	return after(next, a.last)
}

func (c *contact) wake() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// acked notes that the site has a batch and the client was or will be told so.
func (cs *contacts) acked(k contactKey, epoch int16, last int32, term spillway.Epoch) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	if c.epoch != epoch {
		return
	}
	if !c.hasAcked || after(last, c.acked) {
		c.hasAcked, c.acked = true, last
	}
	c.came(epoch, last)
	if c.term == term && !c.established {
		c.established = true
		c.wake()
	}
}

// failed notes that a batch was not forwarded after all, or was refused by the
// site, or that nobody knows whether it arrived: where the site is not known to
// know the producer, the row starts again with it.
func (cs *contacts) failed(k contactKey, epoch int16, first int32, term spillway.Epoch) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	if c.epoch != epoch || c.term != term || c.established {
		return
	}
	if after(c.next, first) {
		c.next = first
	}
	c.since = time.Now()
	c.wake()
}

// release notes that what is missing since the term opened was lost.
func (cs *contacts) release(share spillway.ShareID, term spillway.Epoch) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.mu.released[share] = term
	for _, generation := range []map[contactKey]*contact{cs.mu.young, cs.mu.old} {
		for _, c := range generation {
			c.wake()
		}
	}
}

func (cs *contacts) isReleased(share spillway.ShareID, term spillway.Epoch) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.mu.released[share] == term
}

// enqueue notes that a batch waits for a missing one, until dequeue.
func (cs *contacts) enqueue(k contactKey, epoch int16, first int32) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	c.waiting = append(c.waiting, outside{epoch: epoch, first: first})
}

func (cs *contacts) dequeue(k contactKey, epoch int16, first int32) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	if i := slices.Index(c.waiting, outside{epoch: epoch, first: first}); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		c.wake()
	}
}

// refuse notes that a batch was sent back, and will come again.
func (cs *contacts) refuse(k contactKey, epoch int16, first int32) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	if c.hasAcked && c.epoch == epoch && !after(first, c.acked) {
		return // it came on another connection meanwhile
	}
	c.sentBack = slices.DeleteFunc(c.sentBack, func(o outside) bool { return o.epoch < epoch || o.epoch == epoch && o.first == first })
	at := slices.IndexFunc(c.sentBack, func(o outside) bool { return o.epoch > epoch || after(o.first, first) })
	if at < 0 {
		at = len(c.sentBack)
	}
	c.sentBack = slices.Insert(c.sentBack, at, outside{epoch, first, time.Now()})
	if len(c.sentBack) > refusedMax {
		c.sentBack = slices.Delete(c.sentBack, 0, 1)
		c.wake()
	}
}

// known notes that the site itself knows the producer in this term: then its
// own check of sequences is enough.
func (cs *contacts) known(k contactKey, epoch int16, term spillway.Epoch) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.get(k); c.epoch == epoch && c.term == term {
		c.established = true
		c.wake()
	}
}

// found notes that the site's own log has the producer's batches up to a
// sequence, from a term that the site served before.
func (cs *contacts) found(k contactKey, e offsetmap.TrailEntry, term spillway.Epoch) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.get(k)
	if c.term != term || c.epoch != e.ProducerEpoch {
		return
	}
	c.came(e.ProducerEpoch, e.Last)
	if !c.established && after(following(e.Last), c.next) {
		c.next = following(e.Last)
		c.wake()
	}
}
