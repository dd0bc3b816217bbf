package brokertest

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"testing"

	"spillway"
	"spillway/broker"
)

func topics(t *testing.T, f *fixture) {
	name := f.name("topic")
	f.must(f.admin.CreateTopic(f.ctx, name, 2, 1, nil))
	if err := f.admin.CreateTopic(f.ctx, name, 2, 1, nil); !errors.Is(err, broker.ErrTopicExists) {
		t.Errorf("second creation: %v", err)
	}
	m, err := f.Cluster.Metadata(f.ctx, name)
	f.must(err)
	if got := m.Topics[name]; len(got.Partitions) != 2 || got.ID == [16]byte{} || got.Internal || got.Name != name {
		t.Errorf("metadata %+v", got)
	}
	f.must(f.admin.CreatePartitions(f.ctx, name, 5))
	all, err := f.Cluster.Metadata(f.ctx)
	f.must(err)
	for i, p := range all.Topics[name].Partitions {
		if p.Partition != int32(i) || p.Leader < 0 || len(p.Replicas) != 1 || len(p.ISR) != 1 {
			t.Errorf("partition %+v", p)
		}
	}
	if len(all.Topics[name].Partitions) != 5 {
		t.Errorf("%d partitions", len(all.Topics[name].Partitions))
	}
	f.must(f.admin.DeleteTopic(f.ctx, name))
	if err := f.admin.DeleteTopic(f.ctx, name); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("second deletion: %v", err)
	}
	if _, err := f.Cluster.Leader(f.ctx, spillway.TopicPartition{Topic: name}); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("leader of a deleted topic: %v", err)
	}
	m, err = f.Cluster.Metadata(f.ctx, name)
	if got, ok := m.Topics[name]; err != nil || !ok || got.ErrorCode != 3 {
		t.Errorf("metadata of a deleted topic: %+v, %v", got, err)
	}
}

// manyTopics are created together, and one that cannot be keeps no other from it.
func manyTopics(t *testing.T, f *fixture) {
	there := f.topic(1, nil)
	topics := []broker.NewTopic{{Name: there.Topic, Partitions: 1, Replication: 1}, {Name: f.name("none"), Partitions: 0, Replication: 1}}
	want := map[string]string{}
	for i := range 7 {
		topic := broker.NewTopic{Name: f.name("many"), Partitions: 100, Replication: 1, Configs: map[string]string{"max.message.bytes": strconv.Itoa(2_000_000 + i)}}
		topics, want[topic.Name] = append(topics, topic), topic.Configs["max.message.bytes"]
	}
	checked, err := f.admin.CheckTopics(f.ctx, topics)
	f.must(err)
	if len(checked) != 2 || !errors.Is(checked[there.Topic], broker.ErrTopicExists) || checked[topics[1].Name] == nil {
		t.Errorf("checked: %v", checked)
	}
	created, refused, err := f.admin.CreateTopics(f.ctx, topics)
	f.must(err)
	slices.Sort(created)
	if !slices.Equal(created, slices.Sorted(maps.Keys(want))) {
		t.Errorf("created: %v", created)
	}
	if len(refused) != 2 || !errors.Is(refused[there.Topic], broker.ErrTopicExists) || refused[topics[1].Name] == nil {
		t.Errorf("refused: %v", refused)
	}
	var tps []spillway.TopicPartition
	for name := range want {
		for p := range int32(100) {
			tps = append(tps, spillway.TopicPartition{Topic: name, Partition: p})
		}
	}
	ends, err := f.admin.HighWatermarks(f.ctx, tps) // they have leaders
	if err != nil || len(ends) != len(tps) {
		t.Errorf("ends of %d partitions: %v", len(ends), err)
	}
	values, err := f.admin.TopicValues(f.ctx, append(created, f.name("absent"), there.Topic), "max.message.bytes")
	f.must(err)
	if values[there.Topic] == "" {
		t.Errorf("a value that is not set: %q", values[there.Topic])
	}
	delete(values, there.Topic)
	if !maps.Equal(values, want) {
		t.Errorf("values: %v", values)
	}
}

func settings(t *testing.T, f *fixture) {
	tp := f.topic(1, map[string]string{"retention.ms": "1000000"})
	read := func() map[string]broker.ConfigValue {
		t.Helper()
		configs, err := f.admin.TopicConfigs(f.ctx, tp.Topic)
		f.must(err)
		return configs
	}
	if got := read()["retention.ms"]; got.Value != "1000000" || got.Default {
		t.Errorf("as created: %+v", got)
	}
	if got := read()["cleanup.policy"]; got.Value != "delete" || !got.Default {
		t.Errorf("not set: %+v", got)
	}
	value := "12345678"
	f.must(f.admin.SetTopicConfigs(f.ctx, tp.Topic, map[string]*string{"max.message.bytes": &value, "retention.ms": nil}))
	f.eventually("changed settings", func() bool {
		now := read()
		return now["max.message.bytes"] == (broker.ConfigValue{Value: value}) && now["retention.ms"].Default
	})
	list, plain := "compact", "delete"
	f.must(f.admin.AlterTopic(f.ctx, tp.Topic, []broker.SettingChange{{Key: "retention.ms", Value: &value}}, true))
	if got := read()["retention.ms"]; !got.Default {
		t.Errorf("only asked whether it could be changed: %+v", got)
	}
	f.must(f.admin.AlterTopic(f.ctx, tp.Topic, []broker.SettingChange{{Key: "cleanup.policy", Value: &plain}}, false))
	f.eventually("a setting", func() bool { return !read()["cleanup.policy"].Default })
	f.must(f.admin.AlterTopic(f.ctx, tp.Topic, []broker.SettingChange{{Key: "cleanup.policy", Op: broker.AppendSetting, Value: &list}}, false))
	f.eventually("an appended setting", func() bool { return read()["cleanup.policy"].Value == "delete,compact" })
	f.must(f.admin.AlterTopic(f.ctx, tp.Topic, []broker.SettingChange{{Key: "cleanup.policy", Op: broker.ResetSetting}}, true))
	f.must(f.admin.AlterTopic(f.ctx, tp.Topic, []broker.SettingChange{{Key: "cleanup.policy", Op: broker.ResetSetting}}, false))
	f.eventually("a setting that was reset", func() bool { return read()["cleanup.policy"].Default })
	if err := f.admin.AlterTopic(f.ctx, f.name("absent"), []broker.SettingChange{{Key: "retention.ms", Op: broker.ResetSetting}}, false); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("settings of an absent topic: %v", err)
	}
	other := f.topic(1, nil)
	absent := f.name("absent")
	set, err := f.admin.TopicSettings(f.ctx, []string{tp.Topic, other.Topic, absent})
	f.must(err)
	if _, ok := set[absent]; ok || len(set) != 2 || len(set[other.Topic]) != 0 || len(set[tp.Topic]) != 1 || set[tp.Topic]["max.message.bytes"] != value {
		t.Errorf("what is set on topics: %v", set)
	}
	if f.can.ProducerExpiry {
		brokers, err := f.admin.BrokerConfig(f.ctx, "producer.id.expiration.ms")
		f.must(err)
		if len(brokers) == 0 {
			t.Error("no broker tells how long it remembers producers")
		}
		for node, value := range brokers {
			if value != "86400000" {
				t.Errorf("broker %d remembers producers for %s ms, the default is a day", node, value)
			}
		}
	}
	if _, err := f.admin.TopicConfigs(f.ctx, f.name("absent")); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("settings of an absent topic: %v", err)
	}
}

func leaders(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	first, err := f.Cluster.Leader(f.ctx, tp)
	f.must(err)
	f.must(f.Cluster.Refresh(f.ctx))
	second, err := f.Cluster.Leader(f.ctx, tp)
	f.must(err)
	if first != second || first < 0 {
		t.Errorf("leader %d, after a refresh %d", first, second)
	}
	tp.Partition = 7
	if _, err := f.Cluster.Leader(f.ctx, tp); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("leader of an absent partition: %v", err)
	}
}

func nodes(t *testing.T, f *fixture) {
	m, err := f.Cluster.Metadata(f.ctx)
	f.must(err)
	if m.ClusterID == "" || len(m.Nodes) == 0 {
		t.Fatalf("metadata %+v", m)
	}
	for _, n := range append(m.Nodes, broker.Node{ID: broker.AnyNode}) {
		c, err := f.Cluster.Dial(f.ctx, n.ID)
		f.must(err)
		if c.MaxVersion(3) < 9 {
			t.Errorf("node %d offers Metadata up to version %d", n.ID, c.MaxVersion(3))
		}
		f.must(c.Close())
	}
	if _, err := f.Cluster.Dial(f.ctx, 31_999); !errors.Is(err, broker.ErrUnknownNode) {
		t.Errorf("an absent node: %v", err)
	}
}
