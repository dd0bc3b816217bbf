package audit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror/sitelog"
)

// queued is a reader that has read all, with a value for each virtual offset.
func queued(values map[spillway.Offset]string, from, to spillway.Offset) *reader {
	r := new(reader)
	for v := from; v < to; v++ {
		if value, ok := values[v]; ok {
			r.queue = append(r.queue, record{local: spillway.LocalOffset(v), virtual: v, value: []byte(value)})
		}
	}
	return r
}

// The target's map says how many records are missing, but two records have to be equal.
func TestMissingInARow(t *testing.T) {
	t.Parallel()
	values := make(map[spillway.Offset]string)
	for v := spillway.Offset(100); v < 1100; v++ {
		if v != 700 {
			values[v] = fmt.Sprint("value ", v)
		}
	}
	for name, c := range map[string]struct {
		target  record
		missing int
	}{
		"900 of them":           {record{virtual: 1001, value: []byte("value 1001")}, 900},
		"not what the map says": {record{virtual: 1001, value: []byte("value 1002")}, 0},
		"a hole at the source":  {record{virtual: 700, value: []byte("value 701")}, 0},
		"behind the end":        {record{virtual: 1100, value: []byte("value 1099")}, 0},
		"before the beginning":  {record{virtual: 50, value: []byte("value 100")}, 0},
		"without a map":         {record{virtual: -1, value: []byte("value 1001")}, 0},
	} {
		a := &auditor{source: queued(values, 100, 1100)}
		if missing, err := a.missing(t.Context(), c.target); err != nil || missing != c.missing {
			t.Errorf("%s: %d missing, want %d; %v", name, missing, c.missing, err)
		}
	}
}

// Where a map is wrong over a long stretch, each difference has the audit look.
func TestALookIsShort(t *testing.T) {
	t.Parallel()
	virtual := make([]spillway.Offset, missingMax)
	for i := range virtual {
		virtual[i] = spillway.Offset(3 * i)
	}
	for _, v := range []spillway.Offset{0, 1, 3*missingMax - 4, 3*missingMax - 3, 3 * missingMax, spillway.Offset(rand.IntN(3 * missingMax))} {
		looks := 0
		i := firstFrom(v, len(virtual), func(i int) spillway.Offset { looks++; return virtual[i] })
		if want := int(v+2) / 3; i != want || looks > 20 {
			t.Errorf("offset %d: %d after %d looks, want %d after 20 at most", v, i, looks, want)
		}
	}
}

// large are so many records of 900 KB, uncompressed, each behind a small one.
func large(t *testing.T, n int) *embedded.Cluster {
	t.Helper()
	east := site(t, "east", map[string]int32{"orders": 1})
	cl, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	value := make([]byte, 900_000)
	for i := range n {
		small := &kgo.Record{Topic: "orders", Key: []byte("small"), Value: fmt.Append(nil, i), Headers: []kgo.RecordHeader{{Key: "number", Value: fmt.Append(nil, i)}}}
		if err := cl.ProduceSync(t.Context(), small, &kgo.Record{Topic: "orders", Key: []byte("large"), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return east
}

// The audit looks ahead as far as memory allows, and then reads on as it goes.
func TestHowFarTheAuditLooksAhead(t *testing.T) {
	t.Parallel()
	const n = 90
	east, tp := large(t, n), spillway.TopicPartition{Topic: "orders"}
	r := &reader{log: sitelog.PartitionReader{Cluster: east, Of: tp}}
	defer r.close()
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.peek(t.Context(), 2*n-1); ok || err != nil {
		t.Errorf("all records are held at once: %v", err)
	}
	if _, ok, err := r.peek(t.Context(), 100); !ok || err != nil {
		t.Errorf("it does not look ahead: %v", err)
	}
	for i := range 2 * n {
		if rec, ok, err := r.peek(t.Context(), 0); !ok || err != nil || rec.local != spillway.LocalOffset(i) {
			t.Fatalf("record %d is %d, %v, %v", i, rec.local, ok, err)
		}
		if r.queueBytes > aheadBytesMax+4*fetchBytesMax {
			t.Fatalf("%d bytes are held", r.queueBytes)
		}
		r.drop(1)
	}
	if r.queueBytes != 0 {
		t.Errorf("%d bytes are held of nothing", r.queueBytes)
	}

	// What a filter leaves out takes no memory.
	rules := rulesFor(parsed(t, false, "key=small"), "", tp)
	r = &reader{log: sitelog.PartitionReader{Cluster: east, Of: tp}, leaves: &rules}
	defer r.close()
	if err := r.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.peek(t.Context(), n-1); !ok || err != nil || r.queueBytes > n*1000 {
		t.Errorf("all small records: %v, %v; %d bytes are held", ok, err, r.queueBytes)
	}
	for i, rec := range r.queue {
		if number := fmt.Sprint(i); string(rec.key) != "small" || string(rec.value) != number || len(rec.headers) != 1 || string(rec.headers[0].Value) != number {
			t.Errorf("record %d: %+v", i, rec)
		}
	}
}
