package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/groupdeletion"
	"spillway/federation/session"
)

// OffsetDelete (47).
//
// As DeleteGroups, for positions of a group. Where one of them cannot be deleted, since a
// member reads its topic, none is.
var offsetDeleteAPI = api{
	key: 47, min: 0, max: 0, needs: 0, begin: (*Client).beginOffsetDelete,
	level: AllAdministration, treatment: answeredHere, about: "As DeleteGroups. Where a member reads one of the topics, nothing is deleted.",
}

func (c *Client) beginOffsetDelete(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrOffsetDeleteRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, changeMax)
		defer cancel()
		return c.router.offsetDelete(ctx, req, who).AppendTo(nil), nil
	}, nil
}

func (r *Router) offsetDelete(ctx context.Context, req *kmsg.OffsetDeleteRequest, who string) *kmsg.OffsetDeleteResponse {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	d := groupdeletion.Deletion{Group: req.Group, Partitions: make(map[string][]int32), Who: who}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if _, ok := r.ShareOf(spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}); ok && p.Partition >= 0 {
				d.Partitions[t.Topic] = append(d.Partitions[t.Topic], p.Partition)
			}
		}
	}
	code := int16(0)
	if len(d.Partitions) > 0 {
		code, _ = groupAnswer(r.deleteOfGroup(ctx, d))
	}
	if code != 0 && code != kerr.GroupSubscribedToTopic.Code {
		resp.ErrorCode = code
		return resp
	}
	for _, t := range req.Topics {
		out := kmsg.NewOffsetDeleteResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			o := kmsg.NewOffsetDeleteResponseTopicPartition()
			o.Partition, o.ErrorCode = p.Partition, code
			if _, ok := r.ShareOf(spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}); !ok || p.Partition < 0 {
				o.ErrorCode = kerr.UnknownTopicOrPartition.Code
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
