package router

import (
	"context"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
)

// internalTopics of Kafka and of Spillway start so. Topics of clients that do
// are not served.
const internalTopics = "__"

// hidden tells topics that clients of the virtual cluster never see.
func hidden(topic string) bool {
	return strings.HasPrefix(topic, internalTopics) || len(topic) > topicNameMax
}

// topics knows what topics the sites have: a few seconds old at most of a site that
// answers, and of one that was asked lately and did not answer what it said last. A name
// is looked up at the site that serves its share; while nobody does, what was
// last known of the site that served is good enough: partitions do not vanish.
type topics struct {
	router *Router

	mu struct {
		sync.Mutex
		bySite map[spillway.SiteID]*siteTopics
		ids    map[[16]byte]string // virtual topic id → name
	}
}

type siteTopics struct {
	at     time.Time // of the newest answer
	tried  time.Time // of the newest question
	topics map[string]broker.TopicMetadata
	asking chan struct{} // closed when the question under way is answered; nil if there is none
	silent time.Time     // when the newest question ended without an answer; zero if it was answered
}

func newTopics(r *Router) *topics {
	t := &topics{router: r}
	t.mu.bySite = make(map[spillway.SiteID]*siteTopics)
	t.mu.ids = make(map[[16]byte]string)
	return t
}

// Bounds for asking a site.
const (
	topicsAskMax   = 3 * time.Second
	topicsAskEvery = 100 * time.Millisecond // also when somebody asks for what does not exist
	// How long a site counts as silent. While somebody wants to know it is asked on, which
	// renews that. A list from before nobody did may be of any age: days, where a failover
	// group went elsewhere and came back.
	topicsSilentMax = 10 * time.Second
)

// at returns the topics of a site, not older than age if the site answers.
// Nil if it never did, and the caller cannot tell what there is (heard). The map is not to be changed.
func (t *topics) at(ctx context.Context, site spillway.SiteID, age time.Duration) map[string]broker.TopicMetadata {
	known, asking := t.look(site, age)
	if asking == nil {
		return known
	}
	return t.await(ctx, site, asking)
}

// await returns what is known of a site once the question to it is over.
func (t *topics) await(ctx context.Context, site spillway.SiteID, asking <-chan struct{}) map[string]broker.TopicMetadata {
	select {
	case <-asking:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.bySite[site].topics
}

// atAll is at for several sites. None is asked after another.
func (t *topics) atAll(ctx context.Context, sites map[spillway.SiteID]bool, age time.Duration) map[spillway.SiteID]map[string]broker.TopicMetadata {
	found := make(map[spillway.SiteID]map[string]broker.TopicMetadata, len(sites))
	asked := make(map[spillway.SiteID]<-chan struct{})
	for site := range sites {
		if known, asking := t.look(site, age); asking == nil {
			found[site] = known
		} else {
			asked[site] = asking
		}
	}
	for site, asking := range asked {
		found[site] = t.await(ctx, site, asking)
	}
	return found
}

// look returns what is known of a site, and if that is older than age the end of a question to
// it, which is worth waiting for. It is not where the site was silent a moment ago: clients
// want to know anew whenever a partition is refused, as those of a dark site are, and their
// answers about others come behind this one. Of a site that never answered, nothing is known.
func (t *topics) look(site spillway.SiteID, age time.Duration) (known map[string]broker.TopicMetadata, asking <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.bySite[site]
	if s == nil {
		s = &siteTopics{}
		t.mu.bySite[site] = s
	}
	if s.topics != nil && time.Since(s.at) <= age || s.asking == nil && time.Since(s.tried) < topicsAskEvery {
		return s.topics, nil
	}
	if s.asking == nil {
		s.asking, s.tried = make(chan struct{}), time.Now()
		t.router.background.Go(func() { t.ask(site, s) })
	}
	if time.Since(s.silent) < topicsSilentMax {
		return s.topics, nil
	}
	return s.topics, s.asking
}

// ask does not end with the client that wanted to know: others wait for it.
func (t *topics) ask(site spillway.SiteID, s *siteTopics) {
	ctx, cancel := context.WithTimeout(t.router.ctx, topicsAskMax)
	defer cancel()
	md, err := t.router.sites[site].Metadata(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.silent = time.Now(); err == nil {
		s.topics, s.at, s.silent = md.Topics, time.Now(), time.Time{}
		for name := range md.Topics {
			if !hidden(name) {
				t.mu.ids[t.router.topology.TopicID(name)] = name
			}
		}
	}
	close(s.asking)
	s.asking = nil
}

// home is the site that serves a share, or served it last.
func home(s *Share) spillway.SiteID {
	if t, ok := s.Serving(); ok {
		return t.Site
	}
	return s.Record().Active
}

// find looks a topic up by name. The second result is false if it does not
// exist, or if that is not known yet.
func (t *topics) find(ctx context.Context, name string) (broker.TopicMetadata, bool) {
	share, ok := t.router.ShareOf(spillway.TopicPartition{Topic: name})
	if !ok {
		return broker.TopicMetadata{}, false
	}
	if md, ok := t.findAt(ctx, home(share), name); ok || share.Group.Siblings.Of == "" {
		return md, ok
	}
	for _, sibling := range t.router.spreads[share.Group.Siblings.Of].shares[1:] {
		if md, ok := t.findAt(ctx, home(sibling), name); ok {
			return md, true
		}
	}
	return broker.TopicMetadata{}, false
}

func (t *topics) findAt(ctx context.Context, site spillway.SiteID, name string) (broker.TopicMetadata, bool) {
	if t.router.sites[site] == nil {
		return broker.TopicMetadata{}, false
	}
	if md, ok := t.at(ctx, site, t.router.config.MetadataMax)[name]; ok {
		return md, true
	}
	md, ok := t.at(ctx, site, topicsAskEvery)[name] // it may have been created just now
	return md, ok
}

// stale has the sites that serve a topic asked anew, as it has changed. An answer that is
// on its way may be older than that.
func (t *topics) stale(name string) {
	share, ok := t.router.ShareOf(spillway.TopicPartition{Topic: name})
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.mu.bySite[home(share)]; s != nil {
		s.at, s.tried, s.silent = time.Time{}, time.Time{}, time.Time{}
	}
}

// naming finds the topics that one request gives the virtual ids of. The sites are asked about
// what is not known, once for all ids, and about what the client may not know of: an id that is
// answered sooner than others would tell that there is such a topic.
type naming struct {
	client *Client
	asked  bool
}

func (c *Client) naming() *naming { return &naming{client: c} }

// of is the name of a topic that the request names, or gives the virtual id
// of. False: nobody knows the id.
func (n *naming) of(ctx context.Context, byID bool, name string, id [16]byte) (string, bool) {
	if !byID {
		return name, true
	}
	return n.byID(ctx, id)
}

func (n *naming) byID(ctx context.Context, id [16]byte) (string, bool) {
	t := n.client.router.topics
	name, ok := t.known(id)
	if n.asked || ok && n.client.describes(name) != authorization.Denied {
		return name, ok
	}
	n.asked = true
	t.atAll(ctx, t.homes(), topicsAskEvery)
	return t.known(id)
}

func (t *topics) known(id [16]byte) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, ok := t.mu.ids[id]
	return name, ok
}

// homes are the sites that serve any share.
func (t *topics) homes() map[spillway.SiteID]bool {
	sites := make(map[spillway.SiteID]bool)
	for _, s := range t.router.shares {
		if site := home(s); t.router.sites[site] != nil {
			sites[site] = true
		}
	}
	return sites
}

// homeless tells whether the store has not said yet of some share which site serves it.
func (t *topics) homeless() bool {
	for _, s := range t.router.shares {
		if s.Record().Epoch == 0 {
			return true
		}
	}
	return false
}

// all lists the topics of all failover groups, each from the site that serves it.
func (t *topics) all(ctx context.Context) []broker.TopicMetadata {
	var found []broker.TopicMetadata
	for site, topics := range t.atAll(ctx, t.homes(), t.router.config.MetadataMax) {
		for name, md := range topics {
			if s, ok := t.router.ShareOf(spillway.TopicPartition{Topic: name}); ok && home(s) == site {
				found = append(found, md)
			}
		}
	}
	return found
}
