package rewrite

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway"
	"spillway/broker/batch"
)

func TestParseFilter(t *testing.T) {
	for s, want := range map[string]Filter{
		"key=EU-.*":               {},
		"key!=EU-.*":              {Negated: true},
		"header:region=eu|us":     {Header: "region"},
		"header:a/b!=x=y":         {Header: "a/b", Negated: true},
		"orders,cart*/key=x":      {Topics: []string{"orders", "cart*"}},
		"key/header:key/key=":     {Topics: []string{"key"}, Header: "key/key"},
		"o.r-d_e*/header:h!=a|b)": {}, // a fault of the expression
	} {
		f, err := ParseFilter(s)
		if strings.HasSuffix(s, ")") {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v", s, err)
			}
			continue
		}
		if err != nil || !slices.Equal(f.Topics, want.Topics) || f.Header != want.Header || f.Negated != want.Negated {
			t.Errorf("%s: %+v, %v", s, f, err)
		}
	}
	for _, s := range []string{"", "key", "=x", "value=x", "header:=x", "header=x", "orders/=x", "a b/key=x", "key=(", "key=[a", "!=x"} {
		if f, err := ParseFilter(s); err == nil {
			t.Errorf("%q was taken as %+v", s, f)
		}
	}
}

func TestFilters(t *testing.T) {
	header := func(pairs ...string) (hs []batch.RecordHeader) {
		for i := 0; i < len(pairs); i += 2 {
			h := batch.RecordHeader{Key: pairs[i]}
			if pairs[i+1] != "null" {
				h.Value = []byte(pairs[i+1])
			}
			hs = append(hs, h)
		}
		return hs
	}
	value := []byte("v")
	for name, c := range map[string]struct {
		record batch.Record
		keeps  []string
		leaves []string
	}{
		"a key":            {batch.Record{Key: []byte("EU-1"), Value: value}, []string{"key=EU-.*", "key=E|EU-1", "key!=EU"}, []string{"key=EU", "key!=EU-.*", "key="}},
		"no key":           {batch.Record{Value: value}, []string{"key!=.*", "header:h!=x"}, []string{"key=.*", "key=", "header:h=.*"}},
		"an empty key":     {batch.Record{Key: []byte{}, Value: value}, []string{"key="}, []string{"key!=.*"}},
		"a key of lines":   {batch.Record{Key: []byte("a\nb\xff"), Value: value}, []string{"key=a.*", "key=a.b."}, []string{"key=a"}},
		"a header":         {batch.Record{Value: value, Headers: header("h", "x")}, []string{"header:h=x|y", "header:h!=y", "key!=x"}, []string{"header:h=y", "header:H=x", "header:h!=x"}},
		"two of one name":  {batch.Record{Value: value, Headers: header("h", "x", "g", "z", "h", "y")}, []string{"header:h=x", "header:h=y"}, []string{"header:h!=y", "header:h!=x", "header:h=z"}},
		"a null header":    {batch.Record{Value: value, Headers: header("h", "null")}, []string{"header:h!=.*"}, []string{"header:h=.*"}},
		"a tombstone":      {batch.Record{Key: []byte("k")}, []string{"key=k", "header:h=x", "header:h!=x"}, []string{"key!=k", "key=x"}},
		"nothing but null": {batch.Record{}, []string{"header:h!=x"}, []string{"header:h=x"}},
	} {
		for keeps, filters := range map[bool][]string{true: c.keeps, false: c.leaves} {
			for _, s := range filters {
				all, err := ParseFilters([]string{s})
				if err != nil {
					t.Fatal(err)
				}
				if p := (Rules{Filters: all}).For(spillway.TopicPartition{Topic: "orders"}); p.Keeps(&c.record) != keeps {
					t.Errorf("%s, %s: kept %v", name, s, !keeps)
				}
			}
		}
	}
}

// All filters that mean a topic count, and no others.
func TestRulesOfTopics(t *testing.T) {
	filters, err := ParseFilters([]string{"key=a.*", "orders,cart*/key=.*b", "key=a.*", "stock/header:h=x"})
	if err != nil {
		t.Fatal(err)
	}
	r := Rules{Filters: filters, Provenance: true}
	for topic, want := range map[string]string{
		"orders": "--filter 'key=.*b' --filter 'key=a.*' --provenance",
		"carts":  "--filter 'key=.*b' --filter 'key=a.*' --provenance",
		"order":  "--filter 'key=a.*' --provenance",
		"stock":  "--filter 'header:h=x' --filter 'key=a.*' --provenance",
	} {
		if got := r.Of(topic); got.String() != want || !got.Any() {
			t.Errorf("%s: %s", topic, got)
		}
	}
	record := batch.Record{Key: []byte("ac"), Value: []byte{}}
	for topic, want := range map[string]bool{"orders": false, "order": true, "stock": false} {
		if r.For(spillway.TopicPartition{Topic: topic}).Keeps(&record) != want {
			t.Errorf("%s: kept %v", topic, !want)
		}
	}
	none := Rules{}.Of("orders")
	if none.Any() || none.Equal(r.Of("orders")) || !none.Equal(Text{}) || (Rules{Filters: filters[3:]}).For(spillway.TopicPartition{Topic: "orders"}) != nil {
		t.Errorf("no rules: %s", none)
	}
}

func TestProvenanceStandsBehindTheRecordsOwnHeaders(t *testing.T) {
	r := Rules{Provenance: true, Cluster: "abc"}
	own := make([]batch.RecordHeader, 1, 8) // room in which a careless append would write
	own[0] = batch.RecordHeader{Key: "spillway.offset", Value: []byte("before")}
	a, b := batch.Record{Headers: own}, batch.Record{Headers: own}
	p := r.For(spillway.TopicPartition{Topic: "orders", Partition: 7})
	p.Mark(&a, 41)
	p.Mark(&b, 42)
	if got := fmt.Sprintf("%s", a.Headers); got != "[{spillway.offset before} {spillway.cluster abc} {spillway.topic orders} {spillway.partition 7} {spillway.offset 41}]" {
		t.Error(got)
	}
	if string(b.Headers[4].Value) != "42" || len(own) != 1 {
		t.Errorf("%s, %s", b.Headers, own)
	}
}

// Records of several batches, sealed as one, have the times, keys and values that they had.
func TestAppendAndSealAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type rec struct {
			time       int64
			key, value []byte
		}
		var want []rec
		var whole Opened
		for i := range rapid.IntRange(1, 4).Draw(t, "batches") {
			base, attributes := rapid.Int64().Draw(t, "base"), rapid.SampledFrom([]int16{0, batch.AttributeLogAppendTime, batch.AttributeDeleteHorizon}).Draw(t, "attributes")
			var records []batch.Record
			for j := range rapid.IntRange(0, 5).Draw(t, "records") {
				r := batch.Record{OffsetDelta: int32(2 * j), TimestampDelta: rapid.Int64().Draw(t, "delta"), Key: fmt.Append(nil, i, j)}
				if rapid.Bool().Draw(t, "value") {
					r.Value = []byte{byte(j)}
				}
				records = append(records, r)
			}
			codec := rapid.SampledFrom([]batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd}).Draw(t, "codec")
			b, err := batch.Rebuild(batch.Header{BaseTimestamp: base, MaxTimestamp: 77, Attributes: attributes, LastOffsetDelta: 20}, records, codec)
			if err != nil {
				t.Fatal(err)
			}
			h, _, err := batch.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			o, err := Open(h, b, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				at := base + r.TimestampDelta
				if attributes == batch.AttributeLogAppendTime {
					at = 77
				}
				want = append(want, rec{at, r.Key, r.Value})
			}
			if i == 0 {
				whole = o
			} else {
				whole.Append(o)
			}
		}
		b, err := Seal(whole, batch.LZ4)
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := batch.Parse(b)
		if err != nil || len(want) > 0 && !h.PassThrough() {
			t.Fatalf("%+v, %v", h, err)
		}
		got, err := batch.Records(b, 1<<20)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d records of %d, %v", len(got), len(want), err)
		}
		for i, r := range got {
			if w := want[i]; h.BaseTimestamp+r.TimestampDelta != w.time || !bytes.Equal(r.Key, w.key) || !bytes.Equal(r.Value, w.value) || (r.Value == nil) != (w.value == nil) {
				t.Fatalf("record %d: %+v at %d, want %+v", i, r, h.BaseTimestamp+r.TimestampDelta, w)
			}
		}
	})
}

func TestOpenRefusesWhatIsNotAsItWasWritten(t *testing.T) {
	b, err := batch.Rebuild(batch.Header{}, []batch.Record{{Key: []byte("key"), Value: []byte("value")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-3] ^= 1
	h, _, err := batch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(h, b, 1<<20); err == nil {
		t.Error("a filter would have decided by a key that nobody wrote")
	}
}
