package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
	"spillway/federation/topicchange"
)

// CreateTopics (19). v4 defaults of the cluster (KIP-464); v5 flexible, and the answer
// tells what was created (KIP-525); v6 throttling; v7 topic ids.
//
// The topic is created at the site that serves its failover group, and by the mirrors at
// the others. The answer comes when that site has it and this gateway shows it. Left out:
// brokers for its replicas, which are each site's own.
var createTopicsAPI = api{
	key: 19, min: 2, max: 7, needs: 2, begin: (*Client).beginCreateTopics,
	level: TopicAdministration, treatment: answeredHere, about: "With gateway.administration. Made at all sites of the failover group that the name belongs to; names of no group are refused, and compacted topics of unordered groups. Replicas cannot be placed. See operate/topics.md.",
}

func (c *Client) beginCreateTopics(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrCreateTopicsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		return c.createTopics(ctx, req, who).AppendTo(nil), nil
	}, nil
}

func (c *Client) createTopics(ctx context.Context, req *kmsg.CreateTopicsRequest, who string) *kmsg.CreateTopicsResponse {
	r := c.router
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))
	ctx, cancel := context.WithTimeout(ctx, waitFor(req.TimeoutMillis))
	defer cancel()
	named, partitions := make(map[string]int), 0
	for _, t := range req.Topics {
		named[t.Topic]++
		switch {
		case t.NumPartitions == -1:
			partitions += defaultPartitions
		case t.NumPartitions > 0:
			partitions += int(t.NumPartitions)
		}
	}
	atOnce(len(req.Topics), func(i int) {
		asked, out := req.Topics[i], kmsg.NewCreateTopicsResponseTopic()
		out.Topic = asked.Topic
		var err error
		switch {
		case named[asked.Topic] > 1:
			err = refuse(kerr.InvalidRequest, "topic %s is named twice in the request", asked.Topic)
		case partitions > partitionsMax:
			err = refuse(kerr.PolicyViolation, "%d partitions in one request, at most %d are created at once; a topic with the default number counts for %d", partitions, partitionsMax, defaultPartitions)
		default:
			if err = c.mayCreate(asked.Topic); err == nil {
				err = r.createTopic(ctx, asked, req.ValidateOnly, who, &out)
			}
			if err == nil {
				c.withoutSettings(&out)
			}
		}
		if out.ErrorCode, out.ErrorMessage = r.answerTo(err); err != nil {
			r.events.refused("create-topic")
		}
		resp.Topics[i] = out
	})
	return resp
}

// mayCreate tells whether the client may create topics, or this one. Who may create all of
// them is asked about first, and quietly, as at a broker; entries about the cluster count
// at any site, as none carries them to others.
func (c *Client) mayCreate(topic string) error {
	if !c.checked() {
		return nil
	}
	all := c.decide(authorization.Create, authorization.Cluster, authorization.ClusterName, nil).Decision.Verdict
	share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: topic})
	one := c.decide(authorization.Create, authorization.Topic, topic, share)
	switch max(all, one.Decision.Verdict) {
	case authorization.Denied:
		c.router.events.denied(one)
		return refuse(kerr.TopicAuthorizationFailed, "Authorization failed.")
	case authorization.Unknown:
		return errUnread
	case authorization.Allowed:
	}
	return nil
}

// withoutSettings keeps what was created from whom it may not be described to, as a broker
// does (KIP-525).
func (c *Client) withoutSettings(out *kmsg.CreateTopicsResponseTopic) {
	share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: out.Topic})
	if c.mayQuietly(authorization.DescribeConfigs, authorization.Topic, out.Topic, share) {
		return
	}
	out.NumPartitions, out.ReplicationFactor, out.Configs = -1, -1, nil
	out.ConfigErrorCode = kerr.TopicAuthorizationFailed.Code
}

// createTopic checks one topic, has it created, and fills in what was.
func (r *Router) createTopic(ctx context.Context, asked kmsg.CreateTopicsRequestTopic, checkOnly bool, who string, out *kmsg.CreateTopicsResponseTopic) error {
	group, refusal := r.topicGroup(asked.Topic)
	if refusal != nil {
		return refusal
	}
	configs, refusal := newTopic(group, asked)
	if refusal != nil {
		return refusal
	}
	site, refusal := r.awaitStill(ctx, group)
	if refusal != nil {
		return refusal
	}
	c := topicchange.Change{Topic: asked.Topic, Partitions: asked.NumPartitions, Replication: asked.ReplicationFactor, Configs: configs, Who: who}
	if err := r.checkTopic(ctx, group, site, c); err != nil {
		return err
	}
	if checkOnly {
		out.NumPartitions, out.ReplicationFactor = c.Partitions, c.Replication
		return nil
	}
	switch err := r.makeTopic(ctx, c); {
	case errors.Is(err, broker.ErrTopicExists):
		return refuse(kerr.TopicAlreadyExists, "topic %s already exists", c.Topic)
	case err != nil:
		return err
	}
	md := r.awaitShown(ctx, c.Topic)
	if len(md.Partitions) == 0 {
		return refuse(kerr.RequestTimedOut, "topic %s is created; this gateway does not show it yet", c.Topic)
	}
	out.TopicID, out.NumPartitions, out.ReplicationFactor = r.topology.TopicID(c.Topic), int32(len(md.Partitions)), int16(len(md.Partitions[0].Replicas))
	r.tellSettings(ctx, site, c.Topic, out)
	return nil
}

// checkTopic asks the site that serves the group whether it would create the topic, and
// refuses what it would take and could not keep.
func (r *Router) checkTopic(ctx context.Context, group spillway.FailoverGroup, site spillway.SiteID, c topicchange.Change) error {
	cluster := r.sites[site]
	if cluster == nil {
		return refuse(kerr.UnknownServerError, "site %s is not configured at this gateway", site)
	}
	refused, err := cluster.Admin().CheckTopics(ctx, []broker.NewTopic{{Name: c.Topic, Partitions: c.Partitions, Replication: c.Replication, Configs: c.Configs}})
	if err != nil {
		return r.createdNothing(err)
	}
	switch err := refused[c.Topic]; {
	case errors.Is(err, broker.ErrTopicExists):
		// It may be there since a creation that nobody has been told of yet.
		if now, underWay, err := r.config.Changes.UnderWay(ctx, c.Topic); err != nil || !underWay || now.Made != "" {
			return refuse(kerr.TopicAlreadyExists, "topic %s already exists", c.Topic)
		}
	case err != nil:
		return fmt.Errorf("site %s: %w", site, err)
	case r.knewBefore(group, c.Topic):
		if _, underWay, err := r.config.Changes.UnderWay(ctx, c.Topic); err == nil && !underWay {
			return refuse(kerr.PolicyViolation, "there was a topic %s, and offsets of it are still known: clients would be told offsets of the one for the other. Take another name", c.Topic)
		}
	}
	return r.inSync(ctx, cluster, c)
}

// createdNothing is the refusal of who could not ask a site.
func (r *Router) createdNothing(err error) error {
	r.changeFailed(err)
	return refuse(kerr.RequestTimedOut, "the site that serves the group gave no answer; this request created nothing")
}

// knewBefore tells whether offsets of a topic are known: from the offset map of a site, or
// since some were reserved.
func (r *Router) knewBefore(group spillway.FailoverGroup, topic string) bool {
	first := spillway.TopicPartition{Topic: topic}
	for _, site := range group.Sites {
		if v := r.maps.View(site, first); v != nil && !v.Empty() {
			return true
		}
	}
	share, ok := r.ShareOf(first)
	return ok && r.reserve.Knows(share, topic)
}

// inSync refuses more in-sync replicas than the topic would have: nobody could write to it.
func (r *Router) inSync(ctx context.Context, cluster broker.Cluster, c topicchange.Change) error {
	text, set := c.Configs["min.insync.replicas"]
	if !set {
		return nil
	}
	least, err := strconv.Atoi(text)
	if err != nil {
		return refuse(kerr.InvalidConfig, "min.insync.replicas=%s is no number", text)
	}
	replicas := int(c.Replication)
	if replicas < 0 {
		values, err := cluster.Admin().BrokerConfig(ctx, "default.replication.factor")
		if err != nil {
			return r.createdNothing(err)
		}
		for _, v := range values {
			if n, err := strconv.Atoi(v); err == nil && (replicas < 0 || n < replicas) {
				replicas = n
			}
		}
	}
	if replicas > 0 && least > replicas {
		return refuse(kerr.InvalidConfig, "min.insync.replicas=%d with %d replicas at site %s: nobody could write to the topic", least, replicas, cluster.Site())
	}
	return nil
}

// newTopic checks what can be seen without asking a site, and returns the settings.
func newTopic(group spillway.FailoverGroup, asked kmsg.CreateTopicsRequestTopic) (map[string]string, *topicError) {
	switch total := group.Siblings.Total(); {
	case len(asked.ReplicaAssignment) > 0:
		return nil, refuse(kerr.InvalidReplicaAssignment, "topic %s: brokers are each site's own, so replicas cannot be placed; give numbers of partitions and replicas", asked.Topic)
	case asked.NumPartitions == 0 || asked.NumPartitions < -1 || asked.NumPartitions > partitionsMax:
		return nil, refuse(kerr.InvalidPartitions, "topic %s with %d partitions: 1 to %d are possible, or -1 for the default", asked.Topic, asked.NumPartitions, partitionsMax)
	case asked.ReplicationFactor == 0 || asked.ReplicationFactor < -1:
		return nil, refuse(kerr.InvalidReplicationFactor, "topic %s with %d replicas: 1 or more are possible, or -1 for the default", asked.Topic, asked.ReplicationFactor)
	case total > 0 && asked.NumPartitions != total:
		return nil, refuse(kerr.InvalidPartitions, "topic %s: each topic of the unordered failover group %s has %d partitions at each of %d sites, %d in all",
			asked.Topic, group.Siblings.Of, group.Siblings.Partitions, len(group.Siblings.Groups), total)
	case len(asked.Configs) > settingsMax:
		return nil, refuse(kerr.PolicyViolation, "topic %s: %d settings, at most %d are possible", asked.Topic, len(asked.Configs), settingsMax)
	}
	configs, bytes := make(map[string]string, len(asked.Configs)), 0
	for _, s := range asked.Configs {
		if s.Value == nil {
			return nil, refuse(kerr.InvalidConfig, "topic %s: setting %s has no value", asked.Topic, short(s.Name))
		}
		if _, twice := configs[s.Name]; twice {
			return nil, refuse(kerr.InvalidConfig, "topic %s: setting %s is there twice", asked.Topic, short(s.Name))
		}
		if why := notHere(s.Name, *s.Value); why != "" {
			return nil, refuse(kerr.InvalidConfig, "topic %s: %s cannot be set through the gateway: %s", asked.Topic, short(s.Name), why)
		}
		if compacts(s.Name, *s.Value) && group.Siblings.Of != "" {
			return nil, refuse(kerr.PolicyViolation, "topic %s cannot be compacted: the failover group %s is unordered, and records of one key lie in several partitions", asked.Topic, group.Siblings.Of)
		}
		configs[s.Name] = *s.Value
		bytes += len(s.Name) + len(*s.Value)
	}
	if bytes > newSettingsBytes {
		return nil, refuse(kerr.PolicyViolation, "topic %s: %d bytes of settings, at most %d are possible", asked.Topic, bytes, newSettingsBytes)
	}
	return configs, nil
}

// short is a name from a client as an answer repeats it.
func short(name string) string { return strconv.QuoteToASCII(name[:min(len(name), 100)]) }

const unclean = "unclean.leader.election.enable"

// notHere tells why a setting of a topic is not for clients of the virtual cluster (C36);
// empty if it is.
func notHere(key, value string) string {
	switch {
	case slices.Contains(ofBrokers, key):
		return "it names brokers, which are each site's own"
	case strings.HasPrefix(key, "remote.") || strings.HasPrefix(key, "local.retention."):
		return "tiered storage is each site's own"
	case key == unclean && value != "false":
		return "a log that loses its end contradicts the offset map"
	}
	return ""
}

// compacts tells whether with a setting records go that have a newer one of their key.
func compacts(key, value string) bool {
	return key == "cleanup.policy" && strings.Contains(value, "compact")
}

// refuseCompacted tells why a topic cannot be compacted: in an unordered group no partition
// has all records of a key, and where the log hides some the cleaner would take them for the
// newest of their keys (C11). nil: it can.
func (r *Router) refuseCompacted(group spillway.FailoverGroup, site spillway.SiteID, topic string) error {
	if of := group.Siblings.Of; of != "" {
		return refuse(kerr.PolicyViolation, "topic %s cannot be compacted: the failover group %s is unordered, and records of one key lie in several partitions", topic, of)
	}
	if what := r.maps.Hides(site, topic); what != "" {
		return refuse(kerr.PolicyViolation, "topic %s cannot be compacted at site %s, whose log of it hides records: %s; move the failover group to another site, and let the topic begin anew here (docs/operate/compacted.md)", topic, site, what)
	}
	return nil
}

// tellSettings fills in what the new topic has of settings. Clients do without.
func (r *Router) tellSettings(ctx context.Context, site spillway.SiteID, topic string, out *kmsg.CreateTopicsResponseTopic) {
	const fromTopic, byDefault = 1, 5 // Kafka's sources of a setting
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	values, err := r.sites[site].Admin().TopicConfigs(ctx, topic)
	if err != nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(ofBrokers, key) {
			continue
		}
		value, c := values[key].Value, kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.Source = key, &value, fromTopic
		if values[key].Default {
			c.Source = byDefault
		}
		out.Configs = append(out.Configs, c)
	}
}
