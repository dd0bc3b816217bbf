package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
)

// What is asked of many topics is asked of some with each request.

const (
	// topicsAtOnce bounds the topics of one request for settings: each brings some
	// forty settings of a hundred bytes.
	topicsAtOnce = 200
	// valuesAtOnce bounds those of one for a single setting.
	valuesAtOnce = 2000
	// createdAtOnce bounds the partitions of one that creates topics: a controller
	// takes at most 10,000 changes at once, and a broker makes the files of each.
	createdAtOnce = 500
	createTimeout = requestMax - requestMax/10
)

// CreateTopics implements broker.Admin.
func (a *admin) CreateTopics(ctx context.Context, topics []broker.NewTopic) (created []string, refused map[string]error, err error) {
	refused = make(map[string]error)
	for len(topics) > 0 {
		n, partitions := 0, 0
		for n < len(topics) && (n == 0 || partitions+max(int(topics[n].Partitions), 1) <= createdAtOnce) {
			partitions += max(int(topics[n].Partitions), 1)
			n++
		}
		made, err := a.createTopics(ctx, topics[:n], refused)
		created = append(created, made...)
		if err != nil {
			return created, refused, err
		}
		topics = topics[n:]
	}
	return created, refused, nil
}

func (a *admin) createTopics(ctx context.Context, topics []broker.NewTopic, refused map[string]error) (created []string, err error) {
	what := fmt.Sprintf("create %d topics from %s on", len(topics), topics[0].Name)
	req := createRequest(topics)
	wanted := make(map[string]int, len(topics))
	for _, t := range topics {
		wanted[t.Name] = int(t.Partitions)
	}
	lost := false // an attempt, or its answer: what is there then may be its work
	err = a.cluster.retry(ctx, func() error {
		node, err := a.cluster.controller(ctx)
		if err != nil {
			return err
		}
		if _, err := a.cluster.own(ctx, node, a.cluster.avoid); err != nil {
			return err // nothing was sent
		}
		answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			lost = lost || !final(err)
			return err
		}
		created = created[:0]
		for _, t := range answer.(*kmsg.CreateTopicsResponse).Topics {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case err == nil, lost && errors.Is(err, kerr.TopicAlreadyExists):
				created = append(created, t.Topic)
				delete(refused, t.Topic)
			case errors.Is(err, kerr.NotController):
				return err
			default:
				refused[t.Topic] = refusal(t.ErrorCode, t.ErrorMessage)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("site %s: %s: %w", a.cluster.config.Site, what, err)
	}
	if len(created) == 0 {
		return nil, nil
	}
	return created, a.await(ctx, what, func(m broker.TopicMetadata) bool {
		return led(m) && len(m.Partitions) >= wanted[m.Name]
	}, created...)
}

func createRequest(topics []broker.NewTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(createTimeout.Milliseconds())
	for _, t := range topics {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Name, t.Partitions, t.Replication
		for key, value := range t.Configs {
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = key, &value
			rt.Configs = append(rt.Configs, c)
		}
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// CheckTopics implements broker.Admin.
func (a *admin) CheckTopics(ctx context.Context, topics []broker.NewTopic) (refused map[string]error, err error) {
	req := createRequest(topics)
	req.ValidateOnly = true
	err = a.cluster.retry(ctx, func() error {
		node, err := a.cluster.controller(ctx)
		if err != nil {
			return err
		}
		answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		refused = make(map[string]error)
		for _, t := range answer.(*kmsg.CreateTopicsResponse).Topics {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case errors.Is(err, kerr.NotController):
				return err
			case err != nil:
				refused[t.Topic] = refusal(t.ErrorCode, t.ErrorMessage)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("site %s: check %d topics: %w", a.cluster.config.Site, len(topics), err)
	}
	return refused, nil
}

// controller is the node that decides over topics; where the controllers are apart every
// broker passes on what it is asked.
func (c *Cluster) controller(ctx context.Context) (int32, error) {
	nodes := kmsg.NewPtrMetadataRequest()
	nodes.Topics = []kmsg.MetadataRequestTopic{}
	m, err := c.ask(ctx, nodes)
	if err != nil {
		return 0, err
	}
	if m.Controller < 0 {
		return broker.AnyNode, nil
	}
	return m.Controller, nil
}

// TopicValues implements broker.Admin.
func (a *admin) TopicValues(ctx context.Context, topics []string, key string) (map[string]string, error) {
	values := make(map[string]string, len(topics))
	var faults []error
	for some := range slices.Chunk(topics, valuesAtOnce) {
		faults = append(faults, a.describe(ctx, some, []string{key}, func(topic string, configs []kmsg.DescribeConfigsResponseResourceConfig) {
			for _, c := range configs {
				if c.Name == key && c.Value != nil {
					values[topic] = *c.Value
				}
			}
		}))
	}
	return values, errors.Join(faults...)
}

// TopicSettings implements broker.Admin.
func (a *admin) TopicSettings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	settings := make(map[string]map[string]string, len(topics))
	var faults []error
	for some := range slices.Chunk(topics, topicsAtOnce) {
		faults = append(faults, a.describe(ctx, some, nil, func(topic string, configs []kmsg.DescribeConfigsResponseResourceConfig) {
			set := make(map[string]string)
			for _, c := range configs {
				if c.Source == kmsg.ConfigSourceDynamicTopicConfig && c.Value != nil {
					set[c.Name] = *c.Value
				}
			}
			settings[topic] = set
		}))
	}
	return settings, errors.Join(faults...)
}

// AlterTopic implements broker.Admin.
func (a *admin) AlterTopic(ctx context.Context, topic string, changes []broker.SettingChange, checkOnly bool) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for _, c := range changes {
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Op, rc.Value = c.Key, kmsg.IncrementalAlterConfigOp(c.Op), c.Value
		r.Configs = append(r.Configs, rc)
	}
	req.Resources, req.ValidateOnly = []kmsg.IncrementalAlterConfigsRequestResource{r}, checkOnly
	return a.asks(ctx, "change settings of topic "+topic, req, func(answer kmsg.Response) error {
		for _, r := range answer.(*kmsg.IncrementalAlterConfigsResponse).Resources {
			if err := refusal(r.ErrorCode, r.ErrorMessage); err != nil {
				return err
			}
		}
		return nil
	})
}

// describe asks for settings of topics, all of them if there are no keys. Topics that
// do not exist are left out.
func (a *admin) describe(ctx context.Context, topics, keys []string, see func(topic string, configs []kmsg.DescribeConfigsResponseResourceConfig)) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, name := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, name, keys
		req.Resources = append(req.Resources, r)
	}
	var answer kmsg.Response
	err := a.cluster.retry(ctx, func() (err error) {
		answer, err = a.cluster.any(ctx, req, req.MaxVersion())
		return err
	})
	if err != nil {
		return fmt.Errorf("site %s: read settings of topics: %w", a.cluster.config.Site, err)
	}
	var faults []error
	for _, r := range answer.(*kmsg.DescribeConfigsResponse).Resources {
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
		case err != nil:
			faults = append(faults, fmt.Errorf("site %s: read settings of topic %s: %w", a.cluster.config.Site, r.ResourceName, sentinel(err)))
		default:
			see(r.ResourceName, r.Configs)
		}
	}
	return errors.Join(faults...)
}
