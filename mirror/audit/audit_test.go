package audit

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror"
	"spillway/mirror/selection"
)

func site(t *testing.T, id spillway.SiteID, topics map[string]int32) *embedded.Cluster {
	t.Helper()
	c, err := embedded.Start(embedded.Config{Site: id, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func produce(t *testing.T, c *embedded.Cluster, records ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, r := range records {
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: "orders", Key: fmt.Appendf(nil, "key %d", i), Value: fmt.Appendf(nil, "value %d", i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)),
			Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{byte(i)}}}}
	}
	return records
}

var all = selection.Topics{}

// TestFindsWhatIsPlanted copies records by hand, damages the copy in each way
// that there is, and expects the audit to name every damage and nothing else.
func TestFindsWhatIsPlanted(t *testing.T) {
	t.Parallel()
	damage := map[string]struct {
		do   func([]*kgo.Record) []*kgo.Record
		want []Difference
	}{
		"none":     {func(rs []*kgo.Record) []*kgo.Record { return rs }, nil},
		"value":    {func(rs []*kgo.Record) []*kgo.Record { rs[20].Value[3] ^= 1; return rs }, []Difference{{Changed, 20, 20, "value"}}},
		"key":      {func(rs []*kgo.Record) []*kgo.Record { rs[20].Key[0] ^= 1; return rs }, []Difference{{Changed, 20, 20, "key"}}},
		"null key": {func(rs []*kgo.Record) []*kgo.Record { rs[20].Key = nil; return rs }, []Difference{{Changed, 20, 20, "key"}}},
		"header":   {func(rs []*kgo.Record) []*kgo.Record { rs[20].Headers[0].Value[0] ^= 1; return rs }, []Difference{{Changed, 20, 20, "headers"}}},
		"timestamp": {func(rs []*kgo.Record) []*kgo.Record {
			rs[20].Timestamp = rs[20].Timestamp.Add(time.Millisecond)
			return rs
		}, []Difference{{Changed, 20, 20, "timestamp: 1700000000020, then 1700000000021"}}},
		"missing": {func(rs []*kgo.Record) []*kgo.Record { return slices.Delete(rs, 20, 22) }, []Difference{{Missing, 20, -1, ""}, {Missing, 21, -1, ""}}},
		"extra":   {func(rs []*kgo.Record) []*kgo.Record { return slices.Insert(rs, 20, rs[3]) }, []Difference{{Extra, -1, 20, ""}}},
		"swapped": {func(rs []*kgo.Record) []*kgo.Record { rs[20], rs[21] = rs[21], rs[20]; return rs }, []Difference{{Swapped, 20, 20, ""}}},
		"cut off": {func(rs []*kgo.Record) []*kgo.Record { return rs[:99] }, []Difference{{Missing, 99, -1, ""}}},
		"grown":   {func(rs []*kgo.Record) []*kgo.Record { return append(rs, rs[0]) }, []Difference{{Extra, -1, 100, ""}}},
	}
	for name, d := range damage {
		t.Run(name, func(t *testing.T) {
			east, west := site(t, "east", map[string]int32{"orders": 1}), site(t, "west", map[string]int32{"orders": 1})
			produce(t, east, numbered(100)...)
			produce(t, west, d.do(numbered(100))...)
			report, err := Audit(t.Context(), east, west, all, Scope{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if report.Equal != (d.want == nil) || len(report.Partitions) != 1 || !slices.Equal(report.Partitions[0].Differences, d.want) {
				t.Errorf("report: %+v", report)
			}
		})
	}
}

func TestMirroredSitesAreEqualAndTranslated(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	east, west := site(t, "east", map[string]int32{"orders": 1}), site(t, "west", nil)
	tx, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.TransactionalID("tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for i, r := range numbered(40) {
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := tx.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(ctx, kgo.TransactionEndTry(i%4 > 0)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mirror.Run(ctx, mirror.RunConfig{From: east, To: west, Topics: all, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	report, err := Audit(ctx, east, west, all, Scope{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Equal || report.Records != 30 {
		t.Errorf("report: %+v", report)
	}
	// Offset 2i is record i, 2i+1 its marker; every fourth was aborted.
	tp := spillway.TopicPartition{Topic: "orders"}
	for i := range spillway.LocalOffset(40) {
		there := i - i/4 - 1
		got, err := Translate(ctx, east, west, tp, 2*i, false)
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			if got.Exact || got.Translated != there+1 {
				t.Fatalf("aborted offset %d: %+v", 2*i, got)
			}
			continue
		}
		if !got.Exact || got.Translated != there {
			t.Fatalf("offset %d: %+v, want %d", 2*i, got, there)
		}
		back, err := Translate(ctx, east, west, tp, there, true)
		if err != nil || !back.Exact || back.Translated != 2*i {
			t.Fatalf("offset %d back: %+v, %v", there, back, err)
		}
	}
	// A foreign record is hidden, and does not make the sites unequal.
	produce(t, west, &kgo.Record{Topic: "orders", Value: []byte("foreign")})
	if report, err = Audit(ctx, east, west, all, Scope{}, nil); err != nil || !report.Equal || report.Partitions[0].Hidden != 1 {
		t.Errorf("report: %+v, %v", report, err)
	}
}

func TestCompactedTopicsAreComparedByKey(t *testing.T) {
	t.Parallel()
	east, west := site(t, "east", nil), site(t, "west", nil)
	for _, c := range []*embedded.Cluster{east, west} {
		if err := c.Admin().CreateTopic(t.Context(), "orders", 1, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
			t.Fatal(err)
		}
	}
	at := time.UnixMilli(1_700_000_000_000)
	rec := func(key, value string) *kgo.Record {
		r := &kgo.Record{Topic: "orders", Key: []byte(key), Timestamp: at}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	produce(t, east, rec("a", "1"), rec("b", "1"), rec("a", "2"), rec("c", "1"), rec("c", ""), rec("d", "4"))
	produce(t, west, rec("b", "1"), rec("a", "2"))
	report, err := Audit(t.Context(), east, west, all, Scope{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []Difference{{KeyDiffers, 5, -1, "only at the source"}}
	if p := report.Partitions[0]; !slices.Equal(p.Differences, want) || p.Records != 3 || !p.Compacted {
		t.Errorf("report: %+v", p)
	}
}

// TestLongSearch has more changed records in a row than the window is long.
func TestLongSearch(t *testing.T) {
	t.Parallel()
	east, west := site(t, "east", map[string]int32{"orders": 1}), site(t, "west", map[string]int32{"orders": 1})
	records := numbered(3 * windowRecords)
	produce(t, east, records...)
	for _, r := range records[10 : 10+2*windowRecords] {
		r.Value = bytes.ToUpper(r.Value)
	}
	produce(t, west, records...)
	report, err := Audit(t.Context(), east, west, all, Scope{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Faults != 2*windowRecords || len(report.Partitions[0].Differences) != DifferencesMax {
		t.Errorf("%d faults, %d listed", report.Faults, len(report.Partitions[0].Differences))
	}
}

// A part of a partition is compared as it is asked for: what is planted inside is
// found, what lies outside is not looked at. A sample of all rows finds everything.
func TestScopes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	east, west := site(t, "east", map[string]int32{"orders": 2}), site(t, "west", nil)
	var records []*kgo.Record
	for i := range 5000 {
		records = append(records, &kgo.Record{Topic: "orders", Partition: int32(i % 2), Value: fmt.Appendf(nil, "value %d", i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i))})
	}
	for some := range slices.Chunk(records, 100) {
		produceAtOnce(t, east, some...)
	}
	if _, err := mirror.Run(ctx, mirror.RunConfig{From: east, To: west, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	// More records at the source only: missing at the end of partition 1.
	for i := range 10 {
		produce(t, east, &kgo.Record{Topic: "orders", Partition: 1, Value: fmt.Appendf(nil, "late %d", i), Timestamp: time.UnixMilli(1_700_000_100_000 + int64(i))})
	}
	for name, c := range map[string]struct {
		scope           Scope
		records, faults int64
	}{
		"all":               {Scope{}, 5000, 10},
		"one partition":     {Scope{Partitions: []int32{0}}, 2500, 0},
		"a range":           {Scope{From: 100, To: 1100}, 2000, 0},
		"a range at an end": {Scope{From: 2400, Partitions: []int32{1}}, 100, 10},
		"since":             {Scope{Since: time.UnixMilli(1_700_000_004_000)}, 1000, 10},
		"since the last":    {Scope{Since: time.UnixMilli(1_700_000_100_005)}, 0, 5},
		"since later":       {Scope{Since: time.UnixMilli(1_800_000_000_000)}, 0, 0},
		"a sample of all":   {Scope{Sample: 0.9999}, 5000, 10},
	} {
		last := int64(0)
		report, err := Audit(ctx, east, west, all, c.scope, func(p Progress) { last = p.Records })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if report.Records != c.records || report.Faults != c.faults || last != c.records {
			t.Errorf("%s: %d records, %d faults, progress up to %d; want %d, %d", name, report.Records, report.Faults, last, c.records, c.faults)
		}
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		report, err := Audit(ctx, east, west, all, Scope{Sample: 0.3, Seed: seed}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if report.Records < 500 || report.Records > 2000 {
			t.Errorf("seed %d: a third of 5,000 records is not %d", seed, report.Records)
		}
		seen[report.Partitions[1].NotCompared+fmt.Sprint(report.Records)] = true
	}
	if len(seen) < 2 {
		t.Errorf("all seeds chose the same rows: %v", seen)
	}
	for want, s := range map[string]Scope{"[7,3)": {From: 7, To: 3}, "sample of 2": {Sample: 2}, "[-1,0)": {From: -1}} {
		if _, err := Audit(ctx, east, west, all, s, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestSampledBlocksAreSpread(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		blocks := Scope{Sample: 0.1, Seed: seed}.blocks(500, 100_500)
		if len(blocks) != 10 {
			t.Fatalf("a tenth of 100 rows is not %d", len(blocks))
		}
		for i, b := range blocks {
			if tenth := 500 + spillway.LocalOffset(i)*10_000; b.from < tenth || b.to > tenth+10_000 || b.to-b.from != sampleBlock {
				t.Errorf("seed %d: row %d is [%d,%d)", seed, i, b.from, b.to)
			}
		}
	}
	if got := (Scope{Sample: 0.001}).blocks(0, 10); len(got) != 1 || got[0] != (block{0, 10}) {
		t.Errorf("of one short row: %v", got)
	}
}

// produceAtOnce writes batches of several records.
func produceAtOnce(t *testing.T, c *embedded.Cluster, records ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}
