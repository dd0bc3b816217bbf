package router

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/layout"
	"spillway/federation/session"
)

// Metadata (3). v1 controller, racks, null = all topics; v2 cluster id; v4
// auto creation; v5 offline replicas; v7 leader epoch; v8 authorized
// operations; v9 flexible; v10 topic ids; v12 topics by id; v13 top-level
// error (KIP-1102).
//
// The brokers are the virtual nodes of the layout, never a site's. Left out:
// auto creation by asking (forced off), authorized operations (unknown), and
// topics outside of all failover groups.
var metadataAPI = api{
	key: 3, min: 0, max: 13, needs: 1, begin: (*Client).beginMetadata,
	treatment: answeredHere, about: "Gateways as brokers, topics of failover groups, virtual topic ids and leader epochs. Topics are not created by asking.",
}

func (c *Client) beginMetadata(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrMetadataRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		return c.metadata(ctx, sreq, req).AppendTo([]byte{}), nil
	}, nil
}

// partitionBytes is about what a partition takes in an answer to Metadata, with what it is
// encoded from.
const partitionBytes = 192

func (c *Client) metadata(ctx context.Context, sreq session.Request, req *kmsg.MetadataRequest) *kmsg.MetadataResponse {
	r := c.router
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	l := r.layout.Current()
	resp.ClusterID = kmsg.StringPtr(r.topology.ClusterID())
	for _, n := range l.Nodes {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = n.ID, n.Host, n.Port, kmsg.StringPtr(string(n.Site))
		resp.Brokers = append(resp.Brokers, b)
	}
	if len(l.Nodes) > 0 {
		resp.ControllerID = l.Nodes[0].ID
	}
	var topics []answeredTopic
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		topics = c.allTopics(ctx)
	} else {
		naming := c.naming()
		for _, t := range firsts(req.Topics, askedAs) {
			topics = append(topics, c.askedTopic(ctx, naming, t))
		}
	}
	partitions := 0
	for _, t := range topics {
		partitions += len(t.found.Partitions)
	}
	room := sreq.Whole(ctx, int64(partitions)*partitionBytes)
	if !room {
		r.events.refused("metadata-memory")
	}
	for _, t := range topics {
		switch {
		case t.found.Name == "":
		case room:
			t.answer = r.topicMetadata(l, t.found)
		default: // clients ask again
			t.answer = undisclosedTopic(kmsg.MetadataRequestTopic{Topic: &t.found.Name}, kerr.LeaderNotAvailable.Code)
			t.answer.TopicID = r.topology.TopicID(t.found.Name)
		}
		resp.Topics = append(resp.Topics, t.answer)
	}
	return resp
}

// answeredTopic is a topic that was found, or the answer where there is nothing to tell of it.
type answeredTopic struct {
	found  broker.TopicMetadata
	answer kmsg.MetadataResponseTopic
}

// allTopics are those of which the client may know, by name.
func (c *Client) allTopics(ctx context.Context) (topics []answeredTopic) {
	all := c.router.topics.all(ctx)
	slices.SortFunc(all, func(a, b broker.TopicMetadata) int { return cmp.Compare(a.Name, b.Name) })
	for _, md := range all {
		switch c.describes(md.Name) {
		case authorization.Allowed:
			topics = append(topics, answeredTopic{found: md})
		case authorization.Unknown:
			// Left out it would pass for deleted, and who may know of it elsewhere, as lists
			// are carried from site to site, most likely may here.
			if c.describesSomewhere(md.Name) {
				topics = append(topics, answeredTopic{answer: undisclosedTopic(kmsg.MetadataRequestTopic{Topic: &md.Name}, kerr.LeaderNotAvailable.Code)})
			}
		case authorization.Denied:
		}
	}
	return topics
}

// topicKey is how a request names a topic.
type topicKey struct {
	name string
	id   [16]byte
}

func askedAs(t kmsg.MetadataRequestTopic) topicKey {
	if t.Topic != nil {
		return topicKey{name: *t.Topic}
	}
	return topicKey{id: t.TopicID}
}

func (c *Client) askedTopic(ctx context.Context, naming *naming, asked kmsg.MetadataRequestTopic) answeredTopic {
	r, name := c.router, ""
	if asked.Topic != nil {
		name = *asked.Topic
	} else if found, ok := naming.byID(ctx, asked.TopicID); ok {
		name = found
	} else {
		t := kmsg.NewMetadataResponseTopic()
		t.TopicID, t.ErrorCode = asked.TopicID, kerr.UnknownTopicID.Code
		return answeredTopic{answer: t}
	}
	share, _ := r.ShareOf(spillway.TopicPartition{Topic: name})
	if v := c.may(authorization.Describe, authorization.Topic, name, share); v != authorization.Allowed {
		code := codeOf(v, kerr.TopicAuthorizationFailed, kerr.LeaderNotAvailable)
		if asked.Topic == nil {
			code = c.undisclosed(code, name, share)
		}
		return answeredTopic{answer: undisclosedTopic(asked, code)}
	}
	if md, ok := r.topics.find(ctx, name); ok {
		return answeredTopic{found: md}
	}
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.ErrorCode = kmsg.StringPtr(name), kerr.UnknownTopicOrPartition.Code
	if share != nil && !r.topics.heard(home(share)) {
		t.ErrorCode = kerr.LeaderNotAvailable.Code // nobody could tell; the client asks again
	}
	return answeredTopic{answer: t}
}

// undisclosedTopic is the answer about a topic that the client may not know of: it repeats what
// was asked, and does not tell whether there is one.
func undisclosedTopic(asked kmsg.MetadataRequestTopic, code int16) kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.ErrorCode, t.Topic = code, asked.Topic
	if asked.Topic == nil {
		t.TopicID = asked.TopicID
	}
	return t
}

// heard tells whether a site has ever answered.
func (t *topics) heard(site spillway.SiteID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.bySite[site]
	return s != nil && s.topics != nil
}

func (r *Router) topicMetadata(l layout.Layout, md broker.TopicMetadata) kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID = kmsg.StringPtr(md.Name), r.topology.TopicID(md.Name)
	t.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, len(md.Partitions))
	var of ledBy
	for _, p := range md.Partitions {
		tp := spillway.TopicPartition{Topic: md.Name, Partition: p.Partition}
		if of.share == nil || of.share.Group.Siblings.Of != "" {
			share, ok := r.ShareOf(tp)
			if !ok { // the topic has more partitions than its sibling groups
				continue
			}
			if share != of.share {
				of = ledBy{share: share, leads: l.Leads(share.ID), epoch: spillway.VirtualLeaderEpoch(share.Epoch()), alone: make(map[int32][]int32)}
			}
		}
		out := kmsg.NewMetadataResponseTopicPartition()
		out.Partition = p.Partition
		n, ok := of.leads(p.Partition)
		if !ok {
			out.ErrorCode, out.Leader = kerr.LeaderNotAvailable.Code, -1
		} else {
			out.Leader, out.LeaderEpoch, out.Replicas = n.ID, of.epoch, of.replicas(l, tp, n)
			out.ISR = out.Replicas
		}
		t.Partitions = append(t.Partitions, out)
	}
	return t
}

// ledBy is what partitions of a share have in common: there may be 100,000 of them in an answer.
type ledBy struct {
	share *Share
	leads func(partition int32) (layout.Node, bool)
	epoch int32
	alone map[int32][]int32 // by leader, replicas where there are no others
}

// replicas are the leader and, of a group whose standbys are read, the node of each other
// site: Java reads at a preferred replica only where it is one of these. Whether a standby is
// in sync is not among what they tell: it is looked at with each fetch.
func (b *ledBy) replicas(l layout.Layout, tp spillway.TopicPartition, leader layout.Node) []int32 {
	if b.share.Group.Reads != spillway.ReadsStandby {
		ids, ok := b.alone[leader.ID]
		if !ok {
			ids = []int32{leader.ID}
			b.alone[leader.ID] = ids
		}
		return ids
	}
	ids := []int32{leader.ID}
	for _, site := range b.share.Group.Sites {
		if !b.share.Group.ReadsAt(site) || site == leader.Site {
			continue
		}
		if n, ok := l.Nearest(b.share.ID, tp, site); ok {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// leader of a partition among the virtual nodes. The site's own leaders are
// left out of the choice: gateways may know different ones for a moment, and
// then two would accept produces for one partition (C23).
func leader(l layout.Layout, share *Share, tp spillway.TopicPartition) (layout.Node, bool) {
	return l.Leader(share.ID, tp, -1)
}
