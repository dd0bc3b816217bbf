package router

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// AddOffsetsToTxn (25). v2 PRODUCER_FENCED; v3 flexible; v4 TRANSACTION_ABORTABLE.
//
// The consumer group must be of the failover group that names the transactional id
// (C33): another one gets GROUP_AUTHORIZATION_FAILED.
var addOffsetsToTxnAPI = api{
	key: 25, min: 0, max: 4, needs: 0, begin: (*Client).beginAddOffsetsToTxn,
	treatment: translated, about: "Producer ids. A consumer group of the failover group that names the transactional id; others are refused with GROUP_AUTHORIZATION_FAILED.",
}

func (c *Client) beginAddOffsetsToTxn(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) { return c.addOffsetsToTxn(ctx, req).AppendTo(nil), nil }, nil
}

func (c *Client) addOffsetsToTxn(ctx context.Context, req *kmsg.AddOffsetsToTxnRequest) *kmsg.AddOffsetsToTxnResponse {
	resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	share, ok := c.router.TransactionShare(req.TransactionalID)
	if resp.ErrorCode = c.transactionCode(authorization.Write, req.TransactionalID, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		c.router.events.refused("transaction")
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	of, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, of); resp.ErrorCode != 0 {
		return resp
	}
	if !ok || of != share {
		c.router.events.refused("transaction")
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	err := c.transact(ctx, transactionCall{
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0), producerEpoch: req.ProducerEpoch, begins: true,
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			up.ProducerID = producer
			return &up, true
		},
		take: func(_ Term, got kmsg.Response) {
			resp = got.(*kmsg.AddOffsetsToTxnResponse)
			c.stale(share, theID(req.TransactionalID), resp.ErrorCode)
		},
	})
	if err != nil && !(errors.Is(err, errOtherEpoch) && c.mannered().later) {
		resp.ErrorCode = c.transactionError(err)
	}
	return resp
}
