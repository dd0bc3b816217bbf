package maptopic

import (
	"testing"

	"spillway"
	"spillway/broker/embedded"
)

// Workers write each second, so the map topic is made such that what is old can be
// compacted away, and no sooner than readers that were away have seen it.
func TestTheMapTopicIsCompacted(t *testing.T) {
	t.Parallel()
	site, err := embedded.Start(embedded.Config{Site: "west"})
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	w := NewWriter(t.Context(), site, 1)
	defer w.Close()
	if err := w.EnsureTopic(t.Context()); err != nil {
		t.Fatal(err)
	}
	configs, err := site.Admin().TopicConfigs(t.Context(), spillway.MapTopic)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"cleanup.policy": "compact", "segment.ms": "3600000", "min.compaction.lag.ms": "3600000"} {
		if got := configs[key].Value; got != want {
			t.Errorf("%s is %q, not %q", key, got, want)
		}
	}
}
