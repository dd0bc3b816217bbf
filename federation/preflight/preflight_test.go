package preflight

import (
	"maps"
	"strings"
	"testing"
)

func topic(change func(*Topic)) Topic {
	t := Topic{Partitions: 3, Replicas: 3, InSync: []int{3, 3, 3}, Settings: map[string]string{
		"max.message.bytes": "1048588", "retention.ms": "604800000", "retention.bytes": "-1", "cleanup.policy": "delete",
		"message.timestamp.type": "CreateTime", "min.insync.replicas": "2", "unclean.leader.election.enable": "false",
	}}
	change(&t)
	return t
}

func set(name, value string) func(*Topic) {
	return func(t *Topic) {
		t.Settings = maps.Clone(t.Settings)
		t.Settings[name] = value
	}
}

func TestCompare(t *testing.T) {
	same := func(*Topic) {}
	for name, c := range map[string]struct {
		active, target func(*Topic)
		gone           bool // at the target
		unread         bool // the active site
		want           []string
		refuses        int
	}{
		"the same":                        {active: same, target: same},
		"a topic is missing":              {active: same, target: same, gone: true, want: []string{"west lacks topics, which its mirror has to create first: orders"}, refuses: 1},
		"partitions are missing":          {active: func(t *Topic) { t.Partitions = 4 }, target: same, want: []string{"west lacks partitions of topics, which its mirror has to create first: orders (3 of 4)"}, refuses: 1},
		"more partitions are no harm":     {active: func(t *Topic) { t.Partitions = 2 }, target: same},
		"no leader":                       {active: same, target: func(t *Topic) { t.Leaderless, t.InSync = []int32{1}, []int{3, 0, 3} }, want: []string{"partitions have no leader at west, start its brokers: orders-1"}, refuses: 1},
		"too few in sync":                 {active: same, target: func(t *Topic) { t.InSync = []int{3, 1, 3} }, want: []string{"refuses acks=all; start its brokers or wait until they have caught up: orders-1 (1 of 2)"}, refuses: 1},
		"also where the old site is lost": {active: same, target: func(t *Topic) { t.InSync = []int{3, 1, 3} }, unread: true, want: []string{"orders-1 (1 of 2)", "west was looked at alone"}, refuses: 1},
		"enough in sync":                  {active: same, target: func(t *Topic) { t.InSync = []int{3, 2, 3} }},
		"fewer replicas":                  {active: same, target: func(t *Topic) { t.Replicas = 2 }, want: []string{"topics have fewer replicas at west than at east: orders (2, not 3)"}},
		"smaller batches":                 {active: same, target: set("max.message.bytes", "1000"), want: []string{"max.message.bytes differs at west, larger batches will be refused: orders (1000, not 1048588)"}},
		"larger batches are no harm":      {active: same, target: set("max.message.bytes", "2000000")},
		"kept shorter":                    {active: set("retention.ms", "-1"), target: same, want: []string{"retention.ms differs at west, records are kept for a shorter time: orders (604800000, not -1)"}},
		"kept for ever is no harm":        {active: same, target: set("retention.ms", "-1")},
		"unclean leaders":                 {active: same, target: set("unclean.leader.election.enable", "true"), want: []string{"a broker that lacks records may lead"}},
		"clean leaders are no harm":       {active: set("unclean.leader.election.enable", "true"), target: same},
		"settings that were not read":     {active: same, target: func(t *Topic) { t.Settings = nil }},
	} {
		active, target := &Site{ID: "east", Topics: map[string]Topic{"orders": topic(c.active)}}, Site{ID: "west", Topics: map[string]Topic{"orders": topic(c.target)}}
		if c.gone {
			target.Topics = nil
		}
		if c.unread {
			active = nil
		}
		found := Compare(active, target, Limits{})
		if len(found) != len(c.want) || len(Refusals(found)) != c.refuses {
			t.Errorf("%s: %+v", name, found)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(found[i].What, want) {
				t.Errorf("%s: %q, not %q", name, found[i].What, want)
			}
		}
	}
}

// What refuses comes first, and a sentence stays one with thousands of partitions.
func TestFindingsAreShort(t *testing.T) {
	active := Site{ID: "east", Topics: map[string]Topic{"orders": topic(func(t *Topic) { t.Partitions = 5000 })}}
	target := Site{ID: "west", Topics: map[string]Topic{"orders": topic(func(t *Topic) {
		t.Partitions, t.InSync, t.Replicas = 5000, make([]int, 5000), 1
	})}}
	found := Compare(&active, target, Limits{})
	if len(found) != 2 || !found[0].Refuses || found[1].Refuses || !strings.HasSuffix(found[0].What, "orders-4 (0 of 2) and 4995 more") {
		t.Errorf("%+v", found)
	}
}
