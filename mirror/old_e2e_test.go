//go:build e2e

package mirror

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
	"spillway/mirror/audit"
	cluster "spillway/tests/cluster/kafka"
)

// TestAnOldSourceIsMigratedOnKafka carries topics with transactions, their settings, and
// groups from a release of Kafka that still needs a ZooKeeper to the newest.
func TestAnOldSourceIsMigratedOnKafka(t *testing.T) {
	ctx := testContext(t)
	old := cluster.OldForTest(t, forgetful)
	server := cluster.ForTest(t, cluster.Config{Name: "west", Version: cluster.Versions[len(cluster.Versions)-1], FirstNode: 11, Properties: forgetful})[0]
	open := func(id spillway.SiteID, bootstrap []string) broker.Cluster {
		t.Helper()
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: bootstrap})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	east, west := open("east", []string{old.Address()}), open("west", server.Bootstrap())
	createTopic(t, east, "orders", 2, map[string]string{"retention.ms": "1000000000"})
	committed := make(map[spillway.TopicPartition]broker.GroupOffset)
	for p := range int32(2) {
		tp := spillway.TopicPartition{Topic: "orders", Partition: p}
		if err := newHoley(t, []string{old.Address()}, tp, []kgo.CompressionCodec{kgo.ZstdCompression(), kgo.GzipCompression()}[p]).write(ctx, 5000); err != nil {
			t.Fatal(err)
		}
		ends, err := east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		committed[tp] = broker.GroupOffset{Offset: ends[tp] / 2, LeaderEpoch: -1, Metadata: "text"}
	}
	if err := east.Admin().CommitGroupOffsets(ctx, "app", committed); err != nil {
		t.Fatal(err)
	}
	topics := selected(t, "orders")
	preview, err := PreviewRun(ctx, RunConfig{From: east, To: west, Topics: topics})
	if err != nil || len(preview.Topics) != 1 || preview.Topics[0].Settings["retention.ms"] != "1000000000" {
		t.Errorf("%+v, %v", preview, err)
	}
	run, err := Run(ctx, RunConfig{From: east, To: west, Topics: topics, Groups: regexp.MustCompile("app"), UntilCaughtUp: true, Mirror: Config{Quotas: true}})
	if err != nil {
		t.Fatal(err)
	}
	audited, err := audit.Audit(ctx, east, west, topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal || run.Records != audited.Records || run.Groups != 1 || len(run.Gaps) > 0 || run.UsersUnknown != "" {
		t.Errorf("%+v, %+v, %v", run, audited, err)
	}
	settings, err1 := west.Admin().TopicSettings(ctx, []string{"orders"})
	groups, err2 := west.Admin().FetchGroupOffsets(ctx, "app")
	if err := errors.Join(err1, err2); err != nil || settings["orders"]["retention.ms"] != "1000000000" {
		t.Errorf("%v, %v", settings, err)
	}
	translator, err := audit.OpenTranslator(ctx, east, west)
	if err != nil {
		t.Fatal(err)
	}
	defer translator.Close()
	for tp, o := range committed {
		want, err := translator.Translate(tp, o.Offset, false)
		if err != nil || groups[tp].Offset != want.Translated || groups[tp].Metadata != "text" {
			t.Errorf("%s: %+v became %+v, want %+v (%v)", tp, o, groups[tp], want, err)
		}
	}
	fmt.Printf("measured: from Kafka %s: %d records, audit of %d: %d differences\n", cluster.OldestVersion, run.Records, audited.Records, audited.Faults)
}
