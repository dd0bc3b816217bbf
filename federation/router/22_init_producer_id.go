package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"math"

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
// hear of (C25). One with a transactional id is refused with
// TRANSACTIONAL_ID_AUTHORIZATION_FAILED: all clients take it as final and show
// it, where most other codes would be retried for ever.
var initProducerIDAPI = api{
	key: 22, min: 0, max: 5, needs: -1, begin: (*Client).beginInitProducerID,
	treatment: answeredHere, about: "A random id that no site hears of. Refused with a transactional id.",
}

func (c *Client) beginInitProducerID(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1 // stay for versions without the fields
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	verdict := authorization.Allowed
	if req.TransactionalID == nil {
		verdict = c.mayProduceIdempotently()
	}
	switch {
	case verdict != authorization.Allowed:
		resp.ErrorCode = codeOf(verdict, kerr.ClusterAuthorizationFailed, kerr.CoordinatorLoadInProgress)
	case req.TransactionalID != nil:
		c.router.events.refused("transactional")
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
	case req.ProducerID >= 0 && spillway.IsClientProducerID(req.ProducerID) && req.ProducerEpoch >= 0 && req.ProducerEpoch < math.MaxInt16-1:
		resp.ProducerID, resp.ProducerEpoch = req.ProducerID, req.ProducerEpoch+1
	default: // also where the epochs of an id are used up
		resp.ProducerID, resp.ProducerEpoch = newProducerID(), 0
	}
	return reply(resp), nil
}

func newProducerID() int64 {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return spillway.ClientProducerID(binary.BigEndian.Uint64(b[:]))
}
