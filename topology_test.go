package spillway

import "testing"

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
