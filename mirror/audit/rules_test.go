package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/broker/embedded"
	"spillway/mirror/rewrite"
)

// marked gives copies of records the headers that a flow would.
func marked(t *testing.T, source *embedded.Cluster, records []*kgo.Record, offsets ...int) []*kgo.Record {
	t.Helper()
	md, err := source.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []*kgo.Record
	for _, o := range offsets {
		r := *records[o]
		r.Headers = append(slices.Clone(r.Headers), kgo.RecordHeader{Key: "spillway.cluster", Value: []byte(md.ClusterID)}, kgo.RecordHeader{Key: "spillway.topic", Value: []byte("orders")},
			kgo.RecordHeader{Key: "spillway.partition", Value: []byte("0")}, kgo.RecordHeader{Key: "spillway.offset", Value: fmt.Append(nil, o)})
		out = append(out, &r)
	}
	return out
}

func parsed(t *testing.T, provenance bool, filters ...string) rewrite.Rules {
	t.Helper()
	all, err := rewrite.ParseFilters(filters)
	if err != nil {
		t.Fatal(err)
	}
	return rewrite.Rules{Filters: all, Provenance: provenance}
}

// TestFindsWhatFiltersAndHeadersWouldHide plants damage in copies that were made by hand
// with filters and provenance.
func TestFindsWhatFiltersAndHeadersWouldHide(t *testing.T) {
	kept := []int{0, 10, 20, 30}
	for name, c := range map[string]struct {
		do   func([]*kgo.Record, *embedded.Cluster) []*kgo.Record
		want []Difference
	}{
		"none":    {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record { return rs }, nil},
		"missing": {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record { return slices.Delete(rs, 1, 2) }, []Difference{{Missing, 10, -1, ""}}},
		"should have been left out": {func(rs []*kgo.Record, east *embedded.Cluster) []*kgo.Record {
			return slices.Insert(rs, 1, marked(t, east, numbered(100), 5)...)
		}, []Difference{{Extra, -1, 1, "a filter leaves it out"}}},
		"should have been left out, at the end": {func(rs []*kgo.Record, east *embedded.Cluster) []*kgo.Record {
			return append(rs, marked(t, east, numbered(100), 55)...)
		}, []Difference{{Extra, -1, 4, "a filter leaves it out"}}},
		"a header changed": {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record { rs[2].Headers[0].Value[0] ^= 1; return rs }, []Difference{{Changed, 20, 2, "headers"}}},
		"an untrue offset": {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record {
			rs[2].Headers[4].Value = []byte("21")
			return rs
		},
			[]Difference{{Provenance, 20, 2, `the provenance headers say ["CLUSTER" "orders" "0" "21"], the record comes from ["CLUSTER" "orders" "0" "20"]`}}},
		"no headers": {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record {
			rs[3].Headers = rs[3].Headers[:1]
			return rs
		}, []Difference{{Provenance, 30, 3, "no provenance headers"}}},
		"a header of its own more": {func(rs []*kgo.Record, _ *embedded.Cluster) []*kgo.Record {
			rs[3].Headers = append([]kgo.RecordHeader{{Key: "spillway.offset", Value: []byte("30")}}, rs[3].Headers...)
			return rs
		}, []Difference{{Changed, 30, 3, "headers"}}},
	} {
		t.Run(name, func(t *testing.T) {
			east, west := site(t, "east", map[string]int32{"orders": 1}), site(t, "west", map[string]int32{"orders": 1})
			records := numbered(40)
			produceAtOnce(t, east, records...)
			produceAtOnce(t, west, c.do(marked(t, east, numbered(40), kept...), east)...)
			report, err := Audit(t.Context(), east, west, all, Scope{Rewrite: parsed(t, true, `key=key \d*0`, "header:h!=\x01")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			md, err := east.Metadata(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := report.Partitions[0]
			for i := range got.Differences {
				got.Differences[i].Detail = strings.ReplaceAll(got.Differences[i].Detail, md.ClusterID, "CLUSTER")
			}
			if !slices.Equal(got.Differences, c.want) || report.Equal != (c.want == nil) || got.LeftOut != 36 {
				t.Errorf("report: %+v", report)
			}
		})
	}
}

// In a compacted topic a key whose last record a filter leaves out may have an earlier
// one at the target; what no filter lets through is found.
func TestCompactedTopicsWithFilters(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	east, west := site(t, "east", nil), site(t, "west", nil)
	for _, c := range []*embedded.Cluster{east, west} {
		if err := c.Admin().CreateTopic(ctx, "orders", 1, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
			t.Fatal(err)
		}
	}
	rec := func(key, region, value string) *kgo.Record {
		r := &kgo.Record{Topic: "orders", Key: []byte(key), Timestamp: time.UnixMilli(1_700_000_000_000)}
		if region != "" {
			r.Headers = []kgo.RecordHeader{{Key: "region", Value: []byte(region)}}
		}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	theirs := []*kgo.Record{rec("a", "eu", "1"), rec("b", "eu", "1"), rec("a", "us", "2"), rec("c", "eu", "1"), rec("c", "", ""), rec("x", "eu", "1"), rec("d", "us", "1"), rec("d", "eu", "2"), rec("e", "eu", "1")}
	produceAtOnce(t, east, theirs...)
	// a: superseded by what is left out; c: taken back; x: another key; e: not there; f: nobody's.
	produceAtOnce(t, west, rec("a", "eu", "1"), rec("b", "eu", "1"), rec("d", "eu", "2"), rec("x", "eu", "1"), rec("d", "us", "1"), rec("f", "eu", "1"))
	report, err := Audit(ctx, east, west, all, Scope{Rewrite: parsed(t, false, "key=[a-f]", "header:region=eu")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := report.Partitions[0]
	slices.SortFunc(got.Differences, func(a, b Difference) int { return int(a.Target - b.Target) })
	want := []Difference{{KeyDiffers, 8, -1, "only at the source"}, {Extra, -1, 3, "a filter leaves it out"}, {Extra, -1, 4, "a filter leaves it out"}, {KeyDiffers, -1, 5, "only at the target"}}
	if !slices.Equal(got.Differences, want) || got.LeftOut != 3 || got.NotCompared == "" {
		t.Errorf("report: %+v", got)
	}
}
