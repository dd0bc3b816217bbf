package router

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
	"spillway/federation/topicchange"
)

// CreatePartitions (37). v1 same as v0; v2 flexible; v3 throttling.
//
// A topic grows at the sites that follow before it grows at the one that serves it, and
// all of them have to answer when it begins. Left out: brokers for the replicas.
var createPartitionsAPI = api{
	key: 37, min: 0, max: 3, needs: 0, begin: (*Client).beginCreatePartitions,
	treatment: answeredHere, about: "Grown at all sites, the one that serves last; all have to answer. Refused for unordered groups. Replicas cannot be placed. See operate/topics.md.",
}

func (c *Client) beginCreatePartitions(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrCreatePartitionsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		return c.router.createPartitions(ctx, req, who).AppendTo(nil), nil
	}, nil
}

func (r *Router) createPartitions(ctx context.Context, req *kmsg.CreatePartitionsRequest, who string) *kmsg.CreatePartitionsResponse {
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))
	ctx, cancel := context.WithTimeout(ctx, waitFor(req.TimeoutMillis))
	defer cancel()
	named := make(map[string]int)
	for _, t := range req.Topics {
		named[t.Topic]++
	}
	atOnce(len(req.Topics), func(i int) {
		asked, out := req.Topics[i], kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = asked.Topic
		var err error
		if named[asked.Topic] > 1 {
			err = refuse(kerr.InvalidRequest, "topic %s is named twice in the request", asked.Topic)
		} else {
			err = r.growTopic(ctx, asked, req.ValidateOnly, who)
		}
		if out.ErrorCode, out.ErrorMessage = answerTo(err); err != nil {
			r.events.refused("create-partitions")
		}
		resp.Topics[i] = out
	})
	return resp
}

func (r *Router) growTopic(ctx context.Context, asked kmsg.CreatePartitionsRequestTopic, checkOnly bool, who string) error {
	group, refusal := r.topicGroup(asked.Topic)
	switch {
	case refusal != nil && refusal.code == kerr.InvalidTopicException:
		return refusal
	case refusal != nil:
		return refuse(kerr.UnknownTopicOrPartition, "%s", refusal.message)
	case group.Siblings.Of != "":
		return refuse(kerr.PolicyViolation, "topic %s is of the unordered failover group %s, whose topics all have the partitions that its configuration says", asked.Topic, group.Siblings.Of)
	case len(asked.Assignment) > 0:
		return refuse(kerr.InvalidReplicaAssignment, "topic %s: brokers are each site's own, so replicas cannot be placed", asked.Topic)
	case asked.Count < 1 || asked.Count > partitionsMax:
		return refuse(kerr.InvalidPartitions, "topic %s with %d partitions: 1 to %d are possible", asked.Topic, asked.Count, partitionsMax)
	}
	if _, refusal := r.awaitStill(ctx, group); refusal != nil {
		return refusal
	}
	// What is under way is done first, so that the count is one that all sites have.
	if c, underWay, err := r.config.Changes.UnderWay(ctx, asked.Topic); err != nil {
		return err
	} else if underWay {
		if err := r.config.Changes.Await(ctx, c); err != nil {
			return err
		}
	}
	v, err := r.config.Changes.Look(ctx, group, asked.Topic)
	if err != nil {
		return err
	}
	if v.Serves == "" {
		return refuse(kerr.NotController, "failover group %s moves to another site; try again", group.Name)
	}
	for _, site := range group.Sites {
		if silent := v.Sites[site].Silent; silent != "" {
			return refuse(kerr.PolicyViolation, "topic %s does not grow while site %s does not answer, since partitions come at all sites or at none; try again when it is back (%s)", asked.Topic, site, silent)
		}
	}
	has := v.Sites[v.Serves].Partitions
	switch {
	case has == 0:
		return refuse(kerr.UnknownTopicOrPartition, "there is no topic %s", asked.Topic)
	case asked.Count == has:
		return refuse(kerr.InvalidPartitions, "Topic already has %d partitions.", has) // the broker's words
	case asked.Count < has:
		return refuse(kerr.InvalidPartitions, "Topic currently has %d partitions, which is higher than the requested %d.", has, asked.Count)
	case checkOnly:
		return nil
	}
	c := topicchange.Change{Kind: topicchange.Grow, Topic: asked.Topic, Partitions: asked.Count, Shown: has, Who: who}
	switch err := r.changeTopic(ctx, c); {
	case errors.Is(err, errOther):
		return refuse(kerr.InvalidPartitions, "Topic %s was grown by somebody else at the same time.", asked.Topic)
	case err != nil:
		return err
	}
	if md := r.awaitShown(ctx, group, asked.Topic, asked.Count); int32(len(md.Partitions)) < asked.Count {
		return refuse(kerr.RequestTimedOut, "topic %s has %d partitions; this gateway does not show them yet", asked.Topic, asked.Count)
	}
	return nil
}
