package router

import (
	"context"

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
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0), begins: true,
		upstream: func(_ Term, producer int64) (kmsg.Request, bool) {
			up := *req
			up.ProducerID = producer
			return &up, true
		},
		take: func(_ Term, got kmsg.Response) {
			resp = got.(*kmsg.AddPartitionsToTxnResponse)
			for i := range resp.Topics {
				for j := range resp.Topics[i].Partitions {
					code := &resp.Topics[i].Partitions[j].ErrorCode
					c.stale(ctx, share, *code)
					if *code == kerr.TopicAuthorizationFailed.Code {
						// The gateway's own principal was denied, by a resource fence that a move
						// which was given up has left for a moment. What the client may do was
						// decided before.
						*code = kerr.CoordinatorLoadInProgress.Code
					}
				}
			}
		},
	})
	if err != nil {
		code := c.transactionError(err)
		return c.notAdded(req, func(spillway.TopicPartition) int16 { return code })
	}
	return resp
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
