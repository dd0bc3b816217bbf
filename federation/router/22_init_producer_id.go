package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// InitProducerId (22). v2 flexible; v3 current id and epoch (KIP-360); v4, v5
// further errors. v6 (two-phase commit) is left out.
//
// A client without a transactional id gets a random id that the sites never
// hear of (C25). One with a transactional id gets that of the coordinator of the site,
// under the epoch (transactions.go). A transactional id that no failover group names is
// refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED: all clients take it as final and
// show it, where most other codes would be retried for ever. INVALID_TRANSACTION_TIMEOUT is
// the same, and is what a broker says to a timeout above its own limit.
var initProducerIDAPI = api{
	key: 22, min: 0, max: 5, needs: 0, begin: (*Client).beginInitProducerID,
	treatment: translated, about: "The id of the site's coordinator under the epoch, for a transactional id that a failover group names; a timeout above `transactionTimeoutMax` is refused with INVALID_TRANSACTION_TIMEOUT. Without one, a random id that no site hears of.",
}

func (c *Client) beginInitProducerID(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1 // stay for versions without the fields
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	if req.TransactionalID != nil {
		return func(ctx context.Context) ([]byte, error) { return c.initTransactional(ctx, req).AppendTo(nil), nil }, nil
	}
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	verdict := c.mayProduceIdempotently()
	switch {
	case verdict != authorization.Allowed:
		resp.ErrorCode = codeOf(verdict, kerr.ClusterAuthorizationFailed, kerr.CoordinatorLoadInProgress)
	case req.ProducerID >= 0 && spillway.IsClientProducerID(req.ProducerID) && req.ProducerEpoch >= 0 && req.ProducerEpoch < math.MaxInt16-1:
		resp.ProducerID, resp.ProducerEpoch = req.ProducerID, req.ProducerEpoch+1
	default: // also where the epochs of an id are used up
		resp.ProducerID, resp.ProducerEpoch = newProducerID(), 0
	}
	return reply(resp), nil
}

// initTransactional has the site's coordinator give the id. One that the client had in
// an older epoch says nothing there: the client is like one that begins.
func (c *Client) initTransactional(ctx context.Context, req *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	id := *req.TransactionalID
	failed := func(code int16) *kmsg.InitProducerIDResponse {
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code, -1, -1
		return resp
	}
	share, ok := c.router.TransactionShare(id)
	if code := c.transactionCode(authorization.Write, id, share); code != 0 {
		return failed(code)
	}
	if !ok {
		c.router.events.refused("transaction")
		return failed(kerr.TransactionalIDAuthorizationFailed.Code)
	}
	timeout := time.Duration(req.TransactionTimeoutMillis) * time.Millisecond
	if most := share.Group.TransactionTimeoutMax; most > 0 && timeout > most {
		c.router.events.refused("transaction")
		return failed(kerr.InvalidTransactionTimeout.Code)
	}
	var resp *kmsg.InitProducerIDResponse
	call := transactionCall{
		id: id, share: share, producer: req.ProducerID, producerEpoch: req.ProducerEpoch,
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			if up.ProducerID = producer; producer < 0 {
				up.ProducerEpoch = -1
			}
			return &up, true
		},
		take: func(t Term, got kmsg.Response) {
			resp = got.(*kmsg.InitProducerIDResponse)
			c.stale(share, theID(id), resp.ErrorCode)
			if resp.ErrorCode != 0 || resp.ProducerID < 0 {
				return
			}
			c.router.transactions.initialized(id, t.Epoch, resp.ProducerID, resp.ProducerEpoch, timeout)
			resp.ProducerID = spillway.TransactionalProducerID(t.Epoch, resp.ProducerID)
		},
	}
	err := c.transact(ctx, call)
	if errors.Is(err, errOtherEpoch) {
		call.producer = -1
		err = c.transact(ctx, call)
	}
	switch {
	case errors.Is(err, errOtherProducer):
		return failed(kerr.ProducerFenced.Code) // as the coordinator says to the id of another producer
	case err != nil:
		return failed(c.transactionError(err))
	}
	return resp
}

func newProducerID() int64 {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return spillway.ClientProducerID(binary.BigEndian.Uint64(b[:]))
}
