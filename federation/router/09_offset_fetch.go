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
	"spillway/mirror/offsetmap"
)

// OffsetFetch (9). v2 all topics; v5 leader epoch; v6 flexible; v7 require
// stable; v8 several groups; v9 KIP-848; v10 topic ids.
//
// The exact virtual position stands in front of the metadata; a commit without
// it (of a tool at the site) is translated. The leader epoch is −1.
var offsetFetchAPI = api{
	key: 9, min: 1, max: 10, needs: 8, begin: (*Client).beginOffsetFetch,
	treatment: translated, about: "The exact virtual offset that was committed.",
}

const offsetFetchUpstreamMax = 9

func (c *Client) beginOffsetFetch(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		if req.Version < 8 {
			return c.offsetFetchOne(ctx, req).AppendTo(nil), nil
		}
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		shareOf := func(g kmsg.OffsetFetchRequestGroup) *Share { return c.router.shareOfGroup(g.Group) }
		resp.Groups = ofGroups(ctx, c.router.config.HoldMax, byGroup(req.Groups), shareOf, func(ctx context.Context, until time.Time, g kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
			return c.offsetFetch(ctx, until, g, req.RequireStable, req.Version)
		})
		return resp.AppendTo(nil), nil
	}, nil
}

// byGroup puts together what is asked of one group.
func byGroup(asked []kmsg.OffsetFetchRequestGroup) []kmsg.OffsetFetchRequestGroup {
	at := make(map[string]int, len(asked))
	var groups []kmsg.OffsetFetchRequestGroup
	for _, g := range asked {
		i, again := at[g.Group]
		switch {
		case !again:
			at[g.Group] = len(groups)
			groups = append(groups, g)
		case g.Topics == nil || groups[i].Topics == nil: // all of them
			groups[i].Topics = nil
		default:
			groups[i].Topics = append(slices.Clip(groups[i].Topics), g.Topics...)
		}
	}
	return groups
}

// offsetFetchOne serves the older form, for one group.
func (c *Client) offsetFetchOne(ctx context.Context, req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberEpoch = req.Group, -1
	if req.Topics != nil {
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		topic := kmsg.NewOffsetFetchRequestGroupTopic()
		topic.Topic, topic.Partitions = t.Topic, t.Partitions
		g.Topics = append(g.Topics, topic)
	}
	got := c.offsetFetch(ctx, time.Now().Add(c.router.config.HoldMax), g, req.RequireStable, req.Version)
	if req.Version < 2 && got.ErrorCode != 0 { // which has no place of its own
		got.Topics = nil
		for _, t := range g.Topics {
			got.Topics = append(got.Topics, noPositions(t, got.ErrorCode))
		}
	}
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	resp.ErrorCode = got.ErrorCode
	for _, t := range got.Topics {
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewOffsetFetchResponseTopicPartition()
			out.Partition, out.Offset, out.LeaderEpoch, out.Metadata, out.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func (c *Client) offsetFetch(ctx context.Context, until time.Time, g kmsg.OffsetFetchRequestGroup, stable bool, version int16) kmsg.OffsetFetchResponseGroup {
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = g.Group
	share, ok := c.router.GroupShare(g.Group)
	if out.ErrorCode = c.groupCode(authorization.Describe, g.Group, share); out.ErrorCode != 0 {
		return out
	}
	if !ok {
		c.router.events.refused("coordinator")
		out.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return out
	}
	byID, all := version >= 10, g.Topics == nil
	if asked := g.Topics; (byID || c.checked()) && !all {
		g.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, 0, len(asked))
		naming := c.naming()
		for _, t := range asked {
			name, known := naming.of(ctx, byID, t.Topic, t.TopicID)
			if !known {
				out.Topics = append(out.Topics, noPositions(t, kerr.UnknownTopicID.Code))
				continue
			}
			share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: name})
			code := c.positionCode(authorization.Describe, name, share)
			if byID {
				code = c.undisclosed(code, name, share)
			}
			if code == kerr.CoordinatorLoadInProgress.Code {
				// Of the group: Java's clients ask again then, and end at any code of a partition
				// that is about no right.
				out.ErrorCode, out.Topics = code, nil
				return out
			}
			if code != 0 {
				out.Topics = append(out.Topics, noPositions(t, code))
				continue
			}
			t.Topic = name
			g.Topics = append(g.Topics, t)
		}
		if len(g.Topics) == 0 && len(asked) > 0 {
			return out
		}
	}
	var found []kmsg.OffsetFetchResponseGroupTopic
	if own := c.holdUntil(share); own.Before(until) {
		until = own
	}
	if !c.whileHeld(ctx, share, until, func() (a attempt) {
		found, out.ErrorCode, a = c.offsetFetchAt(ctx, share, g, stable, version)
		return a
	}) {
		out.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return out
	}
	for _, t := range found {
		if all {
			switch c.describes(t.Topic) {
			case authorization.Denied:
				continue
			case authorization.Unknown: // without it the list would pass for all of them
				out.ErrorCode, out.Topics = kerr.CoordinatorLoadInProgress.Code, nil
				return out
			case authorization.Allowed:
			}
		}
		if byID {
			t.TopicID = c.router.topology.TopicID(t.Topic)
		}
		out.Topics = append(out.Topics, t)
	}
	return out
}

func noPositions(t kmsg.OffsetFetchRequestGroupTopic, code int16) kmsg.OffsetFetchResponseGroupTopic {
	out := kmsg.NewOffsetFetchResponseGroupTopic()
	out.Topic, out.TopicID = t.Topic, t.TopicID
	for _, p := range t.Partitions {
		o := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		o.Partition, o.Offset, o.Metadata, o.ErrorCode = p, -1, kmsg.StringPtr(""), code
		out.Partitions = append(out.Partitions, o)
	}
	return out
}

// offsetFetchAt asks the coordinator once. It is worth another try when the
// share moves, or the site's map does not know a partition yet.
func (c *Client) offsetFetchAt(ctx context.Context, share *Share, g kmsg.OffsetFetchRequestGroup, stable bool, version int16) (topics []kmsg.OffsetFetchResponseGroupTopic, code int16, _ attempt) {
	t, serving := share.Serving()
	if !serving {
		return nil, 0, moving
	}
	up := kmsg.NewPtrOffsetFetchRequest()
	up.Version = min(max(version, 8), offsetFetchUpstreamMax)
	up.RequireStable, up.Groups = stable, []kmsg.OffsetFetchRequestGroup{g}
	got, err := c.coordinate(ctx, groupCall{share: share, group: g.Group, req: up})
	if err != nil {
		return nil, 0, attemptOf(err)
	}
	groups := got.(*kmsg.OffsetFetchResponse).Groups
	if len(groups) != 1 {
		return nil, kerr.UnknownServerError.Code, done
	}
	found := &groups[0]
	c.stale(share, theGroup(g.Group), found.ErrorCode)
	for i := range found.Topics {
		topic := &found.Topics[i]
		for j := range topic.Partitions {
			tp := spillway.TopicPartition{Topic: topic.Topic, Partition: topic.Partitions[j].Partition}
			if !c.router.position(share, t, tp, &topic.Partitions[j]) {
				return nil, 0, soon
			}
		}
	}
	return found.Topics, found.ErrorCode, done
}

// position makes a committed position virtual.
func (r *Router) position(coordinator *Share, t Term, tp spillway.TopicPartition, p *kmsg.OffsetFetchResponseGroupTopicPartition) bool {
	p.LeaderEpoch = -1
	if p.Offset < 0 || p.ErrorCode != 0 {
		return true
	}
	if p.Metadata != nil {
		if v, _, metadata, ok := offsetmap.DecodeCommit(*p.Metadata); ok {
			p.Offset, p.Metadata = int64(v), &metadata
			return true
		}
	}
	share, ok := r.ShareOf(tp)
	if !ok { // of a topic that left all failover groups
		p.Offset = -1
		return true
	}
	view := r.committedView(coordinator, t, share, tp)
	if view == nil {
		return false
	}
	v, _ := view.ToVirtual(spillway.LocalOffset(p.Offset))
	p.Offset = int64(v)
	return true
}
