package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/federation/freshness"
)

// A consumer of a group whose standbys are read may say by its rack at which site it stands
// (KIP-392). It is told of a gateway there, and that one reads for it at its own site. To the
// consumer nothing is different but the distance.
//
//	A  nothing at or above the standby's durable mark is handed out, and the mark is one of
//	   the term's own epoch: what a mirror had in another one may have been given up since
//	B  nothing is handed out that gateways at the active site would not: it is reserved, and at
//	   as many sites as acknowledgements wait for (C5, C19). So a failover burns what readers
//	   of a standby have seen as it does what others have, and gives no offset twice
//	C  what a standby does not have is asked of the active site, also where its log begins
//	   later, and where it cannot be asked: nobody but the active site says of an offset that
//	   it does not exist
//	D  a consumer that has read all of a standby that is too old goes back to the leader.
//	   What is there is read there all the same
//	E  nobody is sent to and fro: a connection is told at most once in a while where to read
//	   a partition, and served where it is otherwise
//	F  who does not name a site of the group as its rack is served as ever
//	G  no offset is sent near that is not within the log of the active site, by what that said a
//	   moment ago. Where it is not there, OFFSET_OUT_OF_RANGE is told near with the start of the
//	   log, if it lies below: all libraries make the right thing of that. Else the client is sent
//	   back, and the leader tells: franz-go believes nobody else, and asks again and again
//	H  a standby that has not what its mark says (a replica that lacked it leads now, or a
//	   transaction that is none of the mirror's is open) is left alone for a while, as is one
//	   that a client is ahead of for more than what is on its way
//	I  nobody stays at a gateway that has nothing to tell it for longer than FreshnessMax, be it
//	   that it does not serve, or does not reach the site that has what is wanted

const (
	// sentPause is how long a connection is not told again where to read a partition: twice
	// as long each time within an epoch, up to sentPauseMax. A client that comes back has
	// heard of another leader, or does not reach the node that it was told.
	sentPause    = 5 * time.Second
	sentPauseMax = time.Minute
	// awayFor is how long a standby is left alone after it could not answer: twice as long
	// each time, up to sentPauseMax.
	awayFor = 5 * time.Second
	// logKept is how long it counts what the active site said of its log (G).
	logKept = 5 * time.Second
)

// readCommitted is the isolation level of those that are not shown open transactions.
const readCommitted = 1

// Ways of a consumer that is told to read elsewhere.
const (
	SentNear = "near" // to its own site
	SentBack = "back" // to the leader
)

// ReadInfo is what a consumer got of one partition that stands at a site of its group.
type ReadInfo struct {
	At      spillway.SiteID // whose records it got
	Local   bool            // that is its own site, and through a gateway there
	Standby bool            // the site follows
	Ready   bool            // its own site was ready for it: a gateway is there, and what is there is young
	Records int64
	Bytes   int
}

// near is what a connection remembers of a partition that it reads, or might read, at its
// own site. Owned by answers, as highWatermarks is.
type near struct {
	// epoch is the term for which the rest counts: some clients go back to the leader with each.
	epoch spillway.Epoch
	sent  time.Time     // the client was told where to read
	pause time.Duration // after that
	away  time.Time     // until then the standby is not asked
	gone  time.Duration // how long that was the last time
	quiet time.Time     // since then there was nothing to tell; zero: there was
	// waits is an offset beyond what the standby has, asked for since.
	waits spillway.Offset
	since time.Time
}

// nearOf is nil where the connection remembers as much as it may.
func (c *Client) nearOf(tp spillway.TopicPartition) *near {
	n := c.near[tp]
	if n == nil && len(c.near) < fetchPartitionsMax {
		n = &near{}
		if c.near == nil {
			c.near = make(map[spillway.TopicPartition]*near)
		}
		c.near[tp] = n
	}
	return n
}

// remembers looks up what the connection remembers of a partition that exists; false where
// it remembers as much as it may. Of one that does not exist nothing is kept: a client may
// name as many as it likes.
func (f *fetch) remembers(p *fetchPart) bool {
	if p.near = f.client.nearOf(p.tp); p.near == nil {
		return false
	}
	if p.near.epoch != p.term.Epoch {
		*p.near = near{epoch: p.term.Epoch}
	}
	return true
}

// nearest decides at which site a partition is read for a client that has named one as its
// rack. It sets out.PreferredReadReplica where the client is to read elsewhere, and waits
// where what it asks for is about to come to the standby.
func (f *fetch) nearest(p *fetchPart) {
	r, rack := f.client.router, spillway.SiteID(f.req.Rack)
	switch {
	case rack != r.config.Site:
		p.ready = f.ready(p, rack)
		if p.ready && f.exists(p, rack) && f.remembers(p) {
			f.send(p, rack, SentNear)
		}
	case rack != p.term.Site:
		f.standby(p)
		p.ready = p.standing || p.waits
	default:
		p.ready = true
	}
}

// ready tells whether clients at a site may be sent there for a partition. It waits for no
// site: whether the brokers of an active one can be reached finds out who reads there.
func (f *fetch) ready(p *fetchPart, site spillway.SiteID) bool {
	r := f.client.router
	if _, ok := r.layout.Current().Nearest(p.share.ID, p.tp, site); !ok {
		return false
	}
	return site == p.term.Site || r.standbys.Fresh(p.share, p.term, site, p.tp) == freshness.Fresh && p.wanted >= r.standbys.Lacks(site, p.tp)
}

// exists tells whether it is known that there is what the client asks for, or will be soon
// (G). If not, the next fetch knows more.
func (f *fetch) exists(p *fetchPart, site spillway.SiteID) bool {
	r := f.client.router
	end := spillway.Offset(f.client.highWatermarks[p.tp]) // of which this connection was told
	if site == p.term.Site {
		return p.wanted <= end
	}
	log := r.standbys.Log(p.term, site, p.tp)
	return time.Since(log.Asked) < logKept && log.Start >= 0 && p.wanted >= log.Start && p.wanted <= max(log.End, end)
}

// send tells the client to read elsewhere. As with Kafka's leaders such an answer has no
// records and comes at once.
func (f *fetch) send(p *fetchPart, site spillway.SiteID, way string) {
	now := time.Now()
	if now.Sub(p.near.sent) < p.near.pause {
		return // E
	}
	if f.point(p, site, way) {
		p.near.sent, p.near.pause = now, min(max(2*p.near.pause, sentPause), sentPauseMax)
	}
}

// point makes the answer that the client is to read elsewhere; false where that is here.
func (f *fetch) point(p *fetchPart, site spillway.SiteID, way string) bool {
	r := f.client.router
	l := r.layout.Current()
	node, ok := l.Nearest(p.share.ID, p.tp, site)
	if way == SentBack {
		node, ok = leader(l, p.share, p.tp)
	}
	if !ok || node.Gateway == r.config.Gateway {
		return false
	}
	p.out.PreferredReadReplica, p.done = node.ID, true
	r.events.sent(p.share.ID, way)
	return true
}

// outOfRange answers that an offset does not exist (G). It is called for several brokers at
// once, so it remembers nothing.
func (f *fetch) outOfRange(p *fetchPart) {
	if here := f.client.router.config.Site; p.eligible && f.req.Rack == string(here) {
		log := f.client.router.standbys.Log(p.term, here, p.tp)
		if log.Asked.IsZero() || p.wanted >= log.Start {
			if f.point(p, "", SentBack) {
				return
			}
		} else {
			p.out.LogStartOffset = int64(log.Start)
		}
	}
	p.fail(kerr.OffsetOutOfRange.Code)
}

// remember notes what came of a fetch for those that read at their own site through this
// gateway, and has them leave it where that was nothing for too long (I).
func (f *fetch) remember() {
	r, now := f.client.router, time.Now()
	f.leave()
	for _, p := range f.parts {
		if !p.eligible || f.req.Rack != string(r.config.Site) || p.done {
			continue
		}
		n := f.client.near[p.tp]
		if n == nil && r.maps.View(r.config.Site, p.tp) != nil { // so it exists
			n = f.client.nearOf(p.tp)
		}
		given := len(p.out.RecordBatches) > 0
		switch {
		case n == nil:
		case given || p.told:
			n.quiet = time.Time{}
			if given && p.standing {
				n.gone = 0
			}
		case n.quiet.IsZero():
			n.quiet = now
		case now.Sub(n.quiet) > p.share.Group.FreshnessMax:
			f.point(p, "", SentBack)
			n.quiet = time.Time{}
		}
	}
}

// standby has a partition read at the gateway's own site, which follows, if it has what the
// client asks for, or will soon.
func (f *fetch) standby(p *fetchPart) {
	r, here := f.client.router, f.client.router.config.Site
	now := time.Now()
	fresh := r.standbys.Fresh(p.share, p.term, here, p.tp)
	view, mark, session := r.standbys.View(p.term, here, p.tp)
	if view == nil || !f.remembers(p) || now.Before(p.near.away) || p.wanted < r.standbys.Lacks(here, p.tp) {
		return // C
	}
	told, _ := view.End()
	reached := min(told, mark)
	if p.wanted >= reached && fresh != freshness.Fresh {
		if fresh == freshness.Stale {
			f.send(p, "", SentBack) // D
		}
		return
	}
	if p.wanted > reached {
		// The client was at a site that is ahead, or its position does not exist.
		if p.near.waits != p.wanted || p.near.since.IsZero() {
			p.near.waits, p.near.since = p.wanted, now
		}
		log := r.standbys.Log(p.term, here, p.tp)
		p.waits = !log.Asked.After(p.near.since) || p.wanted <= log.End
		p.left = !p.waits // C, H
		return
	}
	local, at := view.ToLocal(p.wanted)
	if _, _, hole := view.Hole(p.wanted); at != p.wanted && !hole {
		return // C
	}
	p.site, p.standing = here, true
	p.view, p.local, p.mark, p.session = view, local, mark, session
	p.least, _ = view.ToLocal(reached)
}

// again looks the map up anew once the standby has answered: the mark may have risen, or
// the standby may not be one any more, or what was asked for may lie elsewhere. What the
// standby lacks is looked up last: a gap stands in the map before what lies behind it.
func (p *fetchPart) again(r *Router) bool {
	view, mark, session := r.standbys.View(p.term, p.site, p.tp)
	if view == nil || session != p.session || p.wanted < r.standbys.Lacks(p.site, p.tp) {
		return false
	}
	p.view, p.mark = view, mark
	return true
}

// reached is how far the standby is, and how far it is known what lies there.
func (p *fetchPart) reached() spillway.Offset {
	told, _ := p.view.End()
	return min(told, p.mark)
}

// has tells whether the standby's log is as far as its mark said when it was asked, for what
// the client may read of it (H). The mark may have risen since.
func (p *fetchPart) has(f *fetch, in *kmsg.FetchResponseTopicPartition) bool {
	end := in.HighWatermark
	if f.req.IsolationLevel == readCommitted {
		end = min(end, in.LastStableOffset)
	}
	return end >= int64(p.least)
}

// leave has those standbys left alone for a time that could not answer (H).
func (f *fetch) leave() {
	for _, p := range f.parts {
		if p.left {
			p.near.gone = min(max(2*p.near.gone, awayFor), sentPauseMax)
			p.near.away, p.left = time.Now().Add(p.near.gone), false
		}
	}
}

// visible is the virtual offset below which records may be handed out, where the site's own
// high watermark is end.
func (p *fetchPart) visible(r *Router, end spillway.Offset) spillway.Offset {
	limit := r.VirtualHighWatermark(p.share, p.term, p.tp, end) // B
	if p.standing {
		limit = min(limit, p.reached()) // A
	}
	return limit
}

// awaitVisible waits until more may be visible, or ctx ends.
func (p *fetchPart) awaitVisible(ctx context.Context, r *Router) {
	if p.standing {
		r.standbys.Await(ctx, p.term, p.site, p.tp, p.limit+1)
	}
	r.awaitVisible(ctx, p.share, p.term, p.tp, p.limit)
}

// readInfo tells what a client gets of a partition.
func (f *fetch) readInfo(p *fetchPart) ReadInfo {
	r := f.client.router
	info := ReadInfo{At: p.site, Local: f.req.Rack == string(p.site) && p.site == r.config.Site, Standby: p.standing, Ready: p.ready, Bytes: len(p.out.RecordBatches)}
	for w := batch.Over(p.out.RecordBatches); w.Next(); {
		info.Records += int64(w.Header.Count)
	}
	return info
}
