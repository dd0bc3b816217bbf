package router

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/federation/lag"
)

// lags holds how far the other sites are behind in the partitions that this gateway
// leads, of groups whose acknowledgements wait for one site only.
type lags struct {
	router *Router

	mu     sync.Mutex
	tracks map[spillway.TopicPartition]*tracked // of partitions of which a site took a produce
}

type tracked struct {
	share  *Share
	term   Term
	limits lag.Limits
	*lag.Track
}

// LagInfo is how far the other sites are behind in the partitions of a share that this
// gateway leads, of those that a batch was written to since it leads them.
type LagInfo struct {
	lag.Lag // of the worst partition, by its limits
	Worst   spillway.TopicPartition
	Beyond  int // partitions for which Limits.Beyond
	Slowed  int // partitions for which Limits.Slows
	Limits  lag.Limits
}

func newLags(r *Router) *lags {
	return &lags{router: r, tracks: make(map[spillway.TopicPartition]*tracked)}
}

// appended notes a batch that the site has. nil: its share has no limits.
func (l *lags) appended(p *part, end spillway.Offset, now time.Time) *tracked {
	limits, ok := lag.Of(p.share.Group)
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tracks[p.tp]
	if t == nil || t.term.Base < p.term.Base {
		t = &tracked{p.share, p.term, limits, lag.NewTrack(limits, p.countsFrom(limits, end))}
		l.tracks[p.tp] = t
	}
	if t.term.Base != p.term.Base { // of a term that is over
		return t
	}
	if t.term.Epoch < p.term.Epoch {
		t.term = p.term
	}
	if !p.sent.IsZero() && t.Doubts(end, now) {
		l.router.background.Go(func() { l.cut(p, t, now) })
	}
	t.Append(end, now)
	if limits.OnLag != spillway.OnLagWarn { // else Lags is early enough
		l.look(p.tp, t, now)
	}
	return t
}

// countsFrom is where to count from in a partition of which no site has said how far it is.
// As a promise, from the term's start on: what lies before is no matter of this one.
// Otherwise from the first batch that is seen, or after the start of a gateway a mirror
// that is away for a moment would look as if it had nothing.
func (p *part) countsFrom(l lag.Limits, end spillway.Offset) spillway.Offset {
	start := p.share.Group.OffsetBase
	if v := p.op.client.router.maps.View(p.term.Site, p.tp); v != nil {
		if open, ok := v.Open(); ok {
			start = open.Virtual
		}
	}
	if l.OnLag == spillway.OnLagBlock {
		return start
	}
	return max(start, end-spillway.Offset(p.header.LastOffsetDelta)-1)
}

// cut asks the site how long its log is.
func (l *lags) cut(p *part, t *tracked, asked time.Time) {
	end, err := p.logEnd()
	if err != nil {
		return // another batch asks again
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Cut(end, asked)
}

// look asks how far the others are. The caller holds mu.
func (l *lags) look(tp spillway.TopicPartition, t *tracked, now time.Time) {
	t.Mark(l.router.marks.Mark(t.term, tp, 2), now)
}

// lag of a partition now.
func (l *lags) lag(tp spillway.TopicPartition, t *tracked, now time.Time) lag.Lag {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look(tp, t, now)
	return t.Lag(now)
}

// needs is how far another site has to be, so that a batch may be acknowledged now, and
// how far one is.
func (l *lags) needs(tp spillway.TopicPartition, t *tracked, end spillway.Offset, now time.Time) (need, have spillway.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look(tp, t, now)
	return t.Needs(t.limits, end, now), t.Marked()
}

// Lags is how far the other sites are behind, by share. What this gateway does not lead,
// or serve, any more is forgotten.
func (r *Router) Lags() map[spillway.ShareID]LagInfo {
	l, now := r.lags, time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make(map[spillway.ShareID]LagInfo)
	for tp, t := range l.tracks {
		serving, _ := t.share.Serving()
		if mine, _ := r.layout.Leads(t.share.ID, tp); !mine || serving.Base != t.term.Base {
			delete(l.tracks, tp)
			continue
		}
		t.term = serving
		l.look(tp, t, now)
		at, info := t.Lag(now), found[t.share.ID]
		info.Limits = t.limits
		if info.Worst.Topic == "" || worse(t.limits, at, info.Lag) {
			info.Worst, info.Lag = tp, at
		}
		if t.limits.Beyond(at) {
			info.Beyond++
		}
		if t.limits.Slows(at) {
			info.Slowed++
		}
		found[t.share.ID] = info
	}
	return found
}

func worse(l lag.Limits, a, b lag.Lag) bool {
	if pa, pb := l.Pressure(a), l.Pressure(b); pa != pb {
		return pa > pb
	}
	return a.Age > b.Age
}

// awaitOthers keeps an acknowledgement back as long as the group's limits say. False: it
// was refused.
func (p *part) awaitOthers(end spillway.Offset) bool {
	t := p.op.client.router.lags.appended(p, end, time.Now())
	if t == nil {
		return true
	}
	switch t.limits.OnLag {
	case spillway.OnLagThrottle:
		p.slowDown(t)
	case spillway.OnLagBlock:
		return p.block(t, end)
	}
	return true
}

const (
	// throttleLook is how often a late answer looks whether it is late enough: the lag
	// falls while it waits.
	throttleLook = 50 * time.Millisecond
	// toldMax bounds the throttle time of an answer that has been late already. While it
	// lasts a client sends nothing here, also not of groups that are near.
	toldMax = time.Second
)

// slowDown has a producer answered late. It ends at once where the share moves, the
// partition is led by another gateway, or this one stops: what waits there is not the lag.
func (p *part) slowDown(t *tracked) {
	op, r := p.op, p.op.client.router
	began := time.Now()
	last := op.came.Add(op.timeout / 2) // a hold counts too
	for late := false; ; late = true {
		moved, now := p.share.Changed(), time.Now()
		delay := min(t.limits.Delay(r.lags.lag(p.tp, t, now)), op.timeout/2)
		left := min(delay-now.Sub(began), last.Sub(now))
		if left <= 0 || !p.stays() {
			if late {
				r.events.throttled(p.share.ID, now.Sub(began))
			}
			op.slow(delay)
			return
		}
		look := time.NewTimer(min(left, throttleLook))
		select {
		case <-look.C:
		case <-moved:
		case <-r.staying.Done():
		}
		look.Stop()
	}
}

// stays tells whether what the producer of a part writes next is for this gateway and term.
func (p *part) stays() bool {
	r := p.op.client.router
	mine, _ := r.layout.Leads(p.share.ID, p.tp)
	return mine && p.share.Holds(p.term) && r.staying.Err() == nil
}

func (op *produce) slow(delay time.Duration) {
	op.throttling.Lock()
	defer op.throttling.Unlock()
	op.slowed = max(op.slowed, min(delay, toldMax))
}

// tellSlowed has a client that is answered late told by Kafka's own means: those that know
// it show it (KIP-219). As it stops all that the client sends here, it is told only
// where all parts of the request are acknowledged in groups that throttle, and none moves.
func (op *produce) tellSlowed() {
	for _, p := range op.all {
		if !p.promised || p.share.Group.Ack.OnLag != spillway.OnLagThrottle || !p.stays() {
			return
		}
	}
	op.throttle(int32(op.slowed.Round(time.Millisecond).Milliseconds()))
}

// block keeps an acknowledgement back until another site is near enough. As for
// ack.sites 2 a move does not wait for it. One that a move comes upon waits until another
// site has the batch itself: then it may be acknowledged whatever becomes of the share.
func (p *part) block(t *tracked, end spillway.Offset) bool {
	r := p.op.client.router
	p.end = end
	need, have := r.lags.needs(p.tp, t, end, time.Now())
	if need <= have {
		return true
	}
	p.leave(false, false)
	began := time.Now()
	r.events.blocked(p.share.ID)
	defer func() { r.events.unblocked(p.share.ID, time.Since(began)) }()
	for need > have {
		if err := p.awaitAnother(r.ctx, need); err != nil {
			p.refuseUnreplicated(err, "not-replicated")
			return false
		}
		have = need
		need, _ = r.lags.needs(p.tp, t, end, time.Now())
		if !p.share.Holds(p.term) {
			need = end
		}
	}
	p.durable = have >= end
	return true
}

// awaitAnother waits until another site has all below end, as long as ctx and the request
// allow and the gateway stays.
func (p *part) awaitAnother(ctx context.Context, end spillway.Offset) error {
	r := p.op.client.router
	ctx, cancel := context.WithDeadline(ctx, p.op.begun.Add(p.op.timeout))
	defer cancel()
	defer context.AfterFunc(r.staying, cancel)()
	return r.marks.Wait(ctx, p.term, p.tp, end, 2)
}

// refuseUnreplicated refuses a part that waited in vain for other sites. Where its term may
// have lost it, or this gateway stops, the client goes on elsewhere at once.
func (p *part) refuseUnreplicated(err error, reason string) {
	switch {
	case errors.Is(err, ErrLost):
		p.refuse(kerr.NotLeaderForPartition.Code, "moved")
	case p.op.client.router.staying.Err() != nil:
		p.refuse(kerr.NotLeaderForPartition.Code, "leaving")
	default:
		p.refuse(kerr.RequestTimedOut.Code, reason)
	}
}
