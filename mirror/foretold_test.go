package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
)

var orders0 = spillway.TopicPartition{Topic: "orders"}

// appendTexts writes one record after the other, each in a batch of its own.
func appendTexts(ctx context.Context, t *testing.T, addresses []string, n int, text string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: orders0.Topic, Value: fmt.Appendf(nil, "%s-%d", text, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// aloneIs starts a flow without a control plane and waits until it has so much.
func aloneIs(t *testing.T, c Config, source broker.Cluster, end spillway.Offset) *Mirror {
	t.Helper()
	c.IdentitySources = true
	m := testMirrorWith(t, c, source)
	assign(t, m, aloneAssignment())
	eventually(t, fmt.Sprintf("the flow is at %d", end), func() bool { return m.Ends(ordersShare)[orders0] == end })
	return m
}

func holds(ctx context.Context, t *testing.T, c broker.Cluster, want int) {
	t.Helper()
	records, err := read(ctx, c, orders0)
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != want {
		t.Errorf("%d records at site %s, want %d", len(records), c.Site(), want)
	}
}

// Others write where records were foretold, and the target deletes a part of it: what
// the source has had since is mirrored all the same (promises B, F).
func TestForetoldIsNotTakenForWritten(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	appendTexts(ctx, t, east.Addresses(), 10, "early")
	aloneIs(t, Config{Local: west}, east, 10).Close()
	appendTexts(ctx, t, west.Addresses(), 50, "of others")
	retainFrom(t, ctx, west, orders0.Topic, orders0.Partition, 40)
	appendTexts(ctx, t, east.Addresses(), 100, "late")
	aloneIs(t, Config{Local: west}, east, 110)
	holds(ctx, t, west, 20+100)
}

// The log's start has moved past records that were foretold, written, and not verified.
// The sequence of what is left of the session says how many.
func TestWhatIsLeftOfASessionTellsWhatWasWritten(t *testing.T) {
	t.Parallel()
	writer := offsetmap.Session{Session: 4, Worker: "w", ProducerID: spillway.MirrorProducerID(7), ProducerEpoch: 2}
	for _, c := range []struct {
		name           string
		sequence       int32 // of the batch of 5 that is left at offset 40
		first          int32 // of the chunk, at offset 10
		virtual        spillway.Offset
		foretold, kept int64
	}{
		{"all before it is ours", 30, 0, 135, 1000, 35},
		{"a part is others'", 20, 0, 125, 1000, 25},
		{"sequences begin anew", 9, math.MaxInt32 - 20, 135, 1000, 35},
		{"more than was deleted cannot be", 31, 0, 100, 1000, 0},
		{"all of it was on its way", 30, 0, 135, 0, 35},
	} {
		t.Run(c.name, func(t *testing.T) {
			length := int64(1035)
			if c.foretold == 0 {
				length = 35
			}
			pending := &offsetmap.Chunk{Session: 4, Worker: "w", First: 10, Sequence: c.first, Foretold: c.foretold, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: 100, Local: 10, Length: length}}}
			if c.foretold > 0 {
				pending.Foretold = length
			}
			v := newVerifier(10, 100, pending, writer, offsetmap.Session{Session: 5, Worker: "x"})
			v.retained(40)
			v.see(batch.Header{BaseOffset: 40, LastOffsetDelta: 4, Count: 5, ProducerID: writer.ProducerID, ProducerEpoch: writer.ProducerEpoch, BaseSequence: c.sequence})
			kept := int64(0)
			for _, r := range v.kept {
				kept += r.Length
			}
			if v.verdict.virtual != c.virtual || kept != c.kept || v.verdict.end != 45 {
				t.Errorf("virtual end %d, %d records kept, log end %d; want %d, %d, 45", v.verdict.virtual, kept, v.verdict.end, c.virtual, c.kept)
			}
		})
	}
}

// silent is a cluster that does not tell its log ends when it is asked next.
type silent struct {
	broker.Cluster
	refuses *atomic.Bool
}

type silentAdmin struct {
	broker.Admin
	refuses *atomic.Bool
}

func (f silent) Admin() broker.Admin { return silentAdmin{f.Cluster.Admin(), f.refuses} }

func (f silentAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if f.refuses.Swap(false) {
		return nil, errors.New("not now")
	}
	return f.Admin.LogEnds(ctx, tps)
}

// A session that is claimed and not opened has written nothing: what the one before it
// had on its way is found all the same, and not written twice (promise H).
func TestAnOpeningThatFailsForgetsNothing(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(t *testing.T, east, west []string, c *Config){
		"the target does not answer": func(_ *testing.T, _, _ []string, c *Config) {
			var refuses atomic.Bool
			var once sync.Once
			c.Local = silent{c.Local, &refuses}
			c.Crash = func(at string) {
				if at == "afterClaim" {
					once.Do(func() { refuses.Store(true) })
				}
			}
		},
		"the next one dies": func(t *testing.T, east, west []string, _ *Config) {
			runChild(t, east, west, "afterClaim", 1, childAlone+"=1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
			appendTexts(ctx, t, east.Addresses(), 400, "text")
			runChild(t, east.Addresses(), west.Addresses(), "afterProduceAcked", 30, childAlone+"=1")
			c := Config{Local: west}
			fails(t, east.Addresses(), west.Addresses(), &c)
			m := aloneIs(t, c, east, 400)
			holds(ctx, t, west, 400)
			if gaps := m.Map().Gaps(); len(gaps) != 0 {
				t.Errorf("gaps: %v", gaps)
			}
		})
	}
}
