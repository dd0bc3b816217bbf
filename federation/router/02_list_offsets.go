package router

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// ListOffsets (2). v1 one offset; v2 isolation level; v4 leader epoch; v6
// flexible; v7 max timestamp (KIP-734); v8 local log start; v9 tiered offset;
// v10 timeout.
//
// Offsets are virtual; the end is the virtual high watermark, so nothing is
// named that a fetch would not hand out. The leader epoch is −1. Left out: the
// questions about tiered storage (−4, −5), which have no meaning over sites.
var listOffsetsAPI = api{
	key: 2, min: 1, max: 10, needs: 1, begin: (*Client).beginListOffsets,
	treatment: translated, about: "Virtual offsets; the end is what a fetch would hand out. Timestamps −1, −2, −3 and times; those of tiered storage (−4, −5) are refused.",
}

const listOffsetsUpstreamMax = 7

// Special timestamps.
const (
	timestampLatest   = -1
	timestampEarliest = -2
	timestampMax      = -3
)

func (c *Client) beginListOffsets(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		return c.listOffsets(ctx, req).AppendTo(nil), nil
	}, nil
}

func (c *Client) listOffsets(ctx context.Context, req *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	until := time.Now().Add(c.router.config.HoldMax)
	for _, t := range req.Topics {
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		may := c.guard(authorization.Describe, t.Topic)
		for _, p := range t.Partitions {
			tp := spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			if code := may.of(p.Partition); code != 0 {
				refused := kmsg.NewListOffsetsResponseTopicPartition()
				refused.Partition, refused.Offset, refused.Timestamp, refused.ErrorCode = p.Partition, -1, -1, code
				out.Partitions = append(out.Partitions, refused)
				continue
			}
			out.Partitions = append(out.Partitions, c.listOffset(ctx, req.IsolationLevel, tp, p.Timestamp, until))
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// listOffset answers for one partition. Clients ask rarely and for few, so
// partitions are asked for one by one.
func (c *Client) listOffset(ctx context.Context, isolation int8, tp spillway.TopicPartition, timestamp int64, until time.Time) kmsg.ListOffsetsResponseTopicPartition {
	out := kmsg.NewListOffsetsResponseTopicPartition()
	out.Partition, out.Offset, out.Timestamp = tp.Partition, -1, -1
	share, ok := c.router.ShareOf(tp)
	switch {
	case !ok || tp.Partition < 0:
		out.ErrorCode = kerr.UnknownTopicOrPartition.Code
		return out
	case timestamp < timestampMax:
		out.ErrorCode = kerr.UnsupportedVersion.Code
		return out
	case isolation < 0 || isolation > 1: // brokers fail
		out.ErrorCode = kerr.InvalidRequest.Code
		return out
	}
	if !c.whileHeld(ctx, share, until, func() attempt {
		t, serving := share.Serving()
		if !serving || !c.router.lease.Held() {
			return moving
		}
		if out.ErrorCode = c.ask(ctx, share, t, tp, isolation, timestamp, &out); out.ErrorCode == kerr.NotLeaderForPartition.Code {
			return soon // a leader that moves is looked for again
		}
		return done
	}) {
		out.ErrorCode = kerr.NotLeaderForPartition.Code
	}
	return out
}

// ask puts the question to the site. NOT_LEADER_OR_FOLLOWER: try again.
func (c *Client) ask(ctx context.Context, share *Share, t Term, tp spillway.TopicPartition, isolation int8, timestamp int64, out *kmsg.ListOffsetsResponseTopicPartition) int16 {
	r := c.router
	const again = 6 // NOT_LEADER_OR_FOLLOWER
	view := r.viewOf(share, t, tp)
	if view == nil {
		if _, exists := r.topics.find(ctx, tp.Topic); !exists && r.topics.heard(t.Site) {
			return kerr.UnknownTopicOrPartition.Code
		}
		return again
	}
	in, err := c.askSite(ctx, t.Site, tp, isolation, timestamp)
	if errors.Is(err, broker.ErrUnknownTopic) {
		return kerr.UnknownTopicOrPartition.Code
	}
	if err != nil {
		r.relearn(t.Site, tp.Topic)
		return again
	}
	switch in.ErrorCode {
	case 0:
	case kerr.UnknownTopicOrPartition.Code, kerr.TopicAuthorizationFailed.Code:
		return in.ErrorCode
	default:
		r.relearn(t.Site, tp.Topic)
		return again
	}
	if !share.Holds(t) || !r.lease.Held() {
		return again
	}
	if in.Offset < 0 { // no record at or after the time
		return 0
	}
	v, _ := view.ToVirtual(spillway.LocalOffset(in.Offset))
	end := v
	if timestamp >= 0 || timestamp == timestampMax {
		end++ // a record is asked for
	}
	// What another gateway has acknowledged is reserved, though the news may
	// still be on its way.
	wait, cancel := context.WithTimeout(ctx, reserveMax)
	defer cancel()
	_ = r.reserve.Extend(wait, share, t, tp, end) // if not, less is visible
	limit := r.VirtualHighWatermark(share, t, tp, end)
	switch timestamp {
	case timestampLatest:
		if limit < startOf(view) {
			return again // no site has said yet what is durable
		}
		v = min(v, limit)
	case timestampEarliest: // of an empty log this is its end
		v = min(v, max(limit, startOf(view)))
	default:
		if v >= limit {
			return 0 // not durable yet, so it does not exist yet
		}
	}
	out.Offset, out.Timestamp = int64(v), in.Timestamp
	return 0
}

func (c *Client) askSite(ctx context.Context, site spillway.SiteID, tp spillway.TopicPartition, isolation int8, timestamp int64) (kmsg.ListOffsetsResponseTopicPartition, error) {
	none := kmsg.NewListOffsetsResponseTopicPartition()
	node, err := c.router.sites[site].Leader(ctx, tp)
	if err != nil {
		return none, err
	}
	told, err := c.askBroker(ctx, siteNode{site, node}, []spillway.TopicPartition{tp}, isolation, timestamp)
	if err != nil {
		return none, err
	}
	if in, ok := told[tp]; ok {
		return in, nil
	}
	none.ErrorCode = kerr.UnknownServerError.Code
	return none, nil
}

// siteNode is a broker of a site.
type siteNode struct {
	site spillway.SiteID
	node int32
}

// askBroker puts one question about partitions that a broker leads.
func (c *Client) askBroker(ctx context.Context, at siteNode, tps []spillway.TopicPartition, isolation int8, timestamp int64) (map[spillway.TopicPartition]kmsg.ListOffsetsResponseTopicPartition, error) {
	lane, err := c.lanes.Lane(ctx, OtherLane, at.site, at.node)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = min(lane.conn.MaxVersion(req.Key()), listOffsetsUpstreamMax)
	req.ReplicaID, req.IsolationLevel = -1, isolation
	for _, tp := range tps {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != tp.Topic {
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = tp.Topic
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = tp.Partition, timestamp, -1
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	ctx, cancel := context.WithTimeout(ctx, c.router.config.ProduceMax)
	defer cancel()
	resp, err := c.lanes.ask(ctx, lane, req)
	if err != nil {
		return nil, err
	}
	told := make(map[spillway.TopicPartition]kmsg.ListOffsetsResponseTopicPartition, len(tps))
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			told[spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = p
		}
	}
	return told, nil
}
