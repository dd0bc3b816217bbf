package router

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
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
//	   before it: it is the high watermark of the site, not that of what is durable at other
//	   sites, of which this gateway may have heard later than others, and no lower than where
//	   the present epoch began
//	B  a request costs a site one question about metadata, and each of its brokers one about
//	   ends; it drops nothing that other clients use
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

// epochEndsMax is for the sites to answer in: the answers of a connection come in order.
const epochEndsMax = 5 * time.Second

// epochEnd is one partition whose log end is asked for.
type epochEnd struct {
	share *Share
	term  Term
	out   []*kmsg.OffsetForLeaderEpochResponseTopicPartition
}

// siteEnds are those at one site.
type siteEnds map[spillway.TopicPartition]*epochEnd

func (c *Client) offsetForLeaderEpoch(ctx context.Context, req *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	ctx, cancel := context.WithTimeout(ctx, epochEndsMax)
	defer cancel()
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	asked := make(map[spillway.SiteID]siteEnds)
	// As with brokers, whose followers ask the same, who may act for the cluster may ask of all.
	all := c.mayQuietly(authorization.ClusterAction, authorization.Cluster, authorization.ClusterName, nil)
	for _, t := range req.Topics {
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		may := c.guard(authorization.Describe, t.Topic)
		for i, p := range t.Partitions {
			answer := &out.Partitions[i]
			answer.Default()
			answer.Partition = p.Partition
			if !all {
				answer.ErrorCode = may.of(p.Partition)
			}
			if answer.ErrorCode != 0 {
				continue
			}
			tp := spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			var share *Share
			var term Term
			if share, term, answer.ErrorCode = c.epochAsked(tp, p); answer.ErrorCode != 0 || p.LeaderEpoch < 0 {
				continue
			}
			answer.LeaderEpoch = p.LeaderEpoch
			ends := asked[term.Site]
			if ends == nil {
				ends = make(siteEnds)
				asked[term.Site] = ends
			}
			if ends[tp] == nil {
				ends[tp] = &epochEnd{share: share, term: term}
			}
			ends[tp].out = append(ends[tp].out, answer)
		}
		resp.Topics = append(resp.Topics, out)
	}
	for site, ends := range asked {
		c.epochEnds(ctx, site, ends)
	}
	return resp
}

// epochAsked judges what a client asks of one partition. It does not wait for the end of a
// move: clients ask again.
func (c *Client) epochAsked(tp spillway.TopicPartition, p kmsg.OffsetForLeaderEpochRequestTopicPartition) (*Share, Term, int16) {
	share, ok := c.router.ShareOf(tp)
	if !ok || tp.Partition < 0 {
		return nil, Term{}, kerr.UnknownTopicOrPartition.Code
	}
	t, serving := share.Serving()
	if !serving || !c.router.lease.Held() {
		return nil, Term{}, kerr.NotLeaderForPartition.Code
	}
	switch current := t.LeaderEpoch(); {
	case p.CurrentLeaderEpoch >= 0 && p.CurrentLeaderEpoch < current:
		return nil, Term{}, kerr.FencedLeaderEpoch.Code
	case max(p.CurrentLeaderEpoch, p.LeaderEpoch) > current: // of a move that this gateway has not heard of yet
		return nil, Term{}, kerr.UnknownLeaderEpoch.Code
	}
	return share, t, 0
}

// epochEnds asks a site who leads the partitions, and those brokers for the ends.
func (c *Client) epochEnds(ctx context.Context, site spillway.SiteID, ends siteEnds) {
	var names []string
	for tp := range ends {
		names = append(names, tp.Topic)
	}
	slices.Sort(names)
	led := make(map[int32][]spillway.TopicPartition)
	md, err := c.router.sites[site].Metadata(ctx, slices.Compact(names)...)
	for tp, e := range ends {
		topic := md.Topics[tp.Topic]
		switch p := int(tp.Partition); {
		case err != nil:
			e.refuse(kerr.NotLeaderForPartition.Code)
		case topic.ErrorCode == kerr.TopicAuthorizationFailed.Code:
			e.refuse(topic.ErrorCode)
		case topic.ErrorCode == kerr.UnknownTopicOrPartition.Code, topic.ErrorCode == 0 && p >= len(topic.Partitions):
			e.refuse(kerr.UnknownTopicOrPartition.Code)
		case topic.ErrorCode != 0, topic.Partitions[p].Leader < 0:
			e.refuse(kerr.NotLeaderForPartition.Code)
		default:
			led[topic.Partitions[p].Leader] = append(led[topic.Partitions[p].Leader], tp)
		}
	}
	for node, tps := range led {
		told, err := c.askBroker(ctx, siteNode{site, node}, tps, 0, timestampLatest)
		for _, tp := range tps {
			in, heard := told[tp]
			ends[tp].answer(c.router, tp, in, err == nil && heard)
		}
	}
}

// refuse answers with an error.
func (e *epochEnd) refuse(code int16) {
	for _, out := range e.out {
		out.ErrorCode, out.LeaderEpoch = code, -1
	}
}

func (e *epochEnd) answer(r *Router, tp spillway.TopicPartition, in kmsg.ListOffsetsResponseTopicPartition, heard bool) {
	view := r.viewOf(e.share, e.term, tp)
	switch {
	case heard && in.ErrorCode == kerr.TopicAuthorizationFailed.Code:
		e.refuse(in.ErrorCode)
		return
	case !heard, in.ErrorCode != 0, view == nil, !e.share.Holds(e.term), !r.lease.Held():
		e.refuse(kerr.NotLeaderForPartition.Code)
		return
	}
	end, _ := view.ToVirtual(spillway.LocalOffset(in.Offset))
	if open, ok := view.Open(); ok {
		end = max(end, open.Virtual)
	}
	for _, out := range e.out {
		out.EndOffset = int64(end)
	}
}
