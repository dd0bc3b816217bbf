package wire_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
	"spillway/broker/wire/wiretest"
)

func check(kind string, m wiretest.Message, body []byte) error {
	if kind == "request" {
		return wire.Check(m.Key(), m.GetVersion(), body)
	}
	return wire.CheckResponse(m.Key(), m.GetVersion(), body)
}

// Invariant C, for every key and version that kmsg knows.
func TestWhatKmsgWritesIsAccepted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	messages := 0
	wiretest.Every(func(kind string, m wiretest.Message) {
		for range 8 {
			n := wiretest.Fresh(m)
			wiretest.Fill(random, n)
			body := n.AppendTo(nil)
			if err := check(kind, n, body); err != nil {
				t.Fatalf("%s %T v%d: %v\n%+v\n%x", kind, n, n.GetVersion(), err, n, body)
			}
			messages++
		}
	})
	t.Logf("%d messages", messages)
}

// Invariant B: bytes that were damaged at random either are refused, or decode
// without an error at a cost in proportion.
func TestDamagedMessagesAreRefusedOrCheap(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	accepted, refused := 0, 0
	wiretest.Every(func(kind string, m wiretest.Message) {
		for range 20 {
			n := wiretest.Fresh(m)
			wiretest.Fill(random, n)
			body := damage(random, n.AppendTo(nil))
			if err := check(kind, n, body); err != nil {
				if !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("error %v", err)
				}
				refused++
				continue
			}
			accepted++
			decodes(t, kind, wiretest.Fresh(m), body)
		}
	})
	t.Logf("%d accepted, %d refused", accepted, refused)
}

func damage(random *rand.Rand, body []byte) []byte {
	for range 1 + random.IntN(4) {
		if len(body) == 0 {
			return []byte{byte(random.IntN(256))}
		}
		at := random.IntN(len(body))
		switch random.IntN(4) {
		case 0:
			body[at] = byte(random.IntN(256))
		case 1:
			body[at] = []byte{0, 1, 0x7f, 0x80, 0xfe, 0xff}[random.IntN(6)]
		case 2:
			body = body[:at]
		case 3:
			body = append(body[:at:at], append(bytes.Repeat([]byte{0xff}, 1+random.IntN(5)), body[at:]...)...)
		}
	}
	return body
}

// allocationFactorMax is what decoding may allocate for a byte that Check
// accepted, beyond the sum that every message gets.
const (
	allocationFactorMax = 64
	allocationBaseMax   = 512 << 10
)

func decodes(t testing.TB, kind string, m wiretest.Message, body []byte) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := m.ReadFrom(body)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatalf("%s %T v%d was accepted and does not decode: %v\n%x", kind, m, m.GetVersion(), err, body)
	}
	if cost := after.TotalAlloc - before.TotalAlloc; cost > allocationBaseMax+allocationFactorMax*uint64(len(body)) {
		t.Fatalf("%s %T v%d: %d bytes cost %d", kind, m, m.GetVersion(), len(body), cost)
	}
}

// The hostile shapes of bodies (reliability 3.2); the numbers are its rows.
func TestHostileBodies(t *testing.T) {
	const mebibyte = 1 << 20
	zeros := make([]byte, 4*mebibyte)
	for name, c := range map[string]struct {
		key, version int16
		body         []byte
	}{
		"24: 4 billion tagged fields":                {18, 3, []byte{2, 'a', 2, 'b', 0xff, 0xff, 0xff, 0xff, 0x0f}},
		"25: a tagged field of 2^32-1 bytes":         {18, 3, []byte{2, 'a', 2, 'b', 1, 100, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		"25: of one byte too many":                   {18, 3, []byte{2, 'a', 2, 'b', 1, 100, 2, 0}},
		"25: an unknown one of 65 KiB":               {18, 3, append([]byte{2, 'a', 2, 'b', 1, 100, 0x80, 0x88, 0x04}, zeros[:65<<10]...)},
		"26: 65 tagged fields":                       {18, 3, append([]byte{2, 'a', 2, 'b', 65}, tagged(65)...)},
		"26: the same tag twice":                     {18, 3, []byte{2, 'a', 2, 'b', 2, 100, 0, 100, 0}},
		"26: tags that descend":                      {18, 3, []byte{2, 'a', 2, 'b', 2, 101, 0, 100, 0}},
		"27: a varint of six bytes":                  {18, 3, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0, 2, 'b', 0}},
		"27: a varint of more than 32 bits":          {18, 3, []byte{0xff, 0xff, 0xff, 0xff, 0x7f, 2, 'b', 0}},
		"28: as many topics as bytes":                {3, 12, append([]byte{0x80, 0x80, 0x80, 0x02}, zeros[:4*mebibyte]...)},
		"28: structs of one byte budget":             {1, 4, append(append(make([]byte, 17), 0, 0x3f, 0xff, 0xff), zeros...)},
		"29: null where the protocol has none":       {1, 4, append(make([]byte, 17), 0xff, 0xff, 0xff, 0xff)},
		"29: length -2":                              {3, 1, []byte{0xff, 0xff, 0xff, 0xfe}},
		"29: length 2^31-1":                          {3, 1, []byte{0x7f, 0xff, 0xff, 0xff}},
		"30: nested arrays that each claim the rest": {0, 3, nested()},
		"31: compact string null where it cannot be": {18, 3, []byte{0, 2, 'b', 0}},
		"31: compact length over the end":            {18, 3, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 2, 'b', 0}},
		"bytes are left over":                        {18, 3, []byte{2, 'a', 2, 'b', 0, 0}},
		"a version that nobody knows":                {18, 99, nil},
		"a key that nobody knows":                    {32767, 0, nil},
		"a negative key":                             {-1, 0, nil},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		err := wire.Check(c.key, c.version, c.body)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		// The first call compiles the schema; a table walk is far below both bounds.
		if cost := after.TotalAlloc - before.TotalAlloc; cost > mebibyte || took > 500*time.Millisecond {
			t.Errorf("%s: %d bytes allocated, %v", name, cost, took)
		}
	}
}

func tagged(n int) (b []byte) {
	for i := range n {
		b = append(b, byte(i), 0)
	}
	return b
}

// nested is a Produce request of 1,000 topics, each claiming as many
// partitions as bytes are left.
func nested() []byte {
	b := []byte{0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 3, 0xe8}
	for i := range 1000 {
		left := (999 - i) * 5
		b = append(b, 0, 0, byte(left>>16), byte(left>>8), byte(left))
	}
	return b
}

func TestArraysThatWouldDecodeToManyTimesTheirSizeAreRefused(t *testing.T) {
	req := kmsg.NewPtrFetchRequest()
	req.Version = 12
	req.Topics = make([]kmsg.FetchRequestTopic, 200_000) // 3 bytes each on the wire
	body := req.AppendTo(nil)
	if err := wire.Check(1, 12, body); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("%d bytes with 200,000 empty topics: %v", len(body), err)
	}
	for i := range req.Topics {
		req.Topics[i].Topic = "a-topic-with-a-name"
		req.Topics[i].Partitions = make([]kmsg.FetchRequestTopicPartition, 1)
	}
	if err := wire.Check(1, 12, req.AppendTo(nil)); err != nil {
		t.Errorf("200,000 proper topics: %v", err)
	}
}

func TestSchemaIsThatOfKmsg(t *testing.T) {
	fresh, err := exec.Command("go", "run", "./internal/schemagen").Output()
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("schema.txt")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fresh, committed) {
		t.Error("schema.txt is not what kmsg decodes; run go generate ./broker/wire")
	}
}

func FuzzCheckAgreesWithKmsg(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 3))
	for _, key := range []int16{0, 1, 3, 8, 11, 18, 68} {
		req := kmsg.RequestForKey(key)
		req.SetVersion(req.MaxVersion())
		wiretest.Fill(random, req)
		f.Add(key, req.GetVersion(), req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		if wire.Check(key, version, body) == nil {
			req := kmsg.RequestForKey(key)
			req.SetVersion(version)
			decodes(t, "request", req, body)
		}
	})
}

func BenchmarkCheckProduce(b *testing.B) {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 9
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: make([]kmsg.ProduceRequestTopicPartition, 4)}}
	for i := range req.Topics[0].Partitions {
		req.Topics[0].Partitions[i].Records = make([]byte, 16<<10)
	}
	body := req.AppendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := wire.Check(0, 9, body); err != nil {
			b.Fatal(err)
		}
	}
}
