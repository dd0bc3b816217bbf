package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
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
	if !ok {
		return c.notAdded(req, func(spillway.TopicPartition) int16 { return kerr.TransactionalIDAuthorizationFailed.Code })
	}
	elsewhere := func(tp spillway.TopicPartition) bool {
		s, ok := c.router.ShareOf(tp)
		return !ok || s != share
	}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if elsewhere(spillway.TopicPartition{Topic: t.Topic, Partition: p}) {
				return c.notAdded(req, func(tp spillway.TopicPartition) int16 {
					if elsewhere(tp) {
						return kerr.TopicAuthorizationFailed.Code
					}
					return kerr.OperationNotAttempted.Code
				})
			}
		}
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
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					c.stale(ctx, share, p.ErrorCode)
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
