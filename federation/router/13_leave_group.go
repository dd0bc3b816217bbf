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
// A member that leaves while the share moves is unknown at the new site anyway; where the move is
// given up, it is taken from the old one. Its join, if one is held, ends at once, and where the
// gateway has joined for it at the new site already, that one leaves (rejoins).
var leaveGroupAPI = api{
	key: 13, min: 0, max: 5, needs: 0, begin: (*Client).beginLeaveGroup,
	treatment: forwarded,
}

func (c *Client) beginLeaveGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrLeaveGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode == 0 && !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
	}
	if resp.ErrorCode != 0 {
		return reply(resp), nil
	}
	// Now: the answer waits for that of a join before it on the connection.
	c.router.rejoins.leaves(memberName{req.Group, req.MemberID})
	for _, m := range req.Members {
		c.router.rejoins.leaves(memberName{req.Group, m.MemberID})
	}
	return func(ctx context.Context) ([]byte, error) {
		return c.leaveGroup(ctx, share, req, resp).AppendTo(nil), nil
	}, nil
}

func (c *Client) leaveGroup(ctx context.Context, share *Share, req *kmsg.LeaveGroupRequest, resp *kmsg.LeaveGroupResponse) kmsg.Response {
	leaves := func(id string) (is string) {
		is = c.router.rejoins.left(memberName{req.Group, id})
		if is != id { // it is known as what it is
			c.router.left(share, req.Group, is)
		}
		c.router.left(share, req.Group, id)
		return is
	}
	req.MemberID = leaves(req.MemberID)
	asked := make(map[string]string, len(req.Members)) // by what they are at the site
	for i, m := range req.Members {
		left := kmsg.NewLeaveGroupResponseMember()
		left.MemberID, left.InstanceID = m.MemberID, m.InstanceID
		resp.Members = append(resp.Members, left)
		is := leaves(m.MemberID)
		req.Members[i].MemberID, asked[is] = is, m.MemberID
	}
	got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: req})
	if err != nil {
		if _, serving := share.Serving(); serving {
			resp.ErrorCode = kerr.NotCoordinator.Code
			return resp
		}
		c.router.dismiss(share, req.Group, req.MemberID, "it left while its group moved")
		for _, m := range req.Members {
			c.router.dismiss(share, req.Group, m.MemberID, "it left while its group moved")
		}
		return resp
	}
	left := got.(*kmsg.LeaveGroupResponse)
	c.stale(share, theGroup(req.Group), left.ErrorCode)
	for i, m := range left.Members {
		if id, ok := asked[m.MemberID]; ok {
			left.Members[i].MemberID = id
		}
	}
	return left
}
