package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
)

// Metadata implements broker.Cluster.
func (c *Cluster) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	req := kmsg.NewPtrMetadataRequest()
	if len(topics) == 0 {
		req.Topics = nil // all
	}
	for _, name := range topics {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	}
	return c.metadata(ctx, req)
}

// metadata asks, tries once more on a new connection if the old one was dead,
// and keeps what it learns.
func (c *Cluster) metadata(ctx context.Context, req *kmsg.MetadataRequest) (broker.Metadata, error) {
	m, err := c.ask(ctx, req)
	if err == nil {
		c.probe(ctx)
	}
	return m, err
}

// ask probes nothing: a probe opens the link of a node, and who opens a link may
// have to ask where its node is.
func (c *Cluster) ask(ctx context.Context, req *kmsg.MetadataRequest) (broker.Metadata, error) {
	resp, err := c.any(ctx, req, req.MaxVersion())
	if err != nil && ctx.Err() == nil {
		resp, err = c.any(ctx, req, req.MaxVersion())
	}
	if err != nil {
		return broker.Metadata{}, err
	}
	return c.told(resp.(*kmsg.MetadataResponse))
}

func (c *Cluster) told(resp *kmsg.MetadataResponse) (broker.Metadata, error) {
	m, err := c.decode(resp)
	if err != nil {
		return m, fmt.Errorf("site %s: Metadata: %w", c.config.Site, err)
	}
	c.learn(m)
	return m, nil
}

// askKnown asks some of the nodes that are known; the cluster where it knows none.
func (c *Cluster) askKnown(ctx context.Context, req *kmsg.MetadataRequest) (broker.Metadata, error) {
	resp, err := firstOf(ctx, c, func(ctx context.Context, node int32) (kmsg.Response, error) {
		own := *req // each has the version of its connection
		return c.do(ctx, node, &own, own.MaxVersion())
	})
	switch {
	case errors.Is(err, errNoneKnown):
		return c.ask(ctx, req)
	case err != nil:
		return broker.Metadata{}, err
	}
	return c.told(resp.(*kmsg.MetadataResponse))
}

func (c *Cluster) decode(r *kmsg.MetadataResponse) (broker.Metadata, error) {
	m := broker.Metadata{Controller: r.ControllerID, Topics: map[string]broker.TopicMetadata{}}
	if r.ClusterID != nil {
		m.ClusterID = *r.ClusterID
	}
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		return m, err
	}
	if len(r.Brokers) > nodesMax {
		return m, fmt.Errorf("%d nodes, at most %d", len(r.Brokers), nodesMax)
	}
	for _, b := range r.Brokers {
		if err := c.usable(b.NodeID, b.Host, b.Port); err != nil {
			return m, err
		}
		n := broker.Node{ID: b.NodeID, Host: b.Host, Port: b.Port}
		if b.Rack != nil {
			n.Rack = *b.Rack
		}
		m.Nodes = append(m.Nodes, n)
	}
	for i := range r.Topics {
		if t := topicOf(&r.Topics[i]); t.Name != "" {
			m.Topics[t.Name] = t
		}
	}
	return m, nil
}

// usable tells what is wrong with an address that the cluster announces (invariant C).
func (c *Cluster) usable(node int32, host string, port int32) error {
	if node < 0 || port < 1 || port > 65535 || host == "" || len(host) > hostBytesMax {
		return fmt.Errorf("node %d has the address %.255q port %d, which cannot be", node, host, port)
	}
	if c.config.Allow != nil && !c.config.Allow(host, port) {
		return fmt.Errorf("node %d announces %s port %d, which is not an allowed address of this site", node, host, port)
	}
	return nil
}

// located takes the address at which a coordinator was found: the one that is known may be that
// of another broker by now. Addresses that may not be used are left; who dials such a node asks
// for all of them, and is told.
func (c *Cluster) located(node int32, host string, port int32) {
	if c.usable(node, host, port) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, known := c.mu.nodes[node]
	if !known && len(c.mu.nodes) >= nodesMax {
		return
	}
	n.ID, n.Host, n.Port = node, host, port
	c.mu.nodes[node] = n
}

func topicOf(r *kmsg.MetadataResponseTopic) broker.TopicMetadata {
	t := broker.TopicMetadata{ID: r.TopicID, Internal: r.IsInternal, ErrorCode: r.ErrorCode}
	if r.Topic != nil {
		t.Name = *r.Topic
	}
	for _, p := range r.Partitions {
		t.Partitions = append(t.Partitions, broker.PartitionMetadata{
			Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
			Replicas: p.Replicas, ISR: p.ISR, ErrorCode: p.ErrorCode,
		})
	}
	slices.SortFunc(t.Partitions, func(a, b broker.PartitionMetadata) int { return int(a.Partition) - int(b.Partition) })
	return t
}

func (c *Cluster) learn(m broker.Metadata) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(m.Nodes) > 0 {
		clear(c.mu.nodes)
	}
	for _, n := range m.Nodes {
		c.mu.nodes[n.ID] = n
	}
	for name, t := range m.Topics {
		for _, p := range t.Partitions {
			tp := spillway.TopicPartition{Topic: name, Partition: p.Partition}
			if p.Leader < 0 {
				delete(c.mu.leaders, tp)
			} else {
				c.mu.leaders[tp] = leadership{p.Leader, p.LeaderEpoch}
			}
		}
	}
}

// Refresh implements broker.Cluster.
func (c *Cluster) Refresh(ctx context.Context) error {
	err := c.relearn(ctx)
	if err == nil {
		c.probe(ctx)
	}
	return err
}

// relearn forgets where everything is and asks for the nodes.
func (c *Cluster) relearn(ctx context.Context) error {
	c.mu.Lock()
	c.forget()
	c.mu.Unlock()
	_, err := c.ask(ctx, onlyNodes())
	return err
}

// onlyNodes asks for no topics.
func onlyNodes() *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	return req
}

// Leader implements broker.Cluster.
func (c *Cluster) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	l, err := c.leader(ctx, tp)
	return l.node, err
}

// KnownLeader implements broker.Cluster.
func (c *Cluster) KnownLeader(tp spillway.TopicPartition) (int32, bool) {
	l, ok := c.known(tp)
	return l.node, ok
}

func (c *Cluster) known(tp spillway.TopicPartition) (leadership, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.mu.leaders[tp]
	return l, ok
}

func (c *Cluster) leader(ctx context.Context, tp spillway.TopicPartition) (leadership, error) {
	if l, ok := c.known(tp); ok {
		return l, nil
	}
	m, err := c.Metadata(ctx, tp.Topic)
	if err != nil {
		return leadership{}, err
	}
	fault := broker.ErrUnknownTopic
	for _, p := range m.Topics[tp.Topic].Partitions {
		if p.Partition != tp.Partition {
			continue
		}
		if p.Leader >= 0 {
			return leadership{p.Leader, p.LeaderEpoch}, nil
		}
		fault = broker.ErrNoLeader
	}
	return leadership{}, fmt.Errorf("site %s: leader of %s: %w", c.config.Site, tp, fault)
}

// leadersAtOnce bounds the topics whose leaders are asked for with one request.
const leadersAtOnce = 500

// leadersOf learns the leaders of many partitions, as far as they are not known.
func (c *Cluster) leadersOf(ctx context.Context, tps []spillway.TopicPartition) error {
	unknown := make(map[string]bool)
	c.mu.Lock()
	for _, tp := range tps {
		if _, ok := c.mu.leaders[tp]; !ok {
			unknown[tp.Topic] = true
		}
	}
	c.mu.Unlock()
	if len(unknown) < 2 {
		return nil // leader asks for it
	}
	for some := range slices.Chunk(slices.Sorted(maps.Keys(unknown)), leadersAtOnce) {
		if _, err := c.Metadata(ctx, some...); err != nil {
			return err
		}
	}
	return nil
}

// Coordinator implements broker.Cluster.
func (c *Cluster) Coordinator(ctx context.Context, kind broker.CoordinatorKind, key string) (int32, error) {
	at := coordinatorKey{kind, key}
	c.mu.Lock()
	node, ok := c.mu.coordinators[at]
	c.mu.Unlock()
	if ok {
		return node, nil
	}
	// Nothing is known of this one, and what is known of others is none the worse for it.
	err := c.retryAfter(ctx, func() error { return nil }, func() error {
		return c.findCoordinators(ctx, kind, []string{key}, func(_ string, found int32, err error) error {
			node = found
			return err
		})
	})
	if err != nil {
		return -1, fmt.Errorf("site %s: coordinator of %q: %w", c.config.Site, key, err)
	}
	c.remember(at, node)
	return node, nil
}

// coordinatorsMax bounds the groups and transactional ids whose coordinators are kept:
// clients may ask for as many names as they like.
const coordinatorsMax = 100_000

// remember keeps a coordinator; where there is no room, another one is asked for again.
func (c *Cluster) remember(at coordinatorKey, node int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.mu.coordinators[at]; !known && len(c.mu.coordinators) >= coordinatorsMax {
		for other := range c.mu.coordinators {
			delete(c.mu.coordinators, other)
			break
		}
	}
	c.mu.coordinators[at] = node
}

// misplaced forgets a coordinator.
func (c *Cluster) misplaced(at coordinatorKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.coordinators, at)
}

// Relocate implements broker.Cluster. Until the cluster has answered, what is known stays: who
// meets the wrong one meanwhile asks again, and not all of them ask the cluster (invariant A
// holds from the answer on, also if it is that nobody knows).
func (c *Cluster) Relocate(ctx context.Context, kind broker.CoordinatorKind, keys ...string) error {
	answered := make(map[string]bool, len(keys))
	err := c.findCoordinators(ctx, kind, keys, func(key string, node int32, err error) error {
		answered[key] = err == nil
		if err == nil {
			c.remember(coordinatorKey{kind, key}, node)
		}
		return nil
	})
	for _, key := range keys {
		if !answered[key] {
			c.misplaced(coordinatorKey{kind, key})
		}
	}
	if err != nil {
		return fmt.Errorf("site %s: coordinators of %d names: %w", c.config.Site, len(keys), err)
	}
	return nil
}

// findCoordinators asks with one question where it can be (KIP-699), else with one for each.
func (c *Cluster) findCoordinators(ctx context.Context, kind broker.CoordinatorKind, keys []string, see func(key string, node int32, err error) error) error {
	for len(keys) > 0 {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorType = int8(kind)
		req.CoordinatorKey = keys[0]
		req.CoordinatorKeys = keys // from version 4 on
		answer, err := c.any(ctx, req, req.MaxVersion())
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.FindCoordinatorResponse)
		if resp.Version < 4 {
			if resp.ErrorCode == 0 {
				c.located(resp.NodeID, resp.Host, resp.Port)
			}
			if err := see(keys[0], resp.NodeID, kerr.ErrorForCode(resp.ErrorCode)); err != nil {
				return err
			}
			keys = keys[1:]
			continue
		}
		if len(resp.Coordinators) != len(keys) {
			return fmt.Errorf("%d coordinators in the answer to a question about %d", len(resp.Coordinators), len(keys))
		}
		for _, found := range resp.Coordinators {
			if found.ErrorCode == 0 {
				c.located(found.NodeID, found.Host, found.Port)
			}
			if err := see(found.Key, found.NodeID, kerr.ErrorForCode(found.ErrorCode)); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}
