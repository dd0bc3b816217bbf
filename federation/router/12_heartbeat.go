package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// Heartbeat (12). v3 static members; v4 flexible.
//
// While groups drain or the share moves the answer is REBALANCE_IN_PROGRESS:
// members commit, give up their partitions and join again (experiments L).
var heartbeatAPI = api{
	key: 12, min: 0, max: 4, needs: 0, begin: (*Client).beginHeartbeat,
	treatment: forwarded, about: "REBALANCE_IN_PROGRESS while groups drain.",
}

func (c *Client) beginHeartbeat(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrHeartbeatRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	mark := c.router.members.mark()
	return func(ctx context.Context) ([]byte, error) { return c.heartbeat(ctx, req, mark).AppendTo(nil), nil }, nil
}

func (c *Client) heartbeat(ctx context.Context, req *kmsg.HeartbeatRequest, mark uint64) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.memberCode(req.Group, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: req, yields: true})
	if err != nil {
		resp.ErrorCode = c.unreached(share, req.Group)
		c.router.told(share, req.Group, req.MemberID)
		return resp
	}
	code := got.(*kmsg.HeartbeatResponse).ErrorCode
	c.stale(share, theGroup(req.Group), code)
	switch code {
	case 0, kerr.RebalanceInProgress.Code: // the coordinator knows it
		c.router.members.heard(req.Group, req.MemberID, mark)
		c.router.members.comesAs(req.Group, req.MemberID, req.InstanceID)
	case kerr.UnknownMemberID.Code:
		c.router.left(share, req.Group, req.MemberID)
	}
	return got
}

// unreached is the answer to a member whose coordinator could not be asked: it
// joins again while groups drain, and while the share is fenced if its join is held
// here; otherwise it asks for the coordinator.
func (c *Client) unreached(share *Share, group string) int16 {
	_, serving := share.Serving()
	if draining(share) || !serving && c.router.coordinates(share, group) {
		return kerr.RebalanceInProgress.Code
	}
	c.router.events.refused("coordinator")
	return kerr.NotCoordinator.Code
}
