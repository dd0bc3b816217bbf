package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror"
	"spillway/mirror/audit"
)

// site starts an embedded cluster and returns its addresses as flags take them.
func site(t *testing.T, id spillway.SiteID, topics map[string]int32) string {
	t.Helper()
	c, err := embedded.Start(embedded.Config{Site: id, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return strings.Join(c.Addresses(), ",")
}

// told runs a command line and decodes what it prints.
func told(t *testing.T, into any, args ...string) error {
	t.Helper()
	root := newRoot()
	var out, said bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&said)
	root.SetArgs(append(args, "-o", "json"))
	err := root.ExecuteContext(t.Context())
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), into); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out.String())
		}
	}
	return err
}

func produce(t *testing.T, addresses, topic string, from, count int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addresses, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range count {
		r := &kgo.Record{Topic: topic, Key: fmt.Append(nil, i%7), Value: fmt.Appendf(nil, "record %d", from+i), Timestamp: time.UnixMilli(1_700_000_000_000)}
		cl.Produce(t.Context(), r, nil)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorRunAuditTranslate(t *testing.T) {
	from, to := site(t, "a", map[string]int32{"orders": 2, "other": 1}), site(t, "b", nil)
	between := []string{"--from", from, "--to", to}
	produce(t, from, "orders", 0, 500)
	produce(t, from, "other", 0, 5)

	var mirrored mirror.RunReport
	if err := told(t, &mirrored, append([]string{"mirror", "run", "--topics", "orders", "--until-caught-up"}, between...)...); err != nil {
		t.Fatal(err)
	}
	if mirrored.Records != 500 || mirrored.Partitions != 2 {
		t.Errorf("the first run: %+v", mirrored)
	}
	produce(t, from, "orders", 500, 100)
	if err := told(t, &mirrored, append([]string{"mirror", "run", "--topics", "orders", "--until-caught-up"}, between...)...); err != nil {
		t.Fatal(err)
	}
	if mirrored.Records != 100 {
		t.Errorf("the second run mirrored %d records, want what had come since", mirrored.Records)
	}

	var report audit.Report
	if err := told(t, &report, append([]string{"audit", "--topics", "orders"}, between...)...); err != nil || !report.Equal || report.Records != 600 {
		t.Errorf("audit: %+v, %v", report, err)
	}
	var at audit.Translated
	if err := told(t, &at, append([]string{"offsets", "translate", "--topic", "orders", "--partition", "1", "--offset", "17"}, between...)...); err != nil || at.Translated != 17 || !at.Exact {
		t.Errorf("translate: %+v, %v", at, err)
	}

	produce(t, to, "orders", 9000, 1) // somebody else writes at the target: hidden from clients of the virtual cluster, and said
	if err := told(t, &report, append([]string{"audit", "--topics", "orders"}, between...)...); err != nil || report.Partitions[0].Hidden+report.Partitions[1].Hidden != 1 {
		t.Errorf("audit of a target with a foreign record: %+v, %v", report, err)
	}
	produce(t, from, "orders", 600, 1) // not mirrored
	if err := told(t, &report, append([]string{"audit", "--topics", "orders"}, between...)...); err == nil || report.Equal || report.Faults != 1 {
		t.Errorf("audit did not find a missing record: %+v, %v", report, err)
	}
}

// What is selected, renamed and started late stays so in all commands.
func TestMirrorRunSelects(t *testing.T) {
	from, to := site(t, "a", map[string]int32{"orders": 1, "orders.test": 1, "carts": 1}), site(t, "b", map[string]int32{"orders": 1})
	between := []string{"--from", from, "--to", to, "--rename", "(.*)=a.$1"}
	topics := append([]string{"--topics", "orders.*", "--exclude", ".*test"}, between...)
	for _, topic := range []string{"orders", "orders.test", "carts"} {
		produce(t, from, topic, 0, 100)
	}
	var mirrored mirror.RunReport
	if err := told(t, &mirrored, append([]string{"mirror", "run", "--start", "2023-11-15T00:00:00Z", "--until-caught-up"}, topics...)...); err != nil {
		t.Fatal(err)
	}
	if mirrored.Partitions != 1 || mirrored.Records != 0 || len(mirrored.Gaps) != 1 {
		t.Errorf("a start after all records: %+v", mirrored)
	}
	produce(t, from, "orders", 100, 50)
	if err := told(t, &mirrored, append([]string{"mirror", "run", "--until-caught-up"}, topics...)...); err != nil {
		t.Fatal(err)
	}
	if mirrored.Records != 50 {
		t.Errorf("the second run: %+v", mirrored)
	}
	var report audit.Report
	if err := told(t, &report, append([]string{"audit"}, topics...)...); err != nil || !report.Equal || report.Records != 50 || len(report.Partitions) != 1 || report.Partitions[0].Topic != "a.orders" {
		t.Errorf("audit: %+v, %v", report, err)
	}
	var at audit.Translated
	if err := told(t, &at, append([]string{"offsets", "translate", "--topic", "a.orders", "--offset", "117"}, between...)...); err != nil || at.Translated != 17 || !at.Exact {
		t.Errorf("translate: %+v, %v", at, err)
	}
	for _, args := range [][]string{
		{"mirror", "run", "--from", from, "--to", from, "--topics", "orders"},
		{"mirror", "run", "--from", from, "--to", to, "--topics", "orders", "--start", "yesterday"},
		{"mirror", "run", "--from", from, "--to", to, "--topics", "nothing", "--until-caught-up"},
		{"mirror", "run", "--from", from, "--to", to, "--topics", ".*", "--rename", "orders.*=all", "--until-caught-up"},
		{"audit", "--from", from, "--to", to, "--topics", ".*", "--rename", "orders"},
	} {
		if err := told(t, nil, args...); err == nil {
			t.Errorf("%v was accepted", args[6:])
		} else {
			t.Log(err)
		}
	}
}

func TestEndsAreNamedByAddressOrSite(t *testing.T) {
	for _, args := range [][]string{
		{"audit", "--from", "nowhere", "--to", "127.0.0.1:1", "--topics", ".*"},
		{"audit", "--from", "127.0.0.1:1", "--to", "127.0.0.1:1,x", "--topics", ".*"},
		{"mirror", "run", "--from", "127.0.0.1:1", "--to", "127.0.0.1:2", "--topics", "("},
		{"mirror", "run", "--topics", "orders"},
		{"mirror", "run", "--from", "127.0.0.1:1", "--to", "127.0.0.1:2", "--topics", "orders", "--cap", "fast"},
		{"mirror", "run", "--from", "127.0.0.1:1", "--to", "127.0.0.1:2", "--topics", "orders", "--cap", "orders=0"},
	} {
		if err := told(t, nil, args...); err == nil {
			t.Errorf("%v was accepted", args)
		} else {
			t.Log(err)
		}
	}
}

// A dry run says what a run would do, and does nothing.
func TestMirrorDryRun(t *testing.T) {
	from, to := site(t, "a", map[string]int32{"orders": 2, "carts": 3}), site(t, "b", map[string]int32{"carts": 1})
	produce(t, from, "orders", 0, 10)
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(from, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	for _, topic := range []string{"orders", "carts"} {
		if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: kadm.StringPtr("1000000")}}, topic); err != nil {
			t.Fatal(err)
		}
	}
	run := []string{"mirror", "run", "--topics", ".*", "--from", from, "--to", to}
	for range 2 { // the first changed nothing
		var would mirror.Preview
		if err := told(t, &would, append(run, "--dry-run")...); err != nil {
			t.Fatal(err)
		}
		if len(would.Topics) != 1 || would.Topics[0].Topic != "orders" || would.Topics[0].Partitions != 2 || would.Topics[0].Settings["retention.ms"] != "1000000" {
			t.Errorf("topics to be created: %+v", would.Topics)
		}
		if len(would.Partitions) != 1 || would.Partitions[0] != (mirror.PreviewGrowth{Topic: "carts", From: 1, To: 3}) {
			t.Errorf("partitions to be added: %+v", would.Partitions)
		}
		if !slices.ContainsFunc(would.Settings, func(s mirror.PreviewSetting) bool {
			return s.Topic == "carts" && s.Key == "retention.ms" && *s.New == "1000000" && s.Old == nil
		}) {
			t.Errorf("settings to be changed: %+v", would.Settings)
		}
	}
	there, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(to, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if topics, err := kadm.NewClient(there).ListTopics(t.Context()); err != nil || len(topics) != 1 {
		t.Errorf("dry runs have changed the target: %v, %v", topics.Names(), err)
	}
	var report mirror.RunReport
	if err := told(t, &report, append(run, "--until-caught-up")...); err != nil {
		t.Fatal(err)
	}
	var would mirror.Preview
	if err := told(t, &would, append(run, "--dry-run")...); err != nil || len(would.Topics)+len(would.Partitions)+len(would.Settings)+len(would.Kept) != 0 {
		t.Errorf("after a run there is still to be done: %+v, %v", would, err)
	}
	if _, err := admin.DeleteTopics(t.Context(), "orders", "carts"); err != nil {
		t.Fatal(err)
	}
	for policy, deleted := range map[string]bool{"keep": false, "follow": true} {
		var would mirror.Preview
		if err := told(t, &would, append(run, "--dry-run", "--deletes", policy)...); err != nil {
			t.Fatal(err)
		}
		// carts was there before the first run.
		if d := would.Deletions; len(d) != 2 || d[0].Topic != "carts" || d[0].Deleted || d[1].Topic != "orders" || d[1].Deleted != deleted {
			t.Errorf("--deletes %s: %+v", policy, d)
		}
	}
}

func TestParseCaps(t *testing.T) {
	got, err := parseCaps([]string{"50MiB", "orders,cart*=10kB"})
	want := []mirror.Cap{{BytesPerSecond: 50 << 20}, {Topics: []string{"orders", "cart*"}, BytesPerSecond: 10_000}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
