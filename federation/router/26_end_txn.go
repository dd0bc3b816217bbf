package router

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/session"
)

// EndTxn (26). v2 PRODUCER_FENCED; v3 flexible; v4 TRANSACTION_ABORTABLE. v5, whose answer
// has a new producer epoch (transactions of version 2), is left out.
//
// A transaction of an older epoch was ended where it was begun: an abort has succeeded,
// and of a commit whose answer got lost the site that has it can tell, unless the move
// away from it may have lost something.
var endTxnAPI = api{
	key: 26, min: 0, max: 4, needs: 0, begin: (*Client).beginEndTxn,
	treatment: translated, about: "Producer ids. What was begun before a move is aborted.",
}

func (c *Client) beginEndTxn(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrEndTxnRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) { return c.endTxn(ctx, req).AppendTo(nil), nil }, nil
}

func (c *Client) endTxn(ctx context.Context, req *kmsg.EndTxnRequest) *kmsg.EndTxnResponse {
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	share, ok := c.router.TransactionShare(req.TransactionalID)
	if !ok {
		c.router.events.refused("transaction")
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	err := c.transact(ctx, transactionCall{
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0),
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			up.ProducerID = producer
			return &up, true
		},
		take: func(_ Term, got kmsg.Response) {
			resp = got.(*kmsg.EndTxnResponse)
			c.stale(ctx, share, resp.ErrorCode)
			if resp.ErrorCode == 0 {
				c.router.transactions.ended(req.TransactionalID)
			}
		},
	})
	switch {
	case err == nil:
	case errors.Is(err, errOtherEpoch) && !req.Commit:
		resp.ErrorCode = c.mannered().abort
	case errors.Is(err, errOtherEpoch) && c.router.committedBefore(ctx, share, req):
	default:
		resp.ErrorCode = c.transactionError(err)
	}
	return resp
}

// askBefore bounds the question to a site that does not serve any more, which may be down.
const askBefore = 2 * time.Second

// committedBefore tells whether a transaction of an older epoch was committed, and moves
// have lost nothing since.
func (r *Router) committedBefore(ctx context.Context, share *Share, req *kmsg.EndTxnRequest) bool {
	epoch, low, ok := spillway.EpochOfProducerID(req.ProducerID)
	if !ok {
		return false
	}
	site := spillway.SiteID("")
	for _, t := range share.Record().Terms {
		switch {
		case t.Epoch == epoch:
			site = t.Site
		case t.Epoch > epoch && t.Lossy:
			return false
		}
	}
	cluster := r.sites[site]
	if cluster == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askBefore)
	defer cancel()
	found, err := cluster.Admin().DescribeTransaction(ctx, req.TransactionalID)
	return err == nil && found.State == broker.TransactionCommitted && spillway.SameProducerID(low, found.ProducerID) && found.ProducerEpoch == req.ProducerEpoch
}
