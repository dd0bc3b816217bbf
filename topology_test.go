package spillway

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestGroupOfTopic(t *testing.T) {
	groups := []FailoverGroup{
		{Name: "all", Topics: []string{"*"}, ConsumerGroups: []string{"*"}},
		{Name: "shop", Topics: []string{"orders", "shop-*"}},
		{Name: "returns", Topics: []string{"shop-returns-*"}},
	}
	topology := NewTopology("t", "id", nil, groups)
	for topic, want := range map[string]string{
		"orders": "shop", "orders-2": "all", "shop-web": "shop", "shop-returns-1": "returns", "_schemas": "all",
		// A site keeps these for itself, whatever the patterns say.
		MapTopic: "", "__consumer_offsets": "", InternalTopicPrefix + "canary": "",
	} {
		if g, ok := topology.GroupOfTopic(topic); g.Name != want || ok != (want != "") {
			t.Errorf("%s belongs to %q, want %q", topic, g.Name, want)
		}
	}
	if g, ok := topology.GroupOfConsumerGroup("anything"); !ok || g.Name != "all" {
		t.Errorf("consumer group belongs to %q", g.Name)
	}
}

// An unordered group is one failover group for each site.
func TestSpread(t *testing.T) {
	one := FailoverGroup{Name: "clicks", Topics: []string{"clicks*"}, ConsumerGroups: []string{"readers"}, Sites: []SiteID{"east", "west", "north"}}
	other := FailoverGroup{Name: "orders", Topics: []string{"orders"}, Sites: []SiteID{"east"}}
	top := NewTopology("shop", "id", nil, append(one.Spread(4, HomeFirst), other))
	for partition, want := range map[int32]string{0: "clicks-east", 3: "clicks-east", 4: "clicks-west", 11: "clicks-north", 12: "", -1: ""} {
		tp := TopicPartition{Topic: "clicks-1", Partition: partition}
		g, ok := top.GroupOf(tp)
		if g.Name != want || ok != (want != "") || ok && (!top.Has(g, tp) || !top.HasTopic(g, tp.Topic) || g.Kind != Unordered) {
			t.Errorf("partition %d belongs to %q (%v), want %q", partition, g.Name, ok, want)
		}
	}
	if g, ok := top.GroupOf(TopicPartition{Topic: "orders", Partition: 99}); !ok || g.Name != "orders" || top.HasTopic(g, "clicks-1") {
		t.Errorf("an ordered topic belongs to %q", g.Name)
	}
	west, _ := top.Group("clicks-west")
	if !slices.Equal(west.Sites, []SiteID{"west", "north", "east"}) || len(west.ConsumerGroups) > 0 || west.Siblings.Total() != 12 {
		t.Errorf("%+v", west)
	}
	if g, ok := top.GroupOfConsumerGroup("readers"); !ok || g.Name != "clicks-east" {
		t.Errorf("readers belong to %q", g.Name)
	}
	for index, want := range []int32{2, 6, 10} {
		if got := west.Siblings.Partition(index, TopicPartition{Topic: "clicks-1", Partition: 6}); got.Partition != want || got.Topic != "clicks-1" {
			t.Errorf("sibling %d of partition 6 is %s, want %d", index, got, want)
		}
	}
}

// However patterns overlap, a name has the group that a look at all of them gives it.
func TestGroupOfTopicAsALookAtAllPatterns(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := func(most int) string {
		b := make([]byte, random.IntN(most+1))
		for i := range b {
			b[i] = "ab"[random.IntN(2)]
		}
		return string(b)
	}
	for range 300 {
		var groups []FailoverGroup
		for g := range 1 + random.IntN(6) {
			var patterns []string
			for range random.IntN(5) {
				pattern := letters(4)
				if random.IntN(2) == 0 {
					pattern += "*"
				}
				patterns = append(patterns, pattern)
			}
			groups = append(groups, FailoverGroup{Name: fmt.Sprint("group ", g), Topics: patterns})
		}
		topology := NewTopology("shop", "shop-1", nil, groups)
		for range 50 {
			name := letters(6)
			want, most := "", -1
			for _, g := range groups {
				for _, pattern := range g.Topics {
					n := -1
					if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
						n = len(prefix)
					} else if pattern == name {
						n = 1 << 20
					}
					if n > most {
						want, most = g.Name, n
					}
				}
			}
			if got, ok := topology.GroupOfTopic(name); got.Name != want || ok != (most >= 0) {
				t.Fatalf("%q is of %q (%t), not of %q: %+v", name, got.Name, ok, want, groups)
			}
		}
	}
}
