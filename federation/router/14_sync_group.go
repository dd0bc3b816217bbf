package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// SyncGroup (14). v3 static members; v4 flexible; v5 protocol.
//
// It passes as it is: assignments name topics and partitions.
var syncGroupAPI = api{key: 14, min: 0, max: 5, needs: 0, begin: (*Client).beginSyncGroup}

func (c *Client) beginSyncGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrSyncGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
		share, ok := c.router.GroupShare(req.Group)
		if !ok {
			resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
			return resp.AppendTo(nil), nil
		}
		got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: req, yields: true, patience: rebalanceMax})
		if err != nil {
			resp.ErrorCode = c.unreached(share, err)
			return resp.AppendTo(nil), nil
		}
		c.stale(ctx, share, got.(*kmsg.SyncGroupResponse).ErrorCode)
		return got.AppendTo(nil), nil
	}, nil
}
