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
	"spillway/mirror/offsetmap"
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

// offsetAsked is one partition of a request.
type offsetAsked struct {
	share     *Share
	tp        spillway.TopicPartition
	timestamp int64
	out       *kmsg.ListOffsetsResponseTopicPartition

	// Of the newest try.
	term Term
	view *offsetmap.View
}

func (o *offsetAsked) ofShare() *Share { return o.share }

// listOffsets asks each broker that leads some of the partitions once, and again for those
// whose share moves or whose leader cannot be reached, until the hold is over.
func (c *Client) listOffsets(ctx context.Context, req *kmsg.ListOffsetsRequest) *kmsg.ListOffsetsResponse {
	resp, asked := c.layOffsets(req)
	for until := time.Now().Add(c.router.config.HoldMax); len(asked) > 0; {
		changes := changesOf(asked)
		if asked = c.tryOffsets(ctx, changes, req.IsolationLevel, asked, until); len(asked) == 0 {
			break
		}
		if !c.hold(ctx, changes[asked[0].share], until) {
			break
		}
	}
	for _, o := range asked {
		o.out.ErrorCode = kerr.NotLeaderForPartition.Code
	}
	return resp
}

// layOffsets makes the empty answer and answers what cannot be asked for.
func (c *Client) layOffsets(req *kmsg.ListOffsetsRequest) (resp *kmsg.ListOffsetsResponse, asked []*offsetAsked) {
	resp = req.ResponseKind().(*kmsg.ListOffsetsResponse)
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))
	seen := make(map[spillway.TopicPartition]*kmsg.ListOffsetsResponseTopicPartition)
	for i, t := range req.Topics {
		topic := &resp.Topics[i]
		topic.Topic, topic.Partitions = t.Topic, make([]kmsg.ListOffsetsResponseTopicPartition, len(t.Partitions))
		may := c.guard(authorization.Describe, t.Topic)
		for j, p := range t.Partitions {
			out := &topic.Partitions[j]
			out.Default()
			out.Partition, out.Offset, out.Timestamp = p.Partition, -1, -1
			tp := spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			share, ok := c.router.ShareOf(tp)
			twice := seen[tp]
			seen[tp] = out
			switch code := may.of(p.Partition); {
			case code != 0:
				out.ErrorCode = code
			case !ok || tp.Partition < 0:
				out.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case twice != nil: // as brokers do
				out.ErrorCode, twice.ErrorCode = kerr.InvalidRequest.Code, kerr.InvalidRequest.Code
			case p.Timestamp < timestampMax:
				out.ErrorCode = kerr.UnsupportedVersion.Code
			case req.IsolationLevel < 0 || req.IsolationLevel > 1: // brokers fail
				out.ErrorCode = kerr.InvalidRequest.Code
			default:
				asked = append(asked, &offsetAsked{share: share, tp: tp, timestamp: p.Timestamp, out: out})
			}
		}
	}
	return resp, slices.DeleteFunc(asked, func(o *offsetAsked) bool { return o.out.ErrorCode != 0 })
}

// tryOffsets asks the sites once. It returns what is worth another try.
func (c *Client) tryOffsets(ctx context.Context, changes changes, isolation int8, asked []*offsetAsked, until time.Time) (again []*offsetAsked) {
	r := c.router
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(until), dialMax))
	defer cancel()
	var served []*offsetAsked
	var goals []*goal
	for _, o := range asked {
		var serving bool
		if o.term, serving = o.share.Serving(); !serving || !r.lease.Held() {
			again = append(again, o)
			continue
		}
		if o.view = r.viewOf(o.share, o.term, o.tp); o.view == nil {
			if _, exists := r.topics.find(ctx, o.tp.Topic); !exists && r.topics.heard(o.term.Site) {
				o.out.ErrorCode = kerr.UnknownTopicOrPartition.Code
				continue
			}
			again = append(again, o)
			continue
		}
		served = append(served, o)
		goals = append(goals, &goal{site: o.term.Site, find: func(ctx context.Context) (int32, error) { return r.sites[o.term.Site].Leader(ctx, o.tp) }})
	}
	searching, found := untilChanged(ctx, changes, served)
	c.lanes.reach(searching, OtherLane, goals)
	found()
	byLane := make(map[*Lane][]*offsetAsked)
	for i, g := range goals {
		switch o := served[i]; {
		case g.err == nil:
			byLane[g.lane] = append(byLane[g.lane], o)
		case errors.Is(g.err, broker.ErrUnknownTopic):
			o.out.ErrorCode = kerr.UnknownTopicOrPartition.Code
		default:
			r.relearn(o.term.Site, o.tp.Topic)
			again = append(again, o)
		}
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	for lane, led := range byLane {
		all.Go(func() {
			asking, end := untilChanged(ctx, changes, led)
			told, err := c.askBroker(asking, lane, led, isolation)
			end()
			for _, o := range led { // one write raises all
				if in, heard := told[o.tp]; heard && in.ErrorCode == 0 && in.Offset >= 0 {
					_, end := o.virtual(in)
					r.reserve.Ask(o.share, o.term, o.tp, end)
				}
			}
			for _, o := range led {
				in, heard := told[o.tp]
				if err != nil || !heard || !o.answer(ctx, r, in) {
					mu.Lock()
					again = append(again, o)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return again
}

// virtual is the offset that the site named, and the end of what has to be visible for it.
func (o *offsetAsked) virtual(in kmsg.ListOffsetsResponseTopicPartition) (v, end spillway.Offset) {
	v, _ = o.view.ToVirtual(spillway.LocalOffset(in.Offset))
	if o.timestamp >= 0 || o.timestamp == timestampMax {
		return v, v + 1 // a record is asked for
	}
	return v, v
}

// answer answers by what the site has said. False: it is to be asked again.
func (o *offsetAsked) answer(ctx context.Context, r *Router, in kmsg.ListOffsetsResponseTopicPartition) bool {
	switch in.ErrorCode {
	case 0:
	case kerr.UnknownTopicOrPartition.Code, kerr.TopicAuthorizationFailed.Code:
		o.out.ErrorCode = in.ErrorCode
		return true
	default:
		r.relearn(o.term.Site, o.tp.Topic)
		return false
	}
	if !o.share.Holds(o.term) || !r.lease.Held() {
		return false
	}
	if in.Offset < 0 { // no record at or after the time
		return true
	}
	v, end := o.virtual(in)
	// What another gateway has acknowledged is reserved, though the news may still be on its way.
	wait, cancel := context.WithTimeout(ctx, reserveMax)
	defer cancel()
	if r.reserve.Extend(wait, o.share, o.term, o.tp, end) != nil && ctx.Err() != nil {
		return false
	} // if not for lack of time, less is visible
	limit := r.VirtualHighWatermark(o.share, o.term, o.tp, end)
	switch o.timestamp {
	case timestampLatest:
		if limit < startOf(o.view) {
			return false // no site has said yet what is durable
		}
		v = min(v, limit)
	case timestampEarliest: // of an empty log this is its end
		v = min(v, max(limit, startOf(o.view)))
	default:
		if v >= limit {
			return true // not durable yet, so it does not exist yet
		}
	}
	o.out.Offset, o.out.Timestamp = int64(v), in.Timestamp
	return true
}

// askBroker puts one question about partitions that a broker leads.
func (c *Client) askBroker(ctx context.Context, lane *Lane, asked []*offsetAsked, isolation int8) (map[spillway.TopicPartition]kmsg.ListOffsetsResponseTopicPartition, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = min(lane.conn.MaxVersion(req.Key()), listOffsetsUpstreamMax)
	req.ReplicaID, req.IsolationLevel = -1, isolation
	for _, o := range asked {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != o.tp.Topic {
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = o.tp.Topic
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = o.tp.Partition, o.timestamp, -1
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	ctx, cancel := context.WithTimeout(ctx, c.router.config.ProduceMax)
	defer cancel()
	resp, err := c.lanes.ask(ctx, lane, req)
	if err != nil {
		return nil, err
	}
	told := make(map[spillway.TopicPartition]kmsg.ListOffsetsResponseTopicPartition, len(asked))
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			told[spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = p
		}
	}
	return told, nil
}
