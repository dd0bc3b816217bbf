package bench

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/rewrite"
)

// A flow that passes batches reads their headers and patches them. These are the steps of
// one that looks into them, for the same bytes.

const (
	rewriteRecords    = 40 // of one batch
	rewriteValueBytes = 855
)

// orderBatch is a batch of orders as a producer in JSON writes them, of about 33 KiB
// before it is compressed. A tenth of the keys begin with EU.
func orderBatch(b *testing.B, codec batch.Codec, first int) []byte {
	b.Helper()
	h := batch.Header{BaseTimestamp: 1_700_000_000_000, ProducerID: 7, BaseSequence: int32(first)}
	var records []batch.Record
	for i := range rewriteRecords {
		n, region := first+i, "US"
		if n%10 == 0 {
			region = "EU"
		}
		value := fmt.Appendf(nil, `{"order":%d,"customer":"c-%d","region":%q,"lines":[`, n, n*7919%100_000, region)
		for line := 0; len(value) < rewriteValueBytes; line++ {
			value = fmt.Appendf(value, `{"sku":"s-%d","quantity":%d,"price":"%d.%02d"},`, (n*31+line)*2654435761%1_000_000, 1+n%5, n%200, line)
		}
		records = append(records, batch.Record{OffsetDelta: int32(i), TimestampDelta: int64(i), Key: fmt.Appendf(nil, "%s-%d", region, n), Value: value[:rewriteValueBytes],
			Headers: []batch.RecordHeader{{Key: "region", Value: []byte(region)}}})
	}
	out, err := batch.Rebuild(h, records, codec)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// pass is what a flow does with a batch that stays as it is.
func pass(b *testing.B, set []byte) {
	h, _, err := batch.Parse(set)
	if err != nil || !h.PassThrough() {
		b.Fatal(err)
	}
	batch.Clean(set, 1<<62, 0, 7)
}

// carry is what a flow does with a batch by rules.
func carry(b *testing.B, set []byte, rules *rewrite.Partition) {
	h, _, err := batch.Parse(set)
	if err != nil {
		b.Fatal(err)
	}
	o, err := rewrite.Open(h, set, 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	kept := o.Records[:0]
	for i := range o.Records {
		if r := &o.Records[i]; rules.Keeps(r) {
			rules.Mark(r, h.BaseOffset+int64(r.OffsetDelta))
			kept = append(kept, *r)
		}
	}
	if len(kept) == int(h.Count) && !rules.Marks() {
		batch.Clean(set, 1<<62, 0, 7)
		return
	}
	o.Records = kept
	seal(b, o, h.Codec())
}

func seal(b *testing.B, o rewrite.Opened, codec batch.Codec) {
	if len(o.Records) == 0 {
		return
	}
	out, err := rewrite.Seal(o, codec)
	if err != nil {
		b.Fatal(err)
	}
	batch.Clean(out, 1<<62, 0, 7)
}

// repackTogether is how many batches become one in the benchmark of repack.
const repackTogether = 32

// passesOfRound is how often batches are passed in one round, as it takes so little.
const passesOfRound = 50

// processor is the processor time of this process until now.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRewrite compares each way with passing, in turns, by processor time: that of
// one by that of the other (ratio), microseconds of a record that is decoded, nanoseconds
// of a batch that passes, and compressed bytes of the source in a second of it.
func BenchmarkRewrite(b *testing.B) {
	rules := func(provenance bool, filters ...string) *rewrite.Partition {
		all, err := rewrite.ParseFilters(filters)
		if err != nil {
			b.Fatal(err)
		}
		return rewrite.Rules{Filters: all, Provenance: provenance, Cluster: "4L6g3nShT-eMCtK--X86sw"}.For(spillway.TopicPartition{Topic: "orders"})
	}
	for _, way := range []struct {
		name  string
		rules *rewrite.Partition
	}{
		{"a filter that leaves all", rules(false, "key=[A-Z]{2}-.*")},
		{"a filter by key, a tenth stays", rules(false, "key=EU-.*")},
		{"a filter by header, a tenth stays", rules(false, "header:region=EU")},
		{"provenance", rules(true)},
		{"repack", nil},
	} {
		for _, codec := range []batch.Codec{batch.None, batch.LZ4, batch.Zstd, batch.Snappy, batch.Gzip} {
			b.Run(way.name+"/"+codec.String(), func(b *testing.B) {
				sets := make([][]byte, repackTogether)
				bytes := 0
				for i := range sets {
					sets[i] = orderBatch(b, codec, i*rewriteRecords)
					bytes += len(sets[i])
				}
				var passed, carried time.Duration
				rounds := 0
				for b.Loop() {
					begin := processor(b)
					for range passesOfRound {
						for _, set := range sets {
							pass(b, set)
						}
					}
					between := processor(b)
					if way.rules != nil {
						for _, set := range sets {
							carry(b, set, way.rules)
						}
					} else {
						repack(b, sets)
					}
					passed, carried, rounds = passed+between-begin, carried+processor(b)-between, rounds+1
				}
				one := float64(passed) / passesOfRound
				b.ReportMetric(float64(carried)/one, "ratio")
				b.ReportMetric(float64(carried.Microseconds())/float64(rounds*len(sets)*rewriteRecords), "us/record")
				b.ReportMetric(one/float64(rounds*len(sets)), "ns/passed")
				b.ReportMetric(float64(bytes)*float64(rounds)/1e6/carried.Seconds(), "MB/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// repack writes all of them as one.
func repack(b *testing.B, sets [][]byte) {
	var whole rewrite.Opened
	var codec batch.Codec
	for i, set := range sets {
		h, _, err := batch.Parse(set)
		if err != nil {
			b.Fatal(err)
		}
		o, err := rewrite.Open(h, set, 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			whole, codec = rewrite.Opened{BaseTimestamp: o.BaseTimestamp}, h.Codec()
		}
		whole.Append(o)
	}
	seal(b, whole, codec)
}
