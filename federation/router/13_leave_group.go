package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// LeaveGroup (13). v3 several members; v4 flexible; v5 reason.
//
// A member that leaves while the share moves is unknown at the new site anyway.
var leaveGroupAPI = api{
	key: 13, min: 0, max: 5, needs: 0, begin: (*Client).beginLeaveGroup,
	treatment: forwarded,
}

func (c *Client) beginLeaveGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrLeaveGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
		share, ok := c.router.GroupShare(req.Group)
		if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode != 0 {
			return resp.AppendTo(nil), nil
		}
		if !ok {
			resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
			return resp.AppendTo(nil), nil
		}
		c.router.left(share, req.Group, req.MemberID)
		for _, m := range req.Members {
			c.router.left(share, req.Group, m.MemberID)
			left := kmsg.NewLeaveGroupResponseMember()
			left.MemberID, left.InstanceID = m.MemberID, m.InstanceID
			resp.Members = append(resp.Members, left)
		}
		got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: req})
		if err != nil {
			if _, serving := share.Serving(); serving {
				resp.ErrorCode = kerr.NotCoordinator.Code
			}
			return resp.AppendTo(nil), nil
		}
		c.stale(share, theGroup(req.Group), got.(*kmsg.LeaveGroupResponse).ErrorCode)
		return got.AppendTo(nil), nil
	}, nil
}
