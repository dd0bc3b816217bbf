//go:build e2e

package clients_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/tests/cluster/kafka"
	"spillway/tests/world"
)

// javaTopics has Java's AdminClient do steps through a gateway and returns what it was told
// of each.
func javaTopics(t *testing.T, bootstrap string, steps ...string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	java, err := kafka.Tools(ctx, "4.4.0")
	if err != nil {
		t.Fatal(err)
	}
	source, err := filepath.Abs("java/Topics.java")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(source); err != nil {
		t.Fatal(err)
	}
	out, err := java.Run(ctx, source, append([]string{bootstrap}, steps...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	told := make(map[string]string)
	for line := range strings.Lines(out) {
		for _, step := range steps {
			if answer, is := strings.CutPrefix(strings.TrimRight(line, "\n"), step+": "); is {
				told[step] = answer
				fmt.Printf("| %s: %s\n", step, answer)
			}
		}
	}
	return told
}

// settingsAt is what is set on a topic at a site, asked there.
func settingsAt(t *testing.T, c *kafka.Cluster, topic string) (map[string]string, error) {
	cl, err := kgo.NewClient(c.Dial()...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: topic}}
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		return nil, err
	}
	set := make(map[string]string)
	for _, s := range resp.Resources[0].Configs {
		if s.Value != nil {
			set[s.Name] = *s.Value
		}
	}
	return set, kerr.ErrorForCode(resp.Resources[0].ErrorCode)
}

// An application administers its topics through a gateway, over real Kafka of two releases,
// with real mirrors, loops and a Consul: it creates one and changes its settings.
// After a switchover all of it is as it was.
func TestJavaAdministersTopics(t *testing.T) {
	w := world.Start(t, world.Options{Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.4.0", "west": "3.9.2"}, Consuls: 1, Topics: []string{"app-*"}, Administration: "topics"})
	expect := func(site string, steps [][2]string) {
		t.Helper()
		var words []string
		for _, s := range steps {
			words = append(words, s[0])
		}
		told := javaTopics(t, w.Bootstrap[map[string]int{"east": 0, "west": 1}[site]], words...)
		for _, s := range steps {
			if !strings.HasPrefix(told[s[0]], s[1]) {
				t.Errorf("%s: told %q, want %q", s[0], told[s[0]], s[1])
			}
		}
	}
	expect("east", [][2]string{
		{"create app-repartition 1 1 retention.ms=-1 cleanup.policy=delete segment.bytes=52428800", "1 partitions, id as described: true"},
		{"create app-repartition 2 1", "TopicExistsException"},
		{"create other 1 1", "PolicyViolationException topic other belongs to no failover group"},
		{"create app-bad/name 1 1", "InvalidTopicException"},
		{"create app-wide 1 3", "InvalidReplicationFactorException"},
		{"create app-strict 1 1 min.insync.replicas=2", "InvalidConfigurationException"},
		{"create app-changelog 1 1 cleanup.policy=compact", "1 partitions, id as described: true"},
		{"create app-odd 1 1 retention.ms=no", "InvalidConfigurationException"},
		{"set app-repartition retention.ms=86400000 max.message.bytes=2000000", "done"},
		{"set app-repartition remote.storage.enable=true", "InvalidConfigurationException"},
		{"settings app-repartition retention.ms max.message.bytes segment.bytes", "retention.ms=86400000 max.message.bytes=2000000 segment.bytes=52428800"},
		{"produce app-repartition 0 20", "last 700019"},
	})
	w.Eventually(time.Minute, "the other site has topic and settings", func() error {
		out, err := settingsAt(t, w.Kafka["west"], "app-repartition")
		if err == nil && (out["retention.ms"] != "86400000" || out["max.message.bytes"] != "2000000") {
			err = fmt.Errorf("west has %v", out)
		}
		return err
	})
	if _, err := w.Run(t.Context(), "east", "switchover", world.Group, "--to", "west"); err != nil {
		t.Fatal(err)
	}
	expect("west", [][2]string{
		{"partitions app-repartition", "1 partitions"},
		{"settings app-repartition retention.ms max.message.bytes segment.bytes", "retention.ms=86400000 max.message.bytes=2000000 segment.bytes=52428800"},
		{"produce app-repartition 0 5", "last 700024"},
		{"create app-later 2 1 retention.ms=3600000", "2 partitions, id as described: true"},
		{"create app-repartition 1 1", "TopicExistsException"},
	})
}
