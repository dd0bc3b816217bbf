package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// ConsumerGroupDescribe (69), KIP-848. v1 member type. Topic ids are virtual.
// Left out: authorized operations (unknown).
var consumerGroupDescribeAPI = api{
	key: 69, min: 0, max: 1, needs: 0, begin: (*Client).beginConsumerGroupDescribe,
	treatment: translated, about: "Topic ids. Where every site has KIP-848 (Kafka 4.0).",
}

func (c *Client) beginConsumerGroupDescribe(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
		resp.Groups = ofGroups(ctx, c.router.config.HoldMax, firsts(req.Groups, itself), c.router.shareOfGroup, func(ctx context.Context, until time.Time, group string) kmsg.ConsumerGroupDescribeResponseGroup {
			return c.describeConsumerGroup(ctx, until, req.Version, group)
		})
		return resp.AppendTo(nil), nil
	}, nil
}

func (c *Client) describeConsumerGroup(ctx context.Context, until time.Time, version int16, group string) kmsg.ConsumerGroupDescribeResponseGroup {
	none := kmsg.NewConsumerGroupDescribeResponseGroup()
	none.Group = group
	share, ok := c.router.GroupShare(group)
	if none.ErrorCode = c.groupCode(authorization.Describe, group, share); none.ErrorCode != 0 {
		return none
	}
	if !ok {
		none.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return none
	}
	up := kmsg.NewPtrConsumerGroupDescribeRequest()
	up.Version, up.Groups = version, []string{group}
	got, err := c.persist(ctx, groupCall{share: share, group: group, req: up}, until)
	if err != nil {
		none.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return none
	}
	groups := got.(*kmsg.ConsumerGroupDescribeResponse).Groups
	if len(groups) != 1 {
		none.ErrorCode = kerr.UnknownServerError.Code
		return none
	}
	g := groups[0]
	c.stale(share, theGroup(group), g.ErrorCode)
	switch c.describesMembers(g) {
	case authorization.Denied:
		none.ErrorCode, none.ErrorMessage = kerr.TopicAuthorizationFailed.Code, kmsg.StringPtr("The group has described topic(s) that the client is not authorized to describe.")
		return none
	case authorization.Unknown:
		none.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return none
	case authorization.Allowed:
	}
	for i := range g.Members {
		c.virtualTopics(&g.Members[i].Assignment)
		c.virtualTopics(&g.Members[i].TargetAssignment)
	}
	return g
}

// describesMembers tells whether the client may know of all topics that a group is assigned. It
// has named none of them, so what it may not is no attempt. As with brokers (KafkaApis of 4.3.1)
// the names that members subscribed to do not count: they are what members said, whether there
// are such topics or not.
func (c *Client) describesMembers(g kmsg.ConsumerGroupDescribeResponseGroup) authorization.Verdict {
	worst := authorization.Allowed
	for _, m := range g.Members {
		for _, a := range []kmsg.Assignment{m.Assignment, m.TargetAssignment} {
			for _, t := range a.TopicPartitions {
				worst = min(worst, c.describes(t.Topic))
			}
		}
	}
	return worst
}

func (c *Client) virtualTopics(a *kmsg.Assignment) {
	for i := range a.TopicPartitions {
		a.TopicPartitions[i].TopicID = c.router.topology.TopicID(a.TopicPartitions[i].Topic)
	}
}
