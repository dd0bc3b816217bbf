package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// AddPartitionsToTxn (24). v2 PRODUCER_FENCED; v3 flexible. v4 and v5, between brokers
// and for several ids, are left out.
//
// All partitions must be of the failover group that names the transactional id (C33):
// others get TOPIC_AUTHORIZATION_FAILED, which all clients show and none repeats, and
// nothing is added, as with Kafka.
var addPartitionsToTxnAPI = api{
	key: 24, min: 0, max: 3, needs: 0, begin: (*Client).beginAddPartitionsToTxn,
	treatment: translated, about: "Producer ids. Partitions of the failover group that names the transactional id; others are refused with TOPIC_AUTHORIZATION_FAILED.",
}

func (c *Client) beginAddPartitionsToTxn(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) { return c.addPartitionsToTxn(ctx, req).AppendTo(nil), nil }, nil
}

func (c *Client) addPartitionsToTxn(ctx context.Context, req *kmsg.AddPartitionsToTxnRequest) *kmsg.AddPartitionsToTxnResponse {
	share, ok := c.router.TransactionShare(req.TransactionalID)
	if code := c.transactionCode(authorization.Write, req.TransactionalID, share); code != 0 {
		return c.notAdded(req, func(spillway.TopicPartition) int16 { return code })
	}
	if !ok {
		return c.notAdded(req, func(spillway.TopicPartition) int16 { return kerr.TransactionalIDAuthorizationFailed.Code })
	}
	if refused := c.notToAdd(req, share); len(refused) > 0 {
		return c.notAdded(req, func(tp spillway.TopicPartition) int16 {
			if code, is := refused[tp]; is {
				return code
			}
			return kerr.OperationNotAttempted.Code
		})
	}
	var resp *kmsg.AddPartitionsToTxnResponse
	err := c.transact(ctx, transactionCall{
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0), producerEpoch: req.ProducerEpoch, begins: true,
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			up.ProducerID = producer
			return &up, true
		},
		take: func(_ Term, got kmsg.Response) {
			resp = got.(*kmsg.AddPartitionsToTxnResponse)
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					c.stale(share, theID(req.TransactionalID), p.ErrorCode)
				}
			}
			if share.givenUp(fenceLately) {
				fenced(resp)
			}
		},
	})
	if err != nil {
		code := c.transactionError(err)
		return c.notAdded(req, func(spillway.TopicPartition) int16 { return code })
	}
	return resp
}

// fenceLately is how long a fence may stand after a move that was given up: loops look for it
// every ten seconds.
const fenceLately = 30 * time.Second

// fenced has a client try again where the gateway's own principal was denied by what such a
// move has left. What the client may do was decided before.
func fenced(resp *kmsg.AddPartitionsToTxnResponse) {
	denied := false
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			denied = denied || p.ErrorCode == kerr.TopicAuthorizationFailed.Code
		}
	}
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			switch code := &t.Partitions[i].ErrorCode; *code {
			case kerr.TopicAuthorizationFailed.Code:
				*code = kerr.CoordinatorLoadInProgress.Code
			case kerr.OperationNotAttempted.Code: // for it; librdkafka gives the transaction up
				if denied {
					*code = kerr.CoordinatorLoadInProgress.Code
				}
			}
		}
	}
}

// notToAdd are the partitions that are not of the transactional id's failover group, or that
// the client may not write.
func (c *Client) notToAdd(req *kmsg.AddPartitionsToTxnRequest, share *Share) map[spillway.TopicPartition]int16 {
	refused := make(map[spillway.TopicPartition]int16)
	for _, t := range req.Topics {
		may := c.guard(authorization.Write, t.Topic)
		for _, p := range t.Partitions {
			tp := spillway.TopicPartition{Topic: t.Topic, Partition: p}
			of, ok := c.router.ShareOf(tp)
			switch code := may.of(p); {
			case !ok, of != share, code == kerr.TopicAuthorizationFailed.Code:
				refused[tp] = kerr.TopicAuthorizationFailed.Code
			case code != 0: // the share has just moved to a site whose list was never read
				refused[tp] = kerr.CoordinatorLoadInProgress.Code
			}
		}
	}
	return refused
}

// notAdded answers each partition with an error of the gateway's own.
func (c *Client) notAdded(req *kmsg.AddPartitionsToTxnRequest, code func(spillway.TopicPartition) int16) *kmsg.AddPartitionsToTxnResponse {
	resp := req.ResponseKind().(*kmsg.AddPartitionsToTxnResponse)
	for _, t := range req.Topics {
		out := kmsg.NewAddPartitionsToTxnResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			o := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			o.Partition, o.ErrorCode = p, code(spillway.TopicPartition{Topic: t.Topic, Partition: p})
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
