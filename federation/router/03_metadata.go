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
		return c.metadata(ctx, req).AppendTo([]byte{}), nil
	}, nil
}

func (c *Client) metadata(ctx context.Context, req *kmsg.MetadataRequest) *kmsg.MetadataResponse {
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
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		all := r.topics.all(ctx)
		slices.SortFunc(all, func(a, b broker.TopicMetadata) int { return cmp.Compare(a.Name, b.Name) })
		for _, md := range all {
			switch c.describes(md.Name) {
			case authorization.Allowed:
				resp.Topics = append(resp.Topics, r.topicMetadata(l, md))
			case authorization.Unknown:
				// Left out it would pass for deleted, and who may know of it elsewhere, as lists
				// are carried from site to site, most likely may here.
				if c.describesSomewhere(md.Name) {
					resp.Topics = append(resp.Topics, undisclosedTopic(kmsg.MetadataRequestTopic{Topic: &md.Name}, kerr.LeaderNotAvailable.Code))
				}
			case authorization.Denied:
			}
		}
		return resp
	}
	naming := c.naming()
	for _, t := range req.Topics {
		resp.Topics = append(resp.Topics, c.askedTopic(ctx, l, naming, t))
	}
	return resp
}

func (c *Client) askedTopic(ctx context.Context, l layout.Layout, naming *naming, asked kmsg.MetadataRequestTopic) kmsg.MetadataResponseTopic {
	r, name := c.router, ""
	if asked.Topic != nil {
		name = *asked.Topic
	} else if found, ok := naming.byID(ctx, asked.TopicID); ok {
		name = found
	} else {
		t := kmsg.NewMetadataResponseTopic()
		t.TopicID, t.ErrorCode = asked.TopicID, kerr.UnknownTopicID.Code
		return t
	}
	share, _ := r.ShareOf(spillway.TopicPartition{Topic: name})
	if v := c.may(authorization.Describe, authorization.Topic, name, share); v != authorization.Allowed {
		code := codeOf(v, kerr.TopicAuthorizationFailed, kerr.LeaderNotAvailable)
		if asked.Topic == nil {
			code = c.undisclosed(code, name, share)
		}
		return undisclosedTopic(asked, code)
	}
	md, ok := r.topics.find(ctx, name)
	if ok {
		return r.topicMetadata(l, md)
	}
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.ErrorCode = kmsg.StringPtr(name), kerr.UnknownTopicOrPartition.Code
	if share != nil && !r.topics.heard(home(share)) {
		t.ErrorCode = kerr.LeaderNotAvailable.Code // nobody could tell; the client asks again
	}
	return t
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
	for _, p := range md.Partitions {
		out := kmsg.NewMetadataResponseTopicPartition()
		out.Partition = p.Partition
		tp := spillway.TopicPartition{Topic: md.Name, Partition: p.Partition}
		share, ok := r.ShareOf(tp)
		if !ok { // the topic has more partitions than its sibling groups
			continue
		}
		n, ok := leader(l, share, tp)
		if !ok {
			out.ErrorCode, out.Leader = kerr.LeaderNotAvailable.Code, -1
		} else {
			out.Leader, out.Replicas = n.ID, replicas(l, share, tp, n)
			out.ISR = out.Replicas
			out.LeaderEpoch = spillway.VirtualLeaderEpoch(share.Epoch())
		}
		t.Partitions = append(t.Partitions, out)
	}
	return t
}

// replicas are the leader and, of a group whose standbys are read, the node of each other
// site: Java reads at a preferred replica only where it is one of these. Whether a standby is
// in sync is not among what they tell: it is looked at with each fetch.
func replicas(l layout.Layout, share *Share, tp spillway.TopicPartition, leads layout.Node) []int32 {
	ids := []int32{leads.ID}
	for _, site := range share.Group.Sites {
		if !share.Group.ReadsAt(site) || site == leads.Site {
			continue
		}
		if n, ok := l.Nearest(share.ID, tp, site); ok {
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
