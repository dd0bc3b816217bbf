package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
	"spillway/mirror/sitelog"
)

// SyncGroup (14). v3 static members; v4 flexible; v5 protocol.
//
// It passes as it is: assignments name topics and partitions. Right after a move
// it waits a moment, so that all members that were held are in the generation: a
// member that got the partitions of another would start where that one committed,
// while that one goes on where it was.
var syncGroupAPI = api{
	key: 14, min: 0, max: 5, needs: 0, begin: (*Client).beginSyncGroup,
	treatment: forwarded,
}

// gatherMax is how long after a move generations are not completed.
const gatherMax = 300 * time.Millisecond

// gather waits until members that were held during a move have had their time.
func gather(ctx context.Context, s *Share) {
	t, serving := s.Serving()
	if left := gatherMax - time.Since(t.Opened); serving && len(t.Past) > 0 && left > 0 {
		_ = sitelog.Pause(ctx, left) // what the site is asked ends with ctx too
	}
}

func (c *Client) beginSyncGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrSyncGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	mark := c.router.members.mark()
	return func(ctx context.Context) ([]byte, error) { return c.syncGroup(ctx, req, mark).AppendTo(nil), nil }, nil
}

func (c *Client) syncGroup(ctx context.Context, req *kmsg.SyncGroupRequest, mark uint64) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.memberCode(req.Group, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	c.router.members.ifKnown(req.Group, req.MemberID, func(mb *member) { c.router.members.uses(mb, req.MemberID) })
	gather(ctx, share)
	got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: req, yields: true, patience: rebalanceMax})
	if err != nil {
		resp.ErrorCode = c.unreached(share, req.Group)
		return resp
	}
	code := got.(*kmsg.SyncGroupResponse).ErrorCode
	if c.stale(share, theGroup(req.Group), code); code == 0 {
		c.router.members.heard(req.Group, req.MemberID, mark)
	}
	return got
}
