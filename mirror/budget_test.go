package mirror

import (
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"spillway"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestGrant(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct{ total, used, held, want, granted int64 }{
		"nothing is held":                        {128 * mib, 0, 0, 64 * mib, 32 * mib},
		"it wants less":                          {128 * mib, 0, 0, mib, mib},
		"a second answer of the only lane":       {128 * mib, 32 * mib, 32 * mib, 64 * mib, 32 * mib},
		"another lane has as much as it may":     {128 * mib, 64 * mib, 0, 64 * mib, 32 * mib},
		"that one wants more meanwhile":          {128 * mib, 64 * mib, 64 * mib, 64 * mib, 0},
		"there is little left":                   {128 * mib, 127 * mib, 0, 64 * mib, mib / 2},
		"it would not be worth it":               {128 * mib, 128*mib - 100<<10, 0, 64 * mib, 0},
		"but for one who wants no more":          {128 * mib, 128*mib - 100<<10, 0, 20 << 10, 20 << 10},
		"a batch that is larger than all":        {mib, 40 * mib, 0, mib, 0},
		"its lane is not granted anything then":  {mib, 40 * mib, 40 * mib, mib, 0},
		"and when it is let go, everybody may":   {mib, 0, 0, mib, mib / 4},
		"the smallest budget is worth something": {MemoryBytesMin, MemoryBytesMin / 4, 0, mib, mib / 4},
	} {
		if got := grantOf(c.total, c.used, c.held, c.want); got != c.granted {
			t.Errorf("%s: %d, want %d", name, got, c.granted)
		}
	}
}

// Lanes that wait hold a quarter together, however many there are.
func TestLanesThatWaitHoldLittle(t *testing.T) {
	t.Parallel()
	for lanes, want := range map[int]int64{1: answerMin, 100: MemoryBytesDefault / 4 / costsCopied / 100, 1 << 30: 1} {
		b := newBudget(MemoryBytesDefault)
		b.begin()
		b.lanes = int64(lanes)
		if got := b.idle(costsCopied); got != want {
			t.Errorf("each of %d lanes asks for %d bytes, want %d", lanes, got, want)
		}
	}
}

// Whatever lanes hold and never let go, the sum stays within the budget, and one that holds
// nothing gets something as long as the others were granted what they hold.
func TestGrantsNeverUseUpTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(MemoryBytesMin, 1<<30).Draw(t, "total")
		held := make([]int64, rapid.IntRange(1, 6).Draw(t, "lanes"))
		var used int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, len(held)-1).Draw(t, "lane")
			if rapid.IntRange(0, 3).Draw(t, "lets go") == 0 {
				used, held[i] = used-held[i], 0
				continue
			}
			granted := grantOf(total, used, held[i], rapid.Int64Range(1, 1<<30).Draw(t, "want"))
			if granted < 0 || used+granted > total {
				t.Fatalf("%d of %d are held, %d were granted", used, total, granted)
			}
			if others := used - held[i]; granted > 0 && others > 0 && held[i]+granted > total-others-granted {
				t.Fatalf("a lane got %d and has %d, %d are left to the others", granted, held[i], total-used-granted)
			}
			used, held[i] = used+granted, held[i]+granted
		}
	})
}

// A lane whose target answers nothing keeps what it holds, and the others go on with a
// budget that is smaller than what the lanes want.
func TestASlowTargetStarvesNoOther(t *testing.T) {
	t.Parallel()
	const each, size = 60, 100 << 10
	eastServer, east := scripted(t, "east", 0, 1)
	westServer, west := scripted(t, "west", 0, 1)
	stuck := make(chan struct{})
	westServer.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		westServer.KeepControl()
		if req := r.(*kmsg.ProduceRequest); req.Topics[0].Topic != "orders" || westServer.CurrentNode() != 1 {
			return nil, nil, false
		}
		westServer.SleepControl(func() { <-stuck })
		return nil, nil, false
	})
	large(t, eastServer, 2*each, size)
	eastM := testMirror(t, east)
	westM := testMirrorWith(t, Config{Local: west, MemoryBytes: MemoryBytesMin}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	base := ordersAssignment("", 1).OffsetBase
	eventually(t, "the partition of the other broker is there", func() bool {
		return westM.Ends(ordersShare)[spillway.TopicPartition{Topic: "orders"}] == base+each
	})
	close(stuck)
	eventually(t, "and the other one, when its broker answers", func() bool { return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1)) })
	settled(t, westM)
}

// A batch that is larger than all memory, with the copy of it in a request, gets through.
func TestABatchLargerThanTheBudget(t *testing.T) {
	t.Parallel()
	eastServer, east := scripted(t, "east", 0, 1)
	_, west := scripted(t, "west", 0, 1)
	large(t, eastServer, 6, 1_000_000)
	eastM := testMirror(t, east)
	westM := testMirrorWith(t, Config{Local: west, MemoryBytes: MemoryBytesMin}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1)) })
	compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders"})
	settled(t, westM)
}

// settled waits until nothing is held but what a fetch that waits may bring.
func settled(t *testing.T, m *Mirror) {
	t.Helper()
	eventually(t, "memory is let go", func() bool {
		used, _ := m.budget.usage()
		return used >= 0 && used <= 2*costsCopied*answerMin
	})
}

func large(t *testing.T, server *kfake.Cluster, n, size int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(server.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "orders", Partition: int32(i % 2), Value: make([]byte, size)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// A lane that has handed back all it had while a fetch was on its way holds nothing for
// that fetch any more: other lanes need the memory, and it may never get another partition.
func TestALaneWithoutPartitionsHoldsNothing(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	small(t, east.Addresses(), 20)
	lease := &testLease{holder: "one"}
	var armed atomic.Bool
	m := testMirrorWith(t, Config{Local: west, Worker: "one", Claim: lease.claim("one", false), Crash: func(point string) {
		if point == "beforeMark" && armed.Swap(false) { // the next fetch is on its way
			lease.set("nobody")
		}
	}}, east)
	assign(t, m, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(testContext(t), east, eastM, m, ordersAssignment("", 1)) })
	armed.Store(true)
	eventually(t, "the lane has handed back all", func() bool { return idle(m) })
	eventually(t, "memory is let go", func() bool { used, _ := m.budget.usage(); return used == 0 })
}

// A plan that is put aside holds what it has yet to write, also of an answer of which
// the others have let go.
func TestAPlanPutAsideHoldsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	l := &lane{m: &Mirror{}, holding: newBudget(128 << 20).begin(), parked: make(map[spillway.TopicPartition]*planned)}
	answer := make([]byte, 32<<20)
	of := func(from int, lengths ...int) *planned {
		p := &planned{partition: &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: int32(from)}}}
		for _, n := range lengths {
			p.plan.batches = append(p.plan.batches, outgoing{bytes: answer[from : from+n]})
			from += n
		}
		return p
	}
	aside, other := of(0, 1000, 64<<10), of(1<<20, 31<<20)
	aside.next = 1
	used := func() int64 { used, _ := l.holding.budget.usage(); return used }
	l.holding.change(costsCopied * int64(len(answer)))
	l.hold([]*planned{aside, other}, &heldAnswer{holding: &l.holding, bytes: costsCopied * int64(len(answer))})
	const own = costsCopied * 64 << 10
	for range 2 { // it may be put aside again
		l.holdAlone(aside)
		l.parked[aside.TopicPartition] = aside
		l.letGo([]*planned{aside, other})
		if used() != own {
			t.Errorf("%d bytes are held, want %d", used(), own)
		}
	}
	answer[1000] = 7
	if aside.plan.batches[0].bytes != nil || len(aside.plan.batches[1].bytes) != 64<<10 || aside.plan.batches[1].bytes[0] == 7 {
		t.Error("the plan points into the answer")
	}
	delete(l.parked, aside.TopicPartition)
	l.letGo([]*planned{aside})
	if used() != 0 {
		t.Errorf("%d bytes are held behind all", used())
	}
}
