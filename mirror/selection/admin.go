package selection

import (
	"cmp"
	"context"
	"fmt"

	"spillway"
	"spillway/broker"
)

// admin asks about topics by their names at the source. It embeds nothing: what a
// broker.Admin learns to do has to be thought about here.
type admin struct {
	admin broker.Admin
	names *selected
}

func (a *admin) readOnly(what, topic string) error {
	return fmt.Errorf("%s %s at site %s: topics are only read there: %w", what, topic, a.names.Site(), broker.ErrNotSupported)
}

func (a *admin) CreateTopic(_ context.Context, name string, _ int32, _ int16, _ map[string]string) error {
	return a.readOnly("create", name)
}

func (a *admin) CreateTopics(_ context.Context, topics []broker.NewTopic) ([]string, map[string]error, error) {
	return nil, nil, a.readOnly("create", fmt.Sprintf("%d topics", len(topics)))
}

func (a *admin) CheckTopics(_ context.Context, topics []broker.NewTopic) (map[string]error, error) {
	return nil, a.readOnly("check", fmt.Sprintf("%d topics", len(topics)))
}

func (a *admin) DeleteTopic(_ context.Context, name string) error {
	return a.readOnly("delete", name)
}

func (a *admin) CreatePartitions(_ context.Context, name string, _ int32) error {
	return a.readOnly("grow", name)
}

func (a *admin) SetTopicConfigs(_ context.Context, topic string, _ map[string]*string) error {
	return a.readOnly("change settings of", topic)
}

func (a *admin) AlterTopic(_ context.Context, topic string, _ []broker.SettingChange, _ bool) error {
	return a.readOnly("change settings of", topic)
}

func (a *admin) TopicConfigs(ctx context.Context, topic string) (map[string]broker.ConfigValue, error) {
	name, err := a.names.there(topic)
	if err != nil {
		return nil, err
	}
	return a.admin.TopicConfigs(ctx, name)
}

func (a *admin) TopicSettings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	return ofMany(a, topics, func(there []string) (map[string]map[string]string, error) {
		return a.admin.TopicSettings(ctx, there)
	})
}

func (a *admin) TopicValues(ctx context.Context, topics []string, key string) (map[string]string, error) {
	return ofMany(a, topics, func(there []string) (map[string]string, error) {
		return a.admin.TopicValues(ctx, there, key)
	})
}

// ofMany asks for something of each topic.
func ofMany[V any](a *admin, topics []string, ask func(there []string) (map[string]V, error)) (map[string]V, error) {
	shown := make(map[string]string, len(topics)) // by the name at the source
	there := make([]string, 0, len(topics))
	for _, topic := range topics {
		if name, err := a.names.there(topic); err == nil { // others do not exist, and are left out
			shown[name] = topic
			there = append(there, name)
		}
	}
	got, err := ask(there)
	all := make(map[string]V, len(got))
	for name, v := range got {
		all[shown[name]] = v
	}
	return all, err
}

func (a *admin) BrokerConfig(ctx context.Context, name string) (map[int32]string, error) {
	return a.admin.BrokerConfig(ctx, name)
}

func (a *admin) LogDirs(ctx context.Context, tps []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	shown := make(map[spillway.TopicPartition]spillway.TopicPartition, len(tps)) // by their names there
	there := make([]spillway.TopicPartition, len(tps))
	for i, tp := range tps {
		name, err := a.names.there(tp.Topic)
		if err != nil {
			return nil, err
		}
		there[i] = spillway.TopicPartition{Topic: name, Partition: tp.Partition}
		shown[there[i]] = tp
	}
	brokers, err := a.admin.LogDirs(ctx, there)
	for _, dirs := range brokers {
		for i, d := range dirs {
			dirs[i].Sizes = make(map[spillway.TopicPartition]int64, len(d.Sizes))
			for tp, size := range d.Sizes {
				dirs[i].Sizes[shown[tp]] = size
			}
		}
	}
	return brokers, err
}

func (a *admin) Features(ctx context.Context) (map[string]int16, error) { return a.admin.Features(ctx) }

func (a *admin) ListGroups(ctx context.Context) ([]broker.GroupListing, error) {
	return a.admin.ListGroups(ctx)
}

func (a *admin) DescribeGroup(ctx context.Context, group string) (broker.GroupDescription, error) {
	d, err := a.admin.DescribeGroup(ctx, group)
	for i, m := range d.Members {
		shown := m.Assigned[:0:0]
		for _, tp := range m.Assigned {
			if name := a.names.topics.NameAt(tp.Topic); name != "" {
				shown = append(shown, spillway.TopicPartition{Topic: name, Partition: tp.Partition})
			}
		}
		d.Members[i].Assigned = shown
	}
	return d, err
}

func (a *admin) FetchGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	all, err := a.admin.FetchGroupOffsets(ctx, group)
	return a.shown(all), err
}

func (a *admin) StableGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	all, err := a.admin.StableGroupOffsets(ctx, group)
	return a.shown(all), err
}

// shown are the positions in topics that are chosen, by the names they have here.
func (a *admin) shown(all map[spillway.TopicPartition]broker.GroupOffset) map[spillway.TopicPartition]broker.GroupOffset {
	shown := make(map[spillway.TopicPartition]broker.GroupOffset, len(all))
	here := a.names.here()
	for tp, o := range all {
		if name := here[tp.Topic]; name != "" {
			shown[spillway.TopicPartition{Topic: name, Partition: tp.Partition}] = o
		}
	}
	return shown
}

func (a *admin) CommitGroupOffsets(_ context.Context, group string, _ map[spillway.TopicPartition]broker.GroupOffset) error {
	return a.readOnly("commit offsets of group", group)
}

func (a *admin) RemoveMembers(_ context.Context, group string) error {
	return a.readOnly("remove members of group", group)
}

func (a *admin) DeleteGroup(_ context.Context, group string) error {
	return a.readOnly("delete group", group)
}

// offsets asks for one offset of each partition. With an error it returns those that were found.
func (a *admin) offsets(tps []spillway.TopicPartition, ask func([]spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error)) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	there := make([]spillway.TopicPartition, len(tps))
	for i, tp := range tps {
		name, err := a.names.there(tp.Topic)
		if err != nil {
			return nil, err
		}
		there[i] = spillway.TopicPartition{Topic: name, Partition: tp.Partition}
	}
	got, err := ask(there)
	shown := make(map[spillway.TopicPartition]spillway.LocalOffset, len(got))
	for i, tp := range tps {
		if o, ok := got[there[i]]; ok {
			shown[tp] = o
		}
	}
	return shown, err
}

func (a *admin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return a.offsets(tps, func(there []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return a.admin.LogEnds(ctx, there)
	})
}

func (a *admin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return a.offsets(tps, func(there []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return a.admin.HighWatermarks(ctx, there)
	})
}

func (a *admin) StableEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return a.offsets(tps, func(there []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return a.admin.StableEnds(ctx, there)
	})
}

func (a *admin) LogStarts(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return a.offsets(tps, func(there []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return a.admin.LogStarts(ctx, there)
	})
}

func (a *admin) LogBounds(ctx context.Context, tps []spillway.TopicPartition) (starts, ends map[spillway.TopicPartition]spillway.LocalOffset, err error) {
	var there map[spillway.TopicPartition]spillway.LocalOffset
	ends, err = a.offsets(tps, func(of []spillway.TopicPartition) (found map[spillway.TopicPartition]spillway.LocalOffset, err error) {
		there, found, err = a.admin.LogBounds(ctx, of)
		return found, err
	})
	starts, fault := a.offsets(tps, func([]spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return there, nil
	})
	return starts, ends, cmp.Or(err, fault)
}

func (a *admin) OffsetsForTime(ctx context.Context, tps []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return a.offsets(tps, func(there []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
		return a.admin.OffsetsForTime(ctx, there, milliseconds)
	})
}

func (a *admin) NewProducerID(ctx context.Context) (int64, error) { return a.admin.NewProducerID(ctx) }

func (a *admin) DescribeProducers(ctx context.Context, tp spillway.TopicPartition) ([]broker.ProducerState, error) {
	name, err := a.names.there(tp.Topic)
	if err != nil {
		return nil, err
	}
	return a.admin.DescribeProducers(ctx, spillway.TopicPartition{Topic: name, Partition: tp.Partition})
}

func (a *admin) AbortTransaction(_ context.Context, tp spillway.TopicPartition, _ broker.ProducerState) error {
	return a.readOnly("abort a transaction in", tp.String())
}

// Transactional ids are those of the whole cluster, under its own names.
func (a *admin) OpenTransactions(ctx context.Context) ([]broker.Transaction, error) {
	return a.admin.OpenTransactions(ctx)
}

func (a *admin) DescribeTransaction(ctx context.Context, transactionalID string) (broker.Transaction, error) {
	return a.admin.DescribeTransaction(ctx, transactionalID)
}

func (a *admin) EndTransaction(_ context.Context, transactionalID string) error {
	return a.readOnly("end the transaction of", transactionalID)
}

func (a *admin) DenyWrite(_ context.Context, principal string, _ []string) error {
	return a.readOnly("deny writes by", principal)
}

func (a *admin) AllowWrite(_ context.Context, principal string, _ []string) error {
	return a.readOnly("allow writes by", principal)
}

// ACLs, quotas and users are those of the whole cluster, under its own names.
func (a *admin) ACLs(ctx context.Context) ([]spillway.ACL, error) { return a.admin.ACLs(ctx) }

func (a *admin) AllACLs(ctx context.Context) ([]spillway.ACL, error) { return a.admin.AllACLs(ctx) }

func (a *admin) CreateACLs(context.Context, []spillway.ACL) error {
	return a.readOnly("create", "ACLs")
}

func (a *admin) DeleteACLs(context.Context, []spillway.ACL) error {
	return a.readOnly("delete", "ACLs")
}

func (a *admin) Quotas(ctx context.Context) (map[broker.QuotaEntity]map[string]float64, error) {
	return a.admin.Quotas(ctx)
}

func (a *admin) SetQuota(_ context.Context, entity broker.QuotaEntity, _ map[string]*float64) error {
	return a.readOnly("change the quota of", string(entity))
}

func (a *admin) ScramUsers(ctx context.Context) (map[string][]string, error) {
	return a.admin.ScramUsers(ctx)
}
