package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// ConsumerGroupHeartbeat (68), KIP-848. v1 regular expressions.
//
// Topic ids are the site's own upstream and virtual downstream. While groups
// drain a member is told that it has no partitions: it commits, gives them up
// and says so. The site's coordinator does not know that, so afterwards the
// member is fenced and joins anew, at whichever site serves then. It is fenced
// as often as it comes with the epoch that it had, as the order may be lost with
// its answer: the site would let it go on for ever with no partitions. So is, after
// a move that was given up, one that this gateway does not know: another gateway
// may have told it.
//
// A member that was not told keeps its partitions while the share is not served,
// and comes again: nothing of it can be committed now, and if the same site serves
// again it goes on. It does not wait here for its answer, as its commits are to be
// answered behind it.
//
// Where rights are looked at, expressions are refused: the site's coordinator would go through
// its topics as the gateway that asks, and assign what the member may not know of.
var consumerGroupHeartbeatAPI = api{
	key: 68, min: 0, max: 1, needs: 0, begin: (*Client).beginConsumerGroupHeartbeat,
	treatment: translated, about: "Topic ids; no expressions where rights are looked at. Where every site has KIP-848 (Kafka 4.0).",
}

const (
	// drainBeatMillis is how soon a member that drains shall come back.
	drainBeatMillis = 250
	// beatMillisMax shortens the interval that the site asks for (5 s by
	// default): a member hears of a drain with its next heartbeat only.
	beatMillisMax = 1000
)

func (c *Client) beginConsumerGroupHeartbeat(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	mark := c.router.members.mark()
	return func(ctx context.Context) ([]byte, error) {
		return c.consumerGroupHeartbeat(ctx, req, mark).AppendTo(nil), nil
	}, nil
}

func (c *Client) consumerGroupHeartbeat(ctx context.Context, req *kmsg.ConsumerGroupHeartbeatRequest, mark uint64) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	resp.MemberID, resp.MemberEpoch = kmsg.StringPtr(req.MemberID), req.MemberEpoch
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	if resp.ErrorCode = c.maySubscribe(req); resp.ErrorCode != 0 {
		return resp
	}
	if c.checked() && subscribesByExpression(req) {
		resp.ErrorCode, resp.ErrorMessage = kerr.InvalidRequest.Code, kmsg.StringPtr(noExpressions)
		return resp
	}
	ms := c.router.members
	switch {
	case req.MemberEpoch < 0:
		c.router.left(share, req.Group, req.MemberID)
	case req.MemberEpoch == 0: // it joins anew, perhaps to the epoch that it had
		ms.ifKnown(req.Group, req.MemberID, func(mb *member) { mb.drained = 0 })
	}
	t, serving := share.Serving()
	told := req.MemberEpoch > 0 && (ms.rejoins(req.Group, req.MemberID, req.MemberEpoch) || share.givenUp(rejoinMemory) && ms.stranger(req.Group, req.MemberID))
	switch {
	case req.MemberEpoch > 0 && draining(share), told && !serving && c.router.coordinates(share, req.Group):
		return c.drainMember(share, req, resp)
	case told && serving:
		resp.ErrorCode, resp.MemberEpoch = kerr.FencedMemberEpoch.Code, 0
		return resp
	case !serving || draining(share) && req.MemberEpoch >= 0: // who leaves is still at the site
		resp.ErrorCode = c.later(share, req.Group)
		return resp
	}
	up, ok := c.siteHeartbeat(ctx, t, req)
	if !ok {
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp
	}
	got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: up})
	if err != nil {
		resp.ErrorCode = c.later(share, req.Group)
		return resp
	}
	answer := got.(*kmsg.ConsumerGroupHeartbeatResponse)
	if answer.ErrorCode == kerr.GroupIDNotFound.Code && req.MemberEpoch != 0 {
		// After an unplanned failover the site knows the group by its mirrored
		// offsets only. The member has to join anew; this error would end it.
		answer.ErrorCode = kerr.UnknownMemberID.Code
	}
	c.stale(share, theGroup(req.Group), answer.ErrorCode)
	if answer.ErrorCode == 0 && answer.MemberID != nil && req.MemberEpoch >= 0 {
		ms.heard(req.Group, *answer.MemberID, mark)
		ms.comesAs(req.Group, *answer.MemberID, req.InstanceID)
	}
	answer.HeartbeatIntervalMillis = min(answer.HeartbeatIntervalMillis, beatMillisMax)
	if answer.Assignment != nil && !c.router.virtualAssignment(ctx, t, answer.Assignment) {
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp
	}
	return answer
}

// maySubscribe looks at the topics that a member names, as brokers do.
func (c *Client) maySubscribe(req *kmsg.ConsumerGroupHeartbeatRequest) int16 {
	for _, topic := range req.SubscribedTopicNames {
		share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: topic})
		if code := c.positionCode(authorization.Describe, topic, share); code != 0 {
			return code
		}
	}
	return 0
}

// noExpressions is what Java's consumers show. The code with it is one that ends every
// library: INVALID_REGULAR_EXPRESSION has librdkafka 2.10 to 2.14 try again for ever.
const noExpressions = "Expressions are not resolved by the brokers here, as gateways decide what clients may know of (gateway.authorization.rules: acls). " +
	"Subscribe by names, or by a pattern that the client resolves itself: subscribe(java.util.regex.Pattern), or group.protocol=classic."

// subscribesByExpression tells whether a member wants the coordinator to find its topics. One
// that leaves wants nothing.
func subscribesByExpression(req *kmsg.ConsumerGroupHeartbeatRequest) bool {
	return req.MemberEpoch >= 0 && req.SubscribedTopicRegex != nil && *req.SubscribedTopicRegex != ""
}

// later is the answer to a member that cannot be served now: it comes again in a
// moment, or asks for its coordinator where another gateway may serve it.
func (c *Client) later(share *Share, group string) int16 {
	if c.router.lease.Held() && c.router.coordinates(share, group) {
		return kerr.CoordinatorLoadInProgress.Code
	}
	c.router.events.refused("coordinator")
	return kerr.NotCoordinator.Code
}

// drainMember tells a member to give up its partitions and notes when it has. One that would not be
// remembered comes again, and reads again what it has not committed.
func (c *Client) drainMember(share *Share, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) kmsg.Response {
	if !c.router.members.drains(&c.claims, req.Group, req.MemberID, req.MemberEpoch) {
		resp.ErrorCode = c.later(share, req.Group)
		return resp
	}
	if req.Topics != nil && len(req.Topics) == 0 {
		c.router.settled(share, req.Group, req.MemberID)
	}
	c.router.told(share, req.Group, req.MemberID)
	resp.HeartbeatIntervalMillis = drainBeatMillis
	resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{Topics: []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}}
	return resp
}

// siteHeartbeat is the request with the site's topic ids.
func (c *Client) siteHeartbeat(ctx context.Context, t Term, req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatRequest, bool) {
	up := *req
	if req.Topics == nil {
		return &up, true
	}
	up.Topics = make([]kmsg.ConsumerGroupHeartbeatRequestTopic, 0, len(req.Topics))
	naming := c.naming()
	for _, topic := range req.Topics {
		name, ok := naming.byID(ctx, topic.TopicID)
		if !ok {
			continue // deleted meanwhile; the coordinator will see that it is not owned
		}
		md, ok := c.router.topics.at(ctx, t.Site, c.router.config.MetadataMax)[name]
		if !ok {
			return nil, false
		}
		topic.TopicID = md.ID
		up.Topics = append(up.Topics, topic)
	}
	return &up, true
}

// virtualAssignment puts virtual topic ids into an assignment.
func (r *Router) virtualAssignment(ctx context.Context, t Term, a *kmsg.ConsumerGroupHeartbeatResponseAssignment) bool {
	for i := range a.Topics {
		name, ok := r.topics.nameAt(ctx, t.Site, a.Topics[i].TopicID)
		if !ok {
			return false
		}
		a.Topics[i].TopicID = r.topology.TopicID(name)
	}
	return true
}

// nameAt finds a topic by the site's own id.
func (t *topics) nameAt(ctx context.Context, site spillway.SiteID, id [16]byte) (string, bool) {
	// The second look is for a topic that was created just now.
	for _, age := range []time.Duration{t.router.config.MetadataMax, topicsAskEvery} {
		for name, topic := range t.at(ctx, site, age) {
			if topic.ID == id {
				return name, true
			}
		}
	}
	return "", false
}
