package router

import (
	"context"
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
// gateway leads.
type LagInfo struct {
	lag.Lag // of the worst partition, by its limits
	Worst   spillway.TopicPartition
	Acting  int // partitions for which Limits.Acts
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
		t = &tracked{p.share, p.term, limits, lag.NewTrack(limits, l.router.began(p))}
		l.tracks[p.tp] = t
	}
	if t.term.Base == p.term.Base { // else it is of a term that is over
		if t.term.Epoch < p.term.Epoch {
			t.term = p.term
		}
		t.Append(end, now)
		l.look(p.tp, t, now)
	}
	return t
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

// began is where the term of a part began in its partition.
func (r *Router) began(p *part) spillway.Offset {
	if v := r.maps.View(p.term.Site, p.tp); v != nil {
		if open, ok := v.Open(); ok {
			return open.Virtual
		}
	}
	return p.share.Group.OffsetBase
}

// Lags is how far the other sites are behind, by share. What this gateway does not lead,
// or serve, any more is forgotten.
func (r *Router) Lags(now time.Time) map[spillway.ShareID]LagInfo {
	l := r.lags
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
		if t.limits.Acts(at) {
			info.Acting++
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

// throttleLook is how often a late answer looks whether it is late enough: the lag falls
// while it waits.
const throttleLook = 50 * time.Millisecond

// slowDown has a producer answered late, and told by Kafka's own means to wait before it
// sends more: so clients that know it show it (KIP-219), and those that do not are slowed
// down all the same. It ends at once where the share moves or the partition is led by
// another gateway, for these wait for what is on its way.
func (p *part) slowDown(t *tracked) {
	op, r := p.op, p.op.client.router
	began := time.Now()
	var asked time.Duration
	for {
		moved, laidOut := p.share.Changed(), r.layout.Changed()
		now := time.Now()
		asked = min(t.limits.Delay(r.lags.lag(p.tp, t, now)), op.timeout/2)
		left := asked - now.Sub(began)
		mine, _ := r.layout.Leads(p.share.ID, p.tp)
		if left <= 0 || !mine || !p.share.Holds(p.term) || r.ctx.Err() != nil {
			break
		}
		look := time.NewTimer(min(left, throttleLook))
		select {
		case <-look.C:
		case <-moved:
		case <-laidOut:
		case <-r.ctx.Done():
		}
		look.Stop()
	}
	if asked > 0 {
		r.events.throttled(p.share.ID, time.Since(began))
		if op.allThrottled() {
			op.throttle(int32(asked.Round(time.Millisecond).Milliseconds()))
		}
	}
}

// allThrottled tells whether a throttle time, which stops all that a client sends here,
// means all partitions of the request.
func (op *produce) allThrottled() bool {
	for _, p := range op.all {
		if p.share == nil || p.share.Group.Ack.OnLag != spillway.OnLagThrottle {
			return false
		}
	}
	return true
}

// block keeps an acknowledgement back until another site is near enough. As for
// ack.sites 2 a move does not wait for it. One that a move comes upon waits until another
// site has the batch itself: then it may be acknowledged whatever becomes of the share.
func (p *part) block(t *tracked, end spillway.Offset) bool {
	r := p.op.client.router
	need, have := r.lags.needs(p.tp, t, end, time.Now())
	if need <= have {
		return true
	}
	p.leave(false, false)
	began := time.Now()
	r.events.blocked(p.share.ID)
	defer func() { r.events.unblocked(p.share.ID, time.Since(began)) }()
	ctx, cancel := context.WithDeadline(r.ctx, p.op.begun.Add(p.op.timeout))
	defer cancel()
	for need > have {
		if r.marks.Wait(ctx, p.term, p.tp, need, 2) != nil {
			p.refuse(kerr.RequestTimedOut.Code, "not-replicated")
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
