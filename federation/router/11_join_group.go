package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// JoinGroup (11). v1 rebalance timeout; v4 member id required; v5 static
// members; v6 flexible; v7 protocol type; v8 reason; v9 skip assignment.
//
// It passes as it is: names of topics are the same everywhere, and nothing in
// it is an offset. While groups drain or the share moves it waits here, and goes
// to the new site afterwards, as that of a new member. All members that waited
// so arrive together. If each were told that it is unknown and came back in its
// own time, the first would read and commit everything in a generation of its
// own, and the next, which believes that it still has its partitions
// (cooperative assignors), would go on behind those commits.
var joinGroupAPI = api{key: 11, min: 0, max: 9, needs: 0, begin: (*Client).beginJoinGroup}

// joinAnewMax: once without an id, and once with the one that was given.
const joinAnewMax = 2

// rebalanceMax bounds the rebalance timeout that a member may ask for.
const rebalanceMax = 30 * time.Minute

func (c *Client) beginJoinGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrJoinGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		return c.joinGroup(ctx, req).AppendTo(nil), nil
	}, nil
}

func (c *Client) joinGroup(ctx context.Context, req *kmsg.JoinGroupRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = -1, req.MemberID
	share, ok := c.router.GroupShare(req.Group)
	if !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	rebalance := time.Duration(max(req.RebalanceTimeoutMillis, req.SessionTimeoutMillis, 0)) * time.Millisecond
	waited, anew := false, 0
	call := groupCall{share: share, group: req.Group, req: req, yields: true, patience: min(rebalance, rebalanceMax) + groupPatience}
	for until := time.Now().Add(share.Group.GroupDrain + c.router.config.HoldMax); ; {
		changed := share.Changed()
		if draining(share) {
			c.router.settled(share, req.Group, req.MemberID)
		}
		got, err := c.coordinate(ctx, call)
		if err == nil {
			joined := got.(*kmsg.JoinGroupResponse)
			c.stale(ctx, share, joined.ErrorCode)
			if waited && anew < joinAnewMax && joinsAnew(req, joined) {
				anew++
				continue
			}
			if joined.ErrorCode == 0 {
				if joined.MemberID != resp.MemberID {
					c.router.members.gone(req.Group, resp.MemberID)
				}
				c.router.members.touch(req.Group, joined.MemberID)
			}
			return joined
		}
		waited = true
		if !c.hold(ctx, changed, until) {
			resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
			return resp
		}
	}
}

// joinsAnew makes the request of a member that waited for the new site one of
// a new member, as its client would after the error. The client learns its id
// from the answer.
func joinsAnew(req *kmsg.JoinGroupRequest, joined *kmsg.JoinGroupResponse) bool {
	switch {
	case joined.ErrorCode == kerr.UnknownMemberID.Code && req.MemberID != "":
		req.MemberID = ""
		return true
	case joined.ErrorCode == kerr.MemberIDRequired.Code && req.MemberID == "" && joined.MemberID != "":
		req.MemberID = joined.MemberID
		return true
	default:
		return false
	}
}
