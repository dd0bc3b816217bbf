package router

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/session"
)

// OffsetForLeaderEpoch (23). v2 current leader epoch (KIP-320); v3 replica id; v4 flexible.
// Versions 0 and 1 are those of brokers before Kafka 2.1.
//
// A consumer asks it when the leader epoch of a partition has risen, so after each move,
// whether the log was cut off below its position, and reads nothing until it knows:
// kafka-python 3 never again where nobody answers. In virtual numbers nothing ever is cut
// off: those of records that a failover lost are burnt, and no site uses them again. So every
// epoch up to the current one ends where the log ends.
//
//	A  the end is no lower than any position that a gateway has handed out in the epoch or
//	   before it: it is that of the log, not that of what is durable at other sites, of
//	   which this gateway may have heard later than others
var offsetForLeaderEpochAPI = api{
	key: 23, min: 2, max: 4, needs: -1, begin: (*Client).beginOffsetForLeaderEpoch,
	treatment: answeredHere, about: "Virtual leader epochs. Each one ends where the log of the site that serves ends, since virtual offsets are never cut off.",
}

func (c *Client) beginOffsetForLeaderEpoch(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		return c.offsetForLeaderEpoch(ctx, req).AppendTo(nil), nil
	}, nil
}

// epochEnd is one partition whose log end is asked for.
type epochEnd struct {
	share *Share
	term  Term
	tp    spillway.TopicPartition
	out   *kmsg.OffsetForLeaderEpochResponseTopicPartition
}

func (c *Client) offsetForLeaderEpoch(ctx context.Context, req *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	asked := make(map[siteNode][]epochEnd)
	for _, t := range req.Topics {
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		for i, p := range t.Partitions {
			answer := &out.Partitions[i]
			answer.Default()
			answer.Partition = p.Partition
			e := epochEnd{tp: spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}, out: answer}
			var at siteNode
			if at, answer.ErrorCode = c.epochAsked(ctx, &e, p); answer.ErrorCode == 0 && p.LeaderEpoch >= 0 {
				answer.LeaderEpoch = p.LeaderEpoch
				asked[at] = append(asked[at], e)
			}
		}
		resp.Topics = append(resp.Topics, out)
	}
	for at, ends := range asked {
		c.epochEnds(ctx, at, ends)
	}
	return resp
}

// epochAsked judges what a client asks of one partition, and finds who leads it. It does not
// wait for the end of a move: clients ask again.
func (c *Client) epochAsked(ctx context.Context, e *epochEnd, p kmsg.OffsetForLeaderEpochRequestTopicPartition) (siteNode, int16) {
	share, ok := c.router.ShareOf(e.tp)
	if !ok || e.tp.Partition < 0 {
		return siteNode{}, kerr.UnknownTopicOrPartition.Code
	}
	t, serving := share.Serving()
	if !serving || !c.router.lease.Held() {
		return siteNode{}, kerr.NotLeaderForPartition.Code
	}
	e.share, e.term = share, t
	switch current := t.LeaderEpoch(); {
	case p.CurrentLeaderEpoch >= 0 && p.CurrentLeaderEpoch < current:
		return siteNode{}, kerr.FencedLeaderEpoch.Code
	case max(p.CurrentLeaderEpoch, p.LeaderEpoch) > current: // of a move that this gateway has not heard of yet
		return siteNode{}, kerr.UnknownLeaderEpoch.Code
	}
	node, err := c.router.sites[t.Site].Leader(ctx, e.tp)
	if errors.Is(err, broker.ErrUnknownTopic) {
		return siteNode{}, kerr.UnknownTopicOrPartition.Code
	}
	if err != nil {
		c.router.refresh(ctx, t.Site)
		return siteNode{}, kerr.NotLeaderForPartition.Code
	}
	return siteNode{t.Site, node}, 0
}

// epochEnds asks one broker for the ends of all partitions that it leads.
func (c *Client) epochEnds(ctx context.Context, at siteNode, ends []epochEnd) {
	r := c.router
	tps := make([]spillway.TopicPartition, len(ends))
	for i, e := range ends {
		tps[i] = e.tp
	}
	told, err := c.askBroker(ctx, at, tps, 0, timestampLatest)
	stale := err != nil
	for _, e := range ends {
		in, heard := told[e.tp]
		view := r.viewOf(e.share, e.term, e.tp)
		switch {
		case heard && in.ErrorCode == kerr.UnknownTopicOrPartition.Code, heard && in.ErrorCode == kerr.TopicAuthorizationFailed.Code:
			e.out.ErrorCode, e.out.LeaderEpoch = in.ErrorCode, -1
		case !heard, in.ErrorCode != 0, view == nil, !e.share.Holds(e.term), !r.lease.Held():
			e.out.ErrorCode, e.out.LeaderEpoch = kerr.NotLeaderForPartition.Code, -1
			stale = stale || in.ErrorCode != 0
		default:
			v, _ := view.ToVirtual(spillway.LocalOffset(in.Offset))
			e.out.EndOffset = int64(max(v, startOf(view)))
		}
	}
	if stale {
		r.refresh(ctx, at.site)
	}
}
