package mirror

import (
	"context"
	"slices"
	"sync"
)

// budget is what all lanes of a mirror may hold of records at the same time: answers that
// were asked for, batches that are written, copies of them in requests. It is counted when
// bytes are asked for, before there is room for them, and until they are let go.
//
//	A  a lane is granted no more than half of what would be left without what it has: a
//	   lane that cannot let go, since its target is slow, leaves some to each of the others
//	B  where a broker sends more than it was asked for, since a single batch is larger, that
//	   is counted too, and nothing is granted to anybody until there is room again
//	C  what nothing holds is never refused, so a batch that is larger than all there is
//	   gets through, alone
type budget struct {
	total int64

	mu    sync.Mutex
	used  int64
	lanes int64 // that there are

	decoding chan struct{} // a token per plan that decodes batches
}

const (
	// MemoryBytesDefault is for a few brokers, each with some megabytes on their way.
	MemoryBytesDefault = 128 << 20
	// MemoryBytesMin is the least that makes sense: fetches of 128 KiB, and copies of them.
	MemoryBytesMin = 1 << 20
	// grantMin is what is worth a fetch.
	grantMin = 128 << 10
	// decoderBytes is what a plan that decodes batches may need beside.
	decoderBytes = 64 << 20
)

func newBudget(total int64) *budget {
	return &budget{total: total, decoding: make(chan struct{}, max(1, total/decoderBytes))}
}

// grantOf is how much a lane that has held may have more of total, of which used is held by
// all together. 0: it has to wait. Pure.
func grantOf(total, used, held, want int64) int64 {
	if used <= 0 {
		return max(1, min(want, total/4))
	}
	granted := min(want, total/4, (total-used-held)/2)
	if granted < min(want, grantMin, total/8) {
		return 0
	}
	return granted
}

// holding is what one lane has of the memory. It belongs to the lane.
type holding struct {
	budget *budget
	held   int64
}

// ask grants up to want bytes. 0: later.
func (h *holding) ask(want int64) int64 {
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	granted := grantOf(h.budget.total, h.budget.used, h.held, want)
	h.budget.used += granted
	h.held += granted
	return granted
}

// change counts what is held more, or less, than was granted.
func (h *holding) change(bytes int64) {
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	h.budget.used += bytes
	h.held += bytes
}

// begin counts a lane, end ends what it has.
func (b *budget) begin() holding {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes++
	return holding{budget: b}
}

func (h *holding) end() {
	h.change(-h.held)
	h.budget.mu.Lock()
	defer h.budget.mu.Unlock()
	h.budget.lanes--
}

// usage is how much is held, and how much may be.
func (b *budget) usage() (used, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, b.total
}

// idle is how much of an answer a lane asks for that has everything that it knows of: all
// of them together hold a quarter while they wait.
func (b *budget) idle(costs int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return min(answerMin, max(1, b.total/4/costs/max(b.lanes, 1)))
}

// heldAnswer is one answer with the plans that point into it. It is let go when the last of
// them is done.
type heldAnswer struct {
	holding *holding
	bytes   int64
	plans   int
}

// done lets go where nothing is left. nil holds nothing.
func (c *heldAnswer) done() {
	if c == nil {
		return
	}
	if c.plans--; c.plans <= 0 {
		c.holding.change(-c.bytes)
		c.bytes = 0
	}
}

// Bytes of memory by bytes of an answer.
const (
	costsCopied = 2 // the answer, and what is copied of it into requests
	// costsDecoded is where batches are written anew: these, and their copies in requests.
	costsDecoded = 4
)

// turn is the right to decode batches, for one plan: what they decompress to is large, and
// lanes take turns.
type turn struct {
	ctx   context.Context
	slots chan struct{}
	taken bool
}

// take waits for the turn, once.
func (t *turn) take() error {
	if t == nil || t.taken {
		return nil
	}
	select {
	case t.slots <- struct{}{}:
		t.taken = true
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

func (t *turn) end() {
	if t.taken {
		<-t.slots
		t.taken = false
	}
}

// costs is how many bytes of memory a byte of an answer takes.
func (l *lane) costs() int64 {
	if l.m.config.RepackBytes > 0 || l.m.config.Rewrite.Any() {
		return costsDecoded
	}
	return costsCopied
}

// answerMin is what a lane asks for at most while it has everything that it knows of, so
// that it holds little while it waits.
const answerMin = 256 << 10

// wants is how large the next answer may be.
func (l *lane) wants(busy bool) int64 {
	most := int64(l.m.config.answerBytesMax())
	if busy {
		return most
	}
	return min(l.m.budget.idle(l.costs()), most)
}

// counted counts an answer for what it is.
func (l *lane) counted(a fetchAnswer) *heldAnswer {
	var bytes int64
	for _, f := range a.parts {
		bytes += int64(len(f.Records))
	}
	c := &heldAnswer{holding: &l.holding, bytes: bytes * l.costs()}
	l.holding.change(c.bytes - a.granted)
	return c
}

// hold has plans hold the answer that they point into, with what was built anew for them.
func (l *lane) hold(plans []*planned, c *heldAnswer) {
	if c == nil {
		return
	}
	for _, p := range plans {
		p.held = c
		c.plans++
		for _, b := range p.plan.batches {
			if b.rebuilt && l.costs() == costsCopied {
				c.bytes += costsCopied * int64(len(b.bytes))
				l.holding.change(costsCopied * int64(len(b.bytes)))
			}
		}
	}
	if c.plans == 0 {
		c.done()
	}
}

// holdAlone has a plan that is put aside hold what it has yet to write, and not the whole
// answer that it points into with others.
func (l *lane) holdAlone(p *planned) {
	var bytes int64
	for _, b := range p.plan.batches[p.next:] {
		bytes += costsCopied * int64(len(b.bytes))
	}
	if p.held == nil || p.held.plans == 1 && p.held.bytes <= bytes {
		return
	}
	for i := range p.plan.batches {
		b := &p.plan.batches[i]
		if i < p.next {
			b.bytes = nil // it is at the target
		} else {
			b.bytes = slices.Clone(b.bytes)
		}
	}
	l.holding.change(bytes)
	p.held.done()
	p.held = &heldAnswer{holding: &l.holding, bytes: bytes, plans: 1}
}

// letGo ends what plans hold that are not put aside.
func (l *lane) letGo(plans []*planned) {
	for _, p := range plans {
		if l.parked[p.TopicPartition] != p {
			p.held.done()
			p.held = nil
		}
	}
}
