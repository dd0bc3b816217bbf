package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// DescribeGroups (15). v3 authorized operations; v4 static members; v5
// flexible; v6 error message. Left out: authorized operations (unknown).
var describeGroupsAPI = api{
	key: 15, min: 0, max: 6, needs: 0, begin: (*Client).beginDescribeGroups,
	treatment: forwarded, about: "Without authorized operations.",
}

func (c *Client) beginDescribeGroups(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
		resp.Groups = ofGroups(ctx, c.router.config.HoldMax, firsts(req.Groups, itself), c.router.shareOfGroup, func(ctx context.Context, until time.Time, group string) kmsg.DescribeGroupsResponseGroup {
			return c.describeGroup(ctx, until, req.Version, group)
		})
		return resp.AppendTo(nil), nil
	}, nil
}

func (c *Client) describeGroup(ctx context.Context, until time.Time, version int16, group string) kmsg.DescribeGroupsResponseGroup {
	none := kmsg.NewDescribeGroupsResponseGroup()
	none.Group = group
	share, ok := c.router.GroupShare(group)
	if none.ErrorCode = c.groupCode(authorization.Describe, group, share); none.ErrorCode != 0 {
		return none
	}
	if !ok {
		none.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return none
	}
	up := kmsg.NewPtrDescribeGroupsRequest()
	up.Version, up.Groups = version, []string{group}
	got, err := c.persist(ctx, groupCall{share: share, group: group, req: up}, until)
	if err != nil {
		none.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return none
	}
	groups := got.(*kmsg.DescribeGroupsResponse).Groups
	if len(groups) != 1 {
		none.ErrorCode = kerr.UnknownServerError.Code
		return none
	}
	c.stale(share, theGroup(group), groups[0].ErrorCode)
	return groups[0]
}
