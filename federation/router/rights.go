package router

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/federation/authorization"
	"spillway/lb"
)

// Rights are the rules of the sites by which it is decided what clients may do.
type Rights interface {
	// Of a site that is not known they are those of one whose list was never read.
	Of(spillway.SiteID) *authorization.Rules
}

// Denial is what a client was not let do.
type Denial struct {
	Client    authorization.Client
	Operation authorization.Operation
	Kind      authorization.Kind
	Name      string
	Site      spillway.SiteID // whose list decided; empty: none of them allows it
	Decision  authorization.Decision
}

// checked tells whether it matters what the client may do.
func (c *Client) checked() bool { return c.router.config.Rights != nil }

func (c *Client) asks() authorization.Client {
	return authorization.Client{Principal: string(c.login.Principal()), Host: c.host}
}

// may decides by the list of the site that serves a share. What belongs to no failover
// group, which no site is asked about, is told to whom any site would tell it.
func (c *Client) may(op authorization.Operation, kind authorization.Kind, name string, share *Share) authorization.Verdict {
	if !c.checked() {
		return authorization.Allowed
	}
	d := c.decide(op, kind, name, share)
	if d.Decision.Verdict == authorization.Denied {
		c.router.events.denied(d)
	}
	return d.Decision.Verdict
}

// mayQuietly is for what was not asked for by name, so that it is no attempt.
func (c *Client) mayQuietly(op authorization.Operation, kind authorization.Kind, name string, share *Share) bool {
	return !c.checked() || c.decide(op, kind, name, share).Decision.Verdict == authorization.Allowed
}

func (c *Client) decide(op authorization.Operation, kind authorization.Kind, name string, share *Share) Denial {
	d := Denial{Client: c.asks(), Operation: op, Kind: kind, Name: name}
	if share != nil {
		d.Site = home(share)
		d.Decision = c.router.config.Rights.Of(d.Site).Decide(d.Client, op, kind, name)
		return d
	}
	d.Decision = c.anySite(func(r *authorization.Rules) authorization.Decision { return r.Decide(d.Client, op, kind, name) })
	return d
}

// anySite is the best that any site says which serves a share. While it is not known which
// site serves one, nobody can tell what that says: a refusal would end who has to wait.
func (c *Client) anySite(decide func(*authorization.Rules) authorization.Decision) (best authorization.Decision) {
	for _, site := range c.router.homes.lately(c.router.topics) {
		if d := decide(c.router.config.Rights.Of(site)); d.Verdict >= best.Verdict {
			best = d
		}
	}
	return best
}

// homes remembers which sites serve shares: a request may name thousands of topics that
// belong to no failover group, and there may be thousands of shares.
type homes struct{ seen atomic.Pointer[homesSeen] }

type homesSeen struct {
	sites []spillway.SiteID // with that of no name, where there is one that nobody knows yet
	at    time.Time
}

// homesMemory is how old the answer may be: much less than a list.
const homesMemory = 100 * time.Millisecond

func (h *homes) lately(t *topics) []spillway.SiteID {
	if seen := h.seen.Load(); seen != nil && time.Since(seen.at) < homesMemory {
		return seen.sites
	}
	seen := &homesSeen{sites: slices.Collect(maps.Keys(t.homes())), at: time.Now()}
	if len(seen.sites) == 0 || t.homeless() {
		seen.sites = append(seen.sites, "") // whose list nobody has read
	}
	h.seen.Store(seen)
	return seen.sites
}

// topicCode is the error for a topic that the client may not do something with; 0 if it may.
// While nobody can tell it has to come again: the refusal would end most clients.
func (c *Client) topicCode(op authorization.Operation, topic string, share *Share) int16 {
	return codeOf(c.may(op, authorization.Topic, topic, share), kerr.TopicAuthorizationFailed, kerr.NotLeaderForPartition)
}

// positionCode is topicCode for what a coordinator is asked about a topic: its clients know of
// no leaders in its answers, and Java's end at such a code.
func (c *Client) positionCode(op authorization.Operation, topic string, share *Share) int16 {
	return codeOf(c.may(op, authorization.Topic, topic, share), kerr.TopicAuthorizationFailed, kerr.CoordinatorLoadInProgress)
}

// undisclosed is the code for a topic that was asked for by its id. A virtual id is made of
// the name alone, so a refusal would tell whoever has guessed a name that there is such a
// topic: who may not know of it is told what is told of an id that nobody knows.
func (c *Client) undisclosed(code int16, topic string, share *Share) int16 {
	if code == kerr.TopicAuthorizationFailed.Code && !c.mayQuietly(authorization.Describe, authorization.Topic, topic, share) {
		return kerr.UnknownTopicID.Code
	}
	return code
}

// groupCode is that for a consumer group.
func (c *Client) groupCode(op authorization.Operation, group string, share *Share) int16 {
	return codeOf(c.may(op, authorization.Group, group, share), kerr.GroupAuthorizationFailed, kerr.CoordinatorLoadInProgress)
}

// memberCode is that for a member's heartbeat and SyncGroup. To be told to come again ends
// Java's members there; one that is told of a rebalance joins, and waits with that.
func (c *Client) memberCode(group string, share *Share) int16 {
	return codeOf(c.may(authorization.Read, authorization.Group, group, share), kerr.GroupAuthorizationFailed, kerr.RebalanceInProgress)
}

// transactionCode is that for a transactional id.
func (c *Client) transactionCode(op authorization.Operation, id string, share *Share) int16 {
	return codeOf(c.may(op, authorization.TransactionalID, id, share), kerr.TransactionalIDAuthorizationFailed, kerr.CoordinatorLoadInProgress)
}

func codeOf(v authorization.Verdict, denied, unknown *kerr.Error) int16 {
	switch v {
	case authorization.Allowed:
		return 0
	case authorization.Unknown:
		return unknown.Code
	}
	return denied.Code
}

// mayProduceIdempotently is Kafka's rule since 2.8 (KIP-679): the right for the cluster,
// or to write any topic. No list of sites carries it to others, so any site's will do.
func (c *Client) mayProduceIdempotently() authorization.Verdict {
	if !c.checked() {
		return authorization.Allowed
	}
	d := Denial{Client: c.asks(), Operation: authorization.IdempotentWrite, Kind: authorization.Cluster, Name: authorization.ClusterName}
	d.Decision = c.anySite(func(r *authorization.Rules) authorization.Decision {
		if own := r.Decide(d.Client, d.Operation, d.Kind, d.Name); own.Verdict == authorization.Allowed {
			return own
		}
		return r.DecideAny(d.Client, authorization.Write, authorization.Topic)
	})
	if d.Decision.Verdict == authorization.Denied {
		c.router.events.denied(d)
	}
	return d.Decision.Verdict
}

// topicGuard decides about the partitions of one topic: once for each site that serves
// some of them, as long as these stand together.
type topicGuard struct {
	client *Client
	op     authorization.Operation
	topic  string
	byID   bool                                                         // the client has not named it, see undisclosed
	codeOf func(*Client, authorization.Operation, string, *Share) int16 // topicCode, or another

	asked bool
	share *Share // that code is for; nil: none
	code  int16

	spread struct { // of an unordered group, whose shares do not move
		asked  bool
		best   authorization.Verdict
		barred lb.Set
	}
}

func (c *Client) guard(op authorization.Operation, topic string) topicGuard {
	return topicGuard{client: c, op: op, topic: topic, codeOf: (*Client).topicCode}
}

// guardByID is guard, for a topic that the client asked for by its id where byID is set.
func (c *Client) guardByID(byID bool, op authorization.Operation, topic string) topicGuard {
	g := c.guard(op, topic)
	g.byID = byID
	return g
}

// of is the error for a partition, 0 if there is none.
func (g *topicGuard) of(partition int32) int16 {
	if !g.client.checked() {
		return 0
	}
	share, _ := g.client.router.ShareOf(spillway.TopicPartition{Topic: g.topic, Partition: partition})
	if !g.asked || share != g.share {
		g.asked, g.share, g.code = true, share, g.codeOf(g.client, g.op, g.topic, share)
		if g.byID {
			g.code = g.client.undisclosed(g.code, g.topic, share)
		}
	}
	return g.code
}

// write is of, for a partition to which a client sends batches. Those of an unordered group
// may be written at any of its sites whose list allows it; barred are the siblings of the
// others.
func (g *topicGuard) write(partition int32) (code int16, barred lb.Set) {
	if !g.client.checked() {
		return 0, 0
	}
	r := g.client.router
	share, ok := r.ShareOf(spillway.TopicPartition{Topic: g.topic, Partition: partition})
	if !ok || share.Group.Siblings.Of == "" {
		return g.of(partition), 0
	}
	if !g.spread.asked {
		g.spread.asked = true
		for i, sibling := range r.spreads[share.Group.Siblings.Of].shares {
			v := g.client.decide(g.op, authorization.Topic, g.topic, sibling).Decision.Verdict
			if v != authorization.Allowed {
				g.spread.barred |= lb.Of(i)
			}
			g.spread.best = max(g.spread.best, v)
		}
	}
	switch g.spread.best {
	case authorization.Allowed:
		return 0, g.spread.barred
	case authorization.Unknown: // at some site, and denied at the others
		return kerr.NotLeaderForPartition.Code, g.spread.barred
	default:
		return g.of(partition), g.spread.barred
	}
}

// describes tells whether the client may know of a topic that it has not asked for by name.
func (c *Client) describes(topic string) authorization.Verdict {
	if !c.checked() {
		return authorization.Allowed
	}
	share, _ := c.router.ShareOf(spillway.TopicPartition{Topic: topic})
	return c.decide(authorization.Describe, authorization.Topic, topic, share).Decision.Verdict
}

// describesSomewhere tells whether any site would have the client know of a topic.
func (c *Client) describesSomewhere(topic string) bool {
	return c.mayQuietly(authorization.Describe, authorization.Topic, topic, nil)
}
