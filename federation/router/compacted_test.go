package router

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
)

// hiding is a map by which the log of carts at east hides records.
type hiding struct{ Maps }

func (hiding) Hides(site spillway.SiteID, topic string) string {
	if site == "east" && topic == "carts" {
		return "unreplicated in partition 0"
	}
	return ""
}

// A topic is compacted where its cleaner can take nothing for the newest record of a key
// that clients do not see, and where one partition has all records of a key (C11).
func TestTopicsThatCannotBeCompacted(t *testing.T) {
	t.Parallel()
	r := &Router{maps: hiding{}}
	ordered, unordered := spillway.FailoverGroup{Name: "shop"}, spillway.FailoverGroup{Name: "shop.east", Siblings: spillway.Siblings{Of: "shop"}}
	for _, c := range []struct {
		group spillway.FailoverGroup
		site  spillway.SiteID
		topic string
		want  string
	}{
		{ordered, "east", "orders", ""},
		{ordered, "west", "carts", ""},
		{ordered, "east", "carts", "log of it hides records: unreplicated in partition 0"},
		{unordered, "west", "orders", "the failover group shop is unordered"},
	} {
		err := r.refuseCompacted(c.group, c.site, c.topic)
		var refused *topicError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &refused) || refused.code != kerr.PolicyViolation || !strings.Contains(refused.message, c.want)) {
			t.Errorf("%s at %s of %s: %v", c.topic, c.site, c.group.Name, err)
		}
	}
	compact := "compact,delete"
	asked := kmsg.NewCreateTopicsRequestTopic()
	asked.Topic, asked.NumPartitions, asked.ReplicationFactor = "carts", 1, 1
	asked.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "cleanup.policy", Value: &compact}}
	if configs, err := newTopic(ordered, asked); err != nil || configs["cleanup.policy"] != compact {
		t.Errorf("%v, %v", configs, err)
	}
	if _, err := newTopic(unordered, asked); err == nil || err.code != kerr.PolicyViolation {
		t.Errorf("in an unordered group: %v", err)
	}
}

// To set what is so already changes nothing, and is no fault where the log hides records.
func TestACompactedTopicMayBeSetSoAgain(t *testing.T) {
	t.Parallel()
	site, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"carts": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { site.Close() })
	r, compact := &Router{maps: hiding{}}, "compact"
	becomes := func() error {
		return r.becomesCompacted(t.Context(), site, spillway.FailoverGroup{Name: "shop"}, "east", "carts", []broker.SettingChange{{Key: "cleanup.policy", Value: &compact}})
	}
	if err := becomes(); err == nil {
		t.Error("a topic whose log hides records may be compacted")
	}
	if err := site.Admin().SetTopicConfigs(t.Context(), "carts", map[string]*string{"cleanup.policy": &compact}); err != nil {
		t.Fatal(err)
	}
	if err := becomes(); err != nil {
		t.Errorf("it is compacted already: %v", err)
	}
}
