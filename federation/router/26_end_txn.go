package router

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// EndTxn (26). v2 PRODUCER_FENCED; v3 flexible; v4 TRANSACTION_ABORTABLE. v5, whose answer
// has a new producer epoch (transactions of version 2), is left out.
//
// A move that is given up may leave a transaction open, or end it: the coordinator, which is
// the same one, tells which. What was begun before any other move was ended where it was
// begun: an abort has succeeded, and of a commit whose answer got lost the site that has it
// can tell, unless the move away from it may have lost something.
var endTxnAPI = api{
	key: 26, min: 0, max: 4, needs: 0, begin: (*Client).beginEndTxn,
	treatment: translated, about: "Producer ids. What was begun before a move is aborted, unless it had been committed.",
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
	if resp.ErrorCode = c.transactionCode(authorization.Write, req.TransactionalID, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		c.router.events.refused("transaction")
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp
	}
	older, told := false, resp
	err := c.transact(ctx, transactionCall{
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0), producerEpoch: req.ProducerEpoch, continued: true,
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			up.ProducerID = producer
			return &up, true
		},
		take: func(t Term, got kmsg.Response) {
			told = got.(*kmsg.EndTxnResponse)
			c.stale(share, theID(req.TransactionalID), told.ErrorCode)
			if told.ErrorCode == 0 {
				c.router.transactions.ended(req.TransactionalID)
			}
			epoch, _, _ := spillway.EpochOfProducerID(req.ProducerID)
			older = epoch < t.Epoch
		},
	})
	switch {
	case err != nil:
	case older && overIn(told.ErrorCode), older && told.ErrorCode == 0 && !req.Commit:
		err = errOtherEpoch // the move has ended it, or its producer has to begin anew now
	default:
		return told
	}
	switch {
	case !errors.Is(err, errOtherEpoch):
		resp.ErrorCode = c.transactionError(err)
	case !req.Commit:
		resp.ErrorCode = c.mannered().abort
	default:
		switch c.router.committedBefore(ctx, share, req) {
		case committedYes:
		case committedNo:
			resp.ErrorCode = c.transactionError(errOtherEpoch)
		case committedUnknown: // asked again
			resp.ErrorCode = c.transactionError(errMoving)
		}
	}
	return resp
}

// overIn tells whether a coordinator says with an error that the transaction which its
// producer means is not open any more.
func overIn(code int16) bool {
	return slices.Contains([]int16{kerr.ProducerFenced.Code, kerr.InvalidProducerEpoch.Code, kerr.InvalidProducerIDMapping.Code, kerr.InvalidTxnState.Code}, code)
}

// askBefore bounds the question to a site that does not serve any more, which may be down.
const askBefore = 2 * time.Second

// committed is what is known of a transaction of an older epoch. Unknown is no No: an
// application that is told so writes all of it again.
type committed int

const (
	committedUnknown committed = iota
	committedYes
	committedNo
)

// committedBefore tells whether a transaction of an older epoch was committed, and moves
// have lost nothing since.
func (r *Router) committedBefore(ctx context.Context, share *Share, req *kmsg.EndTxnRequest) committed {
	epoch, low, ok := spillway.EpochOfProducerID(req.ProducerID)
	if !ok {
		return committedNo
	}
	site := spillway.SiteID("")
	for _, t := range share.Record().Terms {
		switch {
		case t.Epoch == epoch:
			site = t.Site
		case t.Epoch > epoch && t.Lossy:
			return committedNo
		}
	}
	cluster := r.sites[site]
	if cluster == nil {
		return committedNo
	}
	ctx, cancel := context.WithTimeout(ctx, askBefore)
	defer cancel()
	found, err := cluster.Admin().DescribeTransaction(ctx, req.TransactionalID)
	switch {
	case errors.Is(err, broker.ErrUnknownTransactionalID):
		return committedNo
	case err != nil:
		r.tellUnknown(site, err)
		return committedUnknown
	case !spillway.SameProducerID(low, found.ProducerID) || found.ProducerEpoch != req.ProducerEpoch:
		return committedNo
	case found.State == broker.TransactionCommitted || found.State == broker.TransactionCommitting:
		return committedYes
	case found.State == broker.TransactionNone && !cluster.Capabilities().TransactionOutcome && r.transactions.isOpen(req.TransactionalID, epoch):
		// It was begun here and is over, so this request has ended it: had the move aborted
		// it, the producer's epoch were a newer one. Of one that was never begun nothing is there.
		return committedYes
	default:
		return committedNo
	}
}
