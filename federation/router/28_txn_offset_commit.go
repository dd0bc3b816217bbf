package router

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// TxnOffsetCommit (28). v2 leader epoch; v3 flexible, members of groups (KIP-447); v4
// TRANSACTION_ABORTABLE. v5, which adds the group to the transaction by itself
// (transactions of version 2), is left out.
//
// Positions are stored as by OffsetCommit. A producer id of an older epoch gets
// ILLEGAL_GENERATION, which all clients answer with an abort: its transaction was ended
// by a move.
var txnOffsetCommitAPI = api{
	key: 28, min: 0, max: 4, needs: 0, begin: (*Client).beginTxnOffsetCommit,
	treatment: translated, about: "Producer ids, and positions as by OffsetCommit.",
}

func (c *Client) beginTxnOffsetCommit(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Generation = -1 // stays for versions without the field
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	mark := c.router.members.mark()
	return func(ctx context.Context) ([]byte, error) { return c.txnOffsetCommit(ctx, req, mark).AppendTo(nil), nil }, nil
}

// txnOffsetCommit lets a commit do what both have in common: the topics, their checks,
// and the site's numbers.
func (c *Client) txnOffsetCommit(ctx context.Context, req *kmsg.TxnOffsetCommitRequest, mark uint64) *kmsg.TxnOffsetCommitResponse {
	denied := c.mayNotCommit(req)
	cm := c.newCommit(ctx, plainCommit(req), denied)
	if denied == 0 {
		if code := c.txnCommitted(ctx, req, cm, mark); code != 0 {
			cm.refuse(code)
		}
	}
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	resp.ThrottleMillis = cm.resp.ThrottleMillis
	for _, t := range cm.resp.Topics {
		out := kmsg.NewTxnOffsetCommitResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			o := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			o.Partition, o.ErrorCode = p.Partition, p.ErrorCode
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// mayNotCommit is the answer to all of a request of a client that may not write the
// transactional id, or not read in the group; 0 if it may.
func (c *Client) mayNotCommit(req *kmsg.TxnOffsetCommitRequest) int16 {
	share, _ := c.router.TransactionShare(req.TransactionalID)
	if code := c.transactionCode(authorization.Write, req.TransactionalID, share); code != 0 {
		return code
	}
	of, _ := c.router.GroupShare(req.Group)
	return c.groupCode(authorization.Read, req.Group, of)
}

func (c *Client) txnCommitted(ctx context.Context, req *kmsg.TxnOffsetCommitRequest, cm *commit, mark uint64) (code int16) {
	share, ok := c.router.TransactionShare(req.TransactionalID)
	if !ok {
		return kerr.TransactionalIDAuthorizationFailed.Code
	}
	if of, ok := c.router.GroupShare(req.Group); !ok || of != share {
		return kerr.GroupAuthorizationFailed.Code
	}
	if len(cm.outs) == 0 {
		return 0
	}
	err := c.transact(ctx, transactionCall{
		id: req.TransactionalID, share: share, producer: max(req.ProducerID, 0), producerEpoch: req.ProducerEpoch, group: req.Group,
		upstream: func(t Term, producer int64) (kmsg.Request, bool) {
			plain, known := cm.upstream(share, t)
			if !known {
				return nil, false
			}
			up := *req
			up.ProducerID, up.Topics = producer, nil
			for _, t := range plain.Topics {
				topic := kmsg.NewTxnOffsetCommitRequestTopic()
				topic.Topic = t.Topic
				for _, p := range t.Partitions {
					out := kmsg.NewTxnOffsetCommitRequestTopicPartition()
					out.Partition, out.Offset, out.LeaderEpoch, out.Metadata = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata
					topic.Partitions = append(topic.Partitions, out)
				}
				up.Topics = append(up.Topics, topic)
			}
			return &up, true
		},
		take: func(_ Term, got kmsg.Response) {
			committed := plainCommitted(got.(*kmsg.TxnOffsetCommitResponse))
			cm.take(share, committed)
			if accepted(committed) { // the coordinator has found that it is the member
				c.router.members.commits(req.Group, req.MemberID, req.Generation, mark, true)
			}
		},
	})
	if errors.Is(err, errOtherEpoch) {
		return kerr.IllegalGeneration.Code
	}
	if err != nil {
		return c.transactionError(err)
	}
	return 0
}

// accepted tells whether a coordinator took the position of any partition.
func accepted(resp *kmsg.OffsetCommitResponse) bool {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode == 0 {
				return true
			}
		}
	}
	return false
}

func plainCommit(req *kmsg.TxnOffsetCommitRequest) *kmsg.OffsetCommitRequest {
	plain := kmsg.NewPtrOffsetCommitRequest()
	plain.Version = offsetCommitUpstreamMax // topics by name
	plain.Group = req.Group
	for _, t := range req.Topics {
		topic := kmsg.NewOffsetCommitRequestTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			in := kmsg.NewOffsetCommitRequestTopicPartition()
			in.Partition, in.Offset, in.Metadata = p.Partition, p.Offset, p.Metadata
			topic.Partitions = append(topic.Partitions, in)
		}
		plain.Topics = append(plain.Topics, topic)
	}
	return plain
}

func plainCommitted(got *kmsg.TxnOffsetCommitResponse) *kmsg.OffsetCommitResponse {
	plain := kmsg.NewPtrOffsetCommitResponse()
	plain.ThrottleMillis = got.ThrottleMillis
	for _, t := range got.Topics {
		topic := kmsg.NewOffsetCommitResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewOffsetCommitResponseTopicPartition()
			out.Partition, out.ErrorCode = p.Partition, p.ErrorCode
			topic.Partitions = append(topic.Partitions, out)
		}
		plain.Topics = append(plain.Topics, topic)
	}
	return plain
}
