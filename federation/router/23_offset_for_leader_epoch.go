package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
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
//	B  a request costs a site one question about metadata at most, where not all leaders are
//	   known, and each of its brokers one about ends; it drops nothing that other clients use
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

// epochEndsMax is for all sites to answer in: the answers of a connection come in order.
const epochEndsMax = 5 * time.Second

// epochEnd is one partition whose log end is asked for.
type epochEnd struct {
	tp    spillway.TopicPartition
	share *Share
	term  Term
	out   []*kmsg.OffsetForLeaderEpochResponseTopicPartition
}

func (c *Client) offsetForLeaderEpoch(ctx context.Context, req *kmsg.OffsetForLeaderEpochRequest) *kmsg.OffsetForLeaderEpochResponse {
	ctx, cancel := context.WithTimeout(ctx, epochEndsMax)
	defer cancel()
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	var asked []*epochEnd
	byPartition := make(map[spillway.TopicPartition]*epochEnd)
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
			end := byPartition[tp]
			if end == nil {
				end = &epochEnd{tp: tp, share: share, term: term}
				byPartition[tp] = end
				asked = append(asked, end)
			}
			end.out = append(end.out, answer)
		}
		resp.Topics = append(resp.Topics, out)
	}
	c.epochEnds(ctx, asked)
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

// epochSite asks a site who leads the partitions that a request names there, once.
type epochSite struct {
	cluster broker.Cluster
	names   []string

	// Owned by the one who looks for them.
	asked bool
	md    broker.Metadata
	err   error
}

// leader is a goal's find.
func (s *epochSite) leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	if node, known := s.cluster.KnownLeader(tp); known {
		return node, nil
	}
	if !s.asked {
		slices.Sort(s.names)
		s.md, s.err = s.cluster.Metadata(ctx, slices.Compact(s.names)...)
		s.asked = true
	}
	topic := s.md.Topics[tp.Topic]
	switch p := int(tp.Partition); {
	case s.err != nil:
		return 0, s.err
	case topic.ErrorCode != 0:
		return 0, kerr.ErrorForCode(topic.ErrorCode)
	case p >= len(topic.Partitions):
		return 0, kerr.UnknownTopicOrPartition
	case topic.Partitions[p].Leader < 0:
		return 0, broker.ErrNoLeader
	default:
		return topic.Partitions[p].Leader, nil
	}
}

// epochEnds asks sites who leads the partitions, and those brokers for the ends. None waits for
// another.
func (c *Client) epochEnds(ctx context.Context, asked []*epochEnd) {
	sites := make(map[spillway.SiteID]*epochSite)
	goals := make([]*goal, len(asked))
	for i, e := range asked {
		site := sites[e.term.Site]
		if site == nil {
			site = &epochSite{cluster: c.router.sites[e.term.Site]}
			sites[e.term.Site] = site
		}
		site.names = append(site.names, e.tp.Topic)
		goals[i] = &goal{site: e.term.Site, find: func(ctx context.Context) (int32, error) { return site.leader(ctx, e.tp) }}
	}
	c.lanes.reach(ctx, OtherLane, goals)
	byLane := make(map[*Lane][]*epochEnd)
	for i, g := range goals {
		switch e := asked[i]; {
		case g.err == nil:
			byLane[g.lane] = append(byLane[g.lane], e)
		case errors.Is(g.err, kerr.TopicAuthorizationFailed):
			e.refuse(kerr.TopicAuthorizationFailed.Code)
		case errors.Is(g.err, kerr.UnknownTopicOrPartition):
			e.refuse(kerr.UnknownTopicOrPartition.Code)
		default:
			c.router.relearn(e.term.Site, e.tp.Topic)
			e.refuse(kerr.NotLeaderForPartition.Code)
		}
	}
	var all sync.WaitGroup
	for lane, led := range byLane {
		all.Go(func() {
			questions := make([]*offsetAsked, len(led))
			for i, e := range led {
				questions[i] = &offsetAsked{tp: e.tp, timestamp: timestampLatest}
			}
			told, err := c.askBroker(ctx, lane, questions, 0)
			for _, e := range led {
				in, heard := told[e.tp]
				e.answer(c.router, in, err == nil && heard)
			}
		})
	}
	all.Wait()
}

// refuse answers with an error.
func (e *epochEnd) refuse(code int16) {
	for _, out := range e.out {
		out.ErrorCode, out.LeaderEpoch = code, -1
	}
}

func (e *epochEnd) answer(r *Router, in kmsg.ListOffsetsResponseTopicPartition, heard bool) {
	view := r.viewOf(e.share, e.term, e.tp)
	if heard && in.ErrorCode == kerr.TopicAuthorizationFailed.Code {
		e.refuse(in.ErrorCode)
		return
	}
	if !heard || in.ErrorCode != 0 { // who leads it may have changed
		r.relearn(e.term.Site, e.tp.Topic)
	}
	switch {
	case heard && in.ErrorCode == kerr.UnknownTopicOrPartition.Code:
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
