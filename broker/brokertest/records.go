package brokertest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
)

// records: what was produced is fetched as the same bytes, but for offset and
// leader epoch.
func records(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	w := newWriter()
	first, second := w.batch(0, 3, time.Now()), w.batch(3, 2, time.Now())
	if offset := f.append(tp, first); offset != 0 {
		t.Errorf("first batch at %d", offset)
	}
	if offset := f.append(tp, second); offset != 3 {
		t.Errorf("second batch at %d", offset)
	}
	if offset := f.append(tp, second); offset != 3 {
		t.Errorf("a resend at %d", offset)
	}
	want := [][]byte{first, second}
	set := f.fetch(tp, 0)
	walk := batch.Over(set)
	for i := 0; walk.Next(); i++ {
		if i >= len(want) {
			t.Fatalf("a batch too many: %+v", walk.Header)
		}
		got := bytes.Clone(walk.Bytes)
		if err := batch.Verify(got); err != nil {
			t.Error(err)
		}
		batch.SetBaseOffset(got, 0)
		batch.SetLeaderEpoch(got, -1)
		if !bytes.Equal(got, want[i]) {
			t.Errorf("batch %d: other bytes:\n%x\n%x", i, got, want[i])
		}
	}
	if walk.Err() != nil || walk.Truncated() {
		t.Errorf("walk: %v, truncated %v", walk.Err(), walk.Truncated())
	}
}

// shapes: batches of every codec and shape that Rebuild writes are accepted
// and read back with the same records.
func shapes(t *testing.T, f *fixture) {
	tp := f.topic(1, map[string]string{"max.message.bytes": "16000000"})
	random := rand.New(rand.NewPCG(1, 2))
	end := int64(0)
	for codec := batch.None; codec <= batch.Zstd; codec++ {
		for _, count := range []int{1, 2, 100, 5000} {
			want := shape(random, count)
			now := time.Now().UnixMilli()
			b, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, BaseTimestamp: now, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, want, codec)
			f.must(err)
			if offset := f.append(tp, b); offset != end {
				t.Fatalf("%v with %d records at %d, not %d", codec, count, offset, end)
			}
			walk := batch.Over(f.fetch(tp, end))
			if !walk.Next() {
				t.Fatalf("%v with %d records is not there: %v", codec, count, walk.Err())
			}
			if err := batch.Verify(walk.Bytes); err != nil || walk.Header.Codec() != codec {
				t.Errorf("%v with %d records came back as %v: %v", codec, count, walk.Header.Codec(), err)
			}
			got, err := batch.Records(walk.Bytes, 64<<20)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v with %d records: other records, %v", codec, count, err)
			}
			end += int64(count)
		}
	}
}

func shape(random *rand.Rand, count int) []batch.Record {
	content := func(bytesMax int) []byte {
		if random.IntN(8) == 0 {
			return nil
		}
		return bytes.Repeat([]byte{byte(random.IntN(256)), 'x'}, random.IntN(bytesMax))
	}
	records := make([]batch.Record, count)
	for i := range records {
		records[i] = batch.Record{OffsetDelta: int32(i), TimestampDelta: random.Int64N(1000) - 500, Key: content(20), Value: content(200)}
		for h := range random.IntN(3) {
			records[i].Headers = append(records[i].Headers, batch.RecordHeader{Key: fmt.Sprint("header-", h), Value: content(30)})
		}
	}
	return records
}

// unanswered: Produce with acks 0 gets no answer, and what follows on the
// connection shows that it was done.
func unanswered(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	c := f.dial(f.Cluster, tp)
	for range 10 {
		_, err := c.DoVersion(f.ctx, produceRequest(tp, 0, plain(1, time.Now())))
		f.must(err)
	}
	resp, err := c.DoVersion(f.ctx, produceRequest(tp, 1, plain(1, time.Now())))
	f.must(err)
	if p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != 10 {
		t.Errorf("after ten unanswered records: %+v", p)
	}
}

func offsets(t *testing.T, f *fixture) {
	a := f.topic(2, nil)
	b := spillway.TopicPartition{Topic: a.Topic, Partition: 1}
	both := []spillway.TopicPartition{a, b}
	base := time.Now().Add(-time.Hour)
	f.append(a, plain(4, base))
	f.append(a, plain(2, base.Add(time.Minute)))
	f.append(b, plain(1, base))

	expect := func(what string, got map[spillway.TopicPartition]spillway.LocalOffset, err error, ofA, ofB spillway.LocalOffset) {
		t.Helper()
		if err != nil || got[a] != ofA || got[b] != ofB || len(got) != 2 {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	ends, err := f.admin.LogEnds(f.ctx, both)
	expect("log ends", ends, err, 6, 1)
	marks, err := f.admin.HighWatermarks(f.ctx, both)
	expect("high watermarks", marks, err, 6, 1)
	starts, err := f.admin.LogStarts(f.ctx, both)
	expect("log starts", starts, err, 0, 0)
	starts, ends, err = f.admin.LogBounds(f.ctx, both)
	expect("log starts with ends", starts, err, 0, 0)
	expect("stable ends with starts", ends, err, 6, 1)
	later, err := f.admin.OffsetsForTime(f.ctx, both, base.Add(time.Second).UnixMilli())
	expect("offsets for a time", later, err, 4, -1)

	if _, err := f.admin.LogEnds(f.ctx, []spillway.TopicPartition{{Topic: f.name("absent")}}); err == nil {
		t.Error("an absent topic has an end")
	}
}
