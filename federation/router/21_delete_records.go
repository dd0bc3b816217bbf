package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/session"
)

// DeleteRecords (21). v1 throttling; v2 flexible.
//
// What is below the offset is gone for clients at all sites, from the answer on and for
// good: that is in the store before a record is deleted (LowMarks). Then it is deleted at
// the site that serves, and at the others that can be reached, of what they have.
var deleteRecordsAPI = api{
	key: 21, min: 0, max: 2, needs: 0, begin: (*Client).beginDeleteRecords,
	treatment: answeredHere, about: "Below virtual offsets, at all sites. The start of a log never goes back, also when a site was away meanwhile. See operate/topics.md.",
}

// LowMarks are the virtual offsets below which clients have deleted records.
type LowMarks interface {
	// Low is the one of a partition, −1 if there is none. id is that of the topic at the
	// site, which tells a topic that was created anew under its name.
	Low(site spillway.SiteID, tp spillway.TopicPartition, id func() [16]byte) spillway.Offset
	// Raise stores marks of a topic, with its ids at the sites as far as they are known.
	Raise(ctx context.Context, topic string, marks map[int32]spillway.Offset, ids map[spillway.SiteID][16]byte, who string) error
}

// low is the low mark of a partition at a site, −1 if there is none.
func (r *Router) low(site spillway.SiteID, tp spillway.TopicPartition) spillway.Offset {
	if r.config.LowMarks == nil {
		return -1
	}
	return r.config.LowMarks.Low(site, tp, func() [16]byte { return r.topics.idAt(site, tp.Topic) })
}

func (c *Client) beginDeleteRecords(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDeleteRecordsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		return c.deleteRecords(ctx, req, who).AppendTo(nil), nil
	}, nil
}

// trim is one partition of a request.
type trim struct {
	tp    spillway.TopicPartition
	out   *kmsg.DeleteRecordsResponseTopicPartition
	share *Share
	term  Term
	to    spillway.Offset // what is below is deleted
	done  bool            // it is answered
}

func (p *trim) fail(code *kerr.Error) { p.out.ErrorCode, p.done = code.Code, true }

func (c *Client) deleteRecords(ctx context.Context, req *kmsg.DeleteRecordsRequest, who string) *kmsg.DeleteRecordsResponse {
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	ctx, cancel := context.WithTimeout(ctx, waitFor(req.TimeoutMillis))
	defer cancel()
	until := time.Now().Add(c.router.config.HoldMax)
	for i, t := range req.Topics {
		out := &resp.Topics[i]
		*out = kmsg.NewDeleteRecordsResponseTopic()
		out.Topic, out.Partitions = t.Topic, make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		trims := make([]*trim, len(t.Partitions))
		seen := make(map[int32]bool)
		for j, p := range t.Partitions {
			o := &out.Partitions[j]
			*o = kmsg.NewDeleteRecordsResponseTopicPartition()
			o.Partition, o.LowWatermark = p.Partition, -1
			trims[j] = &trim{tp: spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}, out: o}
			if seen[p.Partition] {
				trims[j].fail(kerr.InvalidRequest)
				continue
			}
			seen[p.Partition] = true
			c.aim(ctx, trims[j], p.Offset, until)
		}
		c.router.trimTopic(ctx, t.Topic, trims, who)
	}
	return resp
}

// aim finds out where a partition is served, and what is to be deleted of it.
func (c *Client) aim(ctx context.Context, p *trim, offset int64, until time.Time) {
	share, ok := c.router.ShareOf(p.tp)
	if !ok || p.tp.Partition < 0 {
		p.fail(kerr.UnknownTopicOrPartition)
		return
	}
	p.share = share
	end := kmsg.NewListOffsetsResponseTopicPartition()
	if !c.whileHeld(ctx, share, until, func() attempt {
		t, serving := share.Serving()
		if !serving || !c.router.lease.Held() {
			return moving
		}
		p.term, end.Offset = t, -1
		if end.ErrorCode = c.ask(ctx, share, t, p.tp, 0, timestampLatest, &end); end.ErrorCode == kerr.NotLeaderForPartition.Code {
			return soon
		}
		return done
	}) {
		p.fail(kerr.NotLeaderForPartition)
		return
	}
	p.to = spillway.Offset(offset)
	if offset == -1 {
		p.to = spillway.Offset(end.Offset)
	}
	switch {
	case end.ErrorCode != 0:
		p.out.ErrorCode, p.done = end.ErrorCode, true
	case p.to < 0 || p.to > spillway.Offset(end.Offset):
		p.fail(kerr.OffsetOutOfRange)
	}
}

// trimTopic deletes what the partitions of a topic ask for, and answers for them.
func (r *Router) trimTopic(ctx context.Context, topic string, trims []*trim, who string) {
	// Asked to delete nothing, a site says whether it would: a mark that is stored stays.
	atOnce(len(trims), func(i int) {
		if p := trims[i]; !p.done {
			p.settle(r.wouldTrim(ctx, p))
		}
	})
	marks, ids := make(map[int32]spillway.Offset), make(map[spillway.SiteID][16]byte)
	for _, p := range trims {
		if p.done {
			continue
		}
		marks[p.tp.Partition] = p.to
		for _, site := range p.share.Group.Sites {
			r.topics.at(ctx, site, r.config.MetadataMax)
			if id := r.topics.idAt(site, topic); id != [16]byte{} {
				ids[site] = id
			}
		}
	}
	if len(marks) == 0 {
		return
	}
	if err := r.config.LowMarks.Raise(ctx, topic, marks, ids, who); err != nil {
		for _, p := range trims {
			p.settle(fmt.Errorf("nothing was deleted: %w", err))
		}
		return
	}
	atOnce(len(trims), func(i int) {
		p := trims[i]
		if p.done {
			return
		}
		start, err := r.trimAt(ctx, p.term.Site, p)
		if err != nil {
			p.settle(err)
			return
		}
		p.out.LowWatermark, p.done = int64(max(start, p.to, r.low(p.term.Site, p.tp))), true
	})
	r.trimFollowers(trims)
}

// settle answers for a partition with an error.
func (p *trim) settle(err error) {
	if err == nil || p.done {
		return
	}
	p.out.ErrorCode, _ = answerTo(err)
	if errors.Is(err, context.DeadlineExceeded) {
		p.out.ErrorCode = kerr.RequestTimedOut.Code
	}
	p.done = true
}

func (r *Router) wouldTrim(ctx context.Context, p *trim) error {
	admin := r.sites[p.term.Site].Admin()
	starts, err := admin.LogStarts(ctx, []spillway.TopicPartition{p.tp})
	if err != nil {
		return err
	}
	_, err = admin.DeleteRecords(ctx, p.tp, starts[p.tp])
	if errors.Is(err, kerr.OffsetOutOfRange) {
		return nil // retention was faster
	}
	return err
}

// trimAt deletes at one site, of what it has, and tells where its log starts then.
func (r *Router) trimAt(ctx context.Context, site spillway.SiteID, p *trim) (start spillway.Offset, err error) {
	view := r.maps.View(site, p.tp)
	if site == p.term.Site {
		view = r.viewOf(p.share, p.term, p.tp)
	}
	if view == nil || site != p.term.Site && view.Empty() {
		return -1, nil // it has nothing of it
	}
	admin := r.sites[site].Admin()
	local, _ := view.ToLocal(p.to)
	if site != p.term.Site { // it may have less
		ends, err := admin.HighWatermarks(ctx, []spillway.TopicPartition{p.tp})
		if err != nil {
			return -1, err
		}
		local = min(local, ends[p.tp])
	}
	at, err := admin.DeleteRecords(ctx, p.tp, local)
	if errors.Is(err, kerr.OffsetOutOfRange) { // its log starts later already
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	start, _ = view.ToVirtual(at)
	return start, nil
}

// trimsAside bounds the requests for which records are deleted at sites that follow at the
// same time. What is beyond is left to the next ones.
const trimsAside = 8

// trimFollowers deletes at the other sites too, so that their disks do not fill. Nobody
// waits for it: clients are shown nothing of it, and the next deletion includes this one.
func (r *Router) trimFollowers(trims []*trim) {
	select {
	case r.trimming <- struct{}{}:
	default:
		return
	}
	r.background.Go(func() {
		defer func() { <-r.trimming }()
		ctx, cancel := context.WithTimeout(r.ctx, r.config.FollowMax)
		defer cancel()
		for _, p := range trims {
			if p.share == nil || p.out.ErrorCode != 0 {
				continue
			}
			for _, site := range p.share.Group.Sites {
				if site != p.term.Site && r.sites[site] != nil {
					_, _ = r.trimAt(ctx, site, p) // one that is away keeps it until the next time
				}
			}
		}
	})
}
