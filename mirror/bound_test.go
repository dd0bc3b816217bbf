package mirror

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// bounded is east, which serves, and west, whose mirror tells what it does.
type bounded struct {
	east, west   *embedded.Cluster
	eastM, westM *Mirror
	sessions     atomic.Int64

	mu       sync.Mutex
	problems []string
}

func newBounded(t *testing.T, claim func(context.Context, spillway.TopicPartition) (Lease, error)) *bounded {
	t.Helper()
	return newBoundedWith(t, Config{Claim: claim})
}

// newBoundedWith begins with a configuration of west.
func newBoundedWith(t *testing.T, c Config) *bounded {
	t.Helper()
	b := &bounded{east: embeddedSite(t, "east", map[string]int32{"orders": 2}), west: embeddedSite(t, "west", nil)}
	b.eastM = testMirror(t, b.east, b.west)
	c.Local = b.west
	c.Events = Events{
		SessionOpened: func(SessionInfo) { b.sessions.Add(1) },
		PartitionState: func(i PartitionInfo) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.problems = append(b.problems, i.Problem)
		},
	}
	b.westM = testMirrorWith(t, c, b.east)
	assign(t, b.eastM, ordersAssignment("", 1))
	assign(t, b.westM, ordersAssignment("east", 1))
	return b
}

// write appends to east and returns its ends.
func (b *bounded) write(t *testing.T, seed uint64) map[spillway.TopicPartition]spillway.Offset {
	t.Helper()
	if err := newLoad(t, b.east.Addresses(), seed).write(testContext(t), "orders", 2, 30); err != nil {
		t.Fatal(err)
	}
	return virtualEnds(t, b.east, b.eastM, ordersAssignment("", 1))
}

func (b *bounded) follows(t *testing.T) {
	t.Helper()
	eventually(t, "west follows", func() bool { return caughtUp(testContext(t), b.east, b.eastM, b.westM, ordersAssignment("", 1)) })
}

// catchUp brings west to the cutover in epoch 2, opens the epoch there, and
// compares what both sites show.
func (b *bounded) catchUp(t *testing.T, cutover map[spillway.TopicPartition]spillway.Offset) {
	t.Helper()
	ends, err := b.westM.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover)
	if err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("ends %v, cutover %v: %v", ends, cutover, err)
	}
	if flows := b.westM.Flows(); len(flows) != 0 {
		t.Errorf("a flow runs on: %+v", flows)
	}
	if _, err := b.westM.OpenEpoch(testContext(t), ordersShare, 2, 5, cutover); err != nil {
		t.Fatal(err)
	}
	for tp := range cutover {
		compareSites(t, b.east, b.west, b.eastM, b.westM, tp)
	}
}

// Clients are held while a standby is brought to the cutover, so the flow that runs
// goes on to it: no session is opened, which would read the logs back.
func TestTheFlowThatRunsIsBounded(t *testing.T) {
	t.Parallel()
	patient := Config{BoundPatience: time.Hour}
	b := newBoundedWith(t, patient)
	b.write(t, 1)
	b.follows(t)
	before := b.sessions.Load()
	b.catchUp(t, b.write(t, 2))
	if opened := b.sessions.Load() - before; opened != 0 {
		t.Errorf("%d append sessions were opened while clients were held", opened)
	}
	// A site may also be at the cutover, and the source silent.
	b = newBoundedWith(t, patient)
	cutover := b.write(t, 3)
	b.follows(t)
	b.catchUp(t, cutover)
}

// What others wrote into the standby behind the flow's last answer is found before
// the epoch starts there: the logs are read back where they are not as the flow
// left them (promise F).
func TestForeignRecordsAtTheBoundAreFound(t *testing.T) {
	t.Parallel()
	b := newBounded(t, nil)
	cutover := b.write(t, 1)
	b.follows(t)
	stranger, err := kgo.NewClient(kgo.SeedBrokers(b.west.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.ProduceSync(testContext(t), &kgo.Record{Topic: "orders", Partition: 1, Value: []byte("foreign")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.catchUp(t, cutover)
	found := slices.ContainsFunc(b.westM.Map().Gaps(), func(g maptopic.Gap) bool { return g.Kind == maptopic.GapForeign && g.Partition == 1 })
	if !found {
		t.Errorf("the gap log does not tell of the foreign record: %+v", b.westM.Map().Gaps())
	}
}

// A flow that has to open a session when its site has promised the next epoch
// already opens it for that epoch, and is not taken for one that was stopped.
func TestABoundedFlowMayOpenASession(t *testing.T) {
	t.Parallel()
	first, again := &ending{}, make(chan struct{})
	b := newBounded(t, func(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
		if !first.over.Load() {
			return first, nil
		}
		select {
		case <-again:
			return alwaysHeld{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	b.write(t, 1)
	b.follows(t)
	before := b.sessions.Load()
	first.over.Store(true)
	cutover := b.write(t, 2)
	s, err := b.westM.share(ordersShare)
	if err != nil {
		t.Fatal(err)
	}
	running := s.flow
	eventually(t, "west waits for its lease", func() bool { return len(running.info(time.Now()).Problems) == 2 })
	if _, err := b.westM.writer.Save(testContext(t), maptopic.FloorEntry(ordersShare, 2)); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		for running.ending.bound.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		close(again)
	}()
	b.catchUp(t, cutover)
	<-released
	if b.sessions.Load() == before {
		t.Error("no session was opened, so nothing was tried")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		if strings.Contains(p, ErrFenced.Error()) {
			t.Errorf("the bounded flow was refused: %s", p)
		}
	}
}

// ending is a lease that ends when it is told to.
type ending struct{ over atomic.Bool }

func (l *ending) Held(time.Time) bool { return !l.over.Load() }

// A flow that stands does not hold up a move: another one is begun.
func TestAFlowThatStandsIsReplaced(t *testing.T) {
	t.Parallel()
	var claims atomic.Int64
	b := newBounded(t, func(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
		if claims.Add(1) <= 2 { // of the first flow
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return alwaysHeld{}, nil
	})
	cutover := b.write(t, 1)
	eventually(t, "the first flow waits", func() bool { return claims.Load() == 2 })
	b.catchUp(t, cutover)
}

// Only what is as the session of a flow left it need not be read back.
func TestStands(t *testing.T) {
	t.Parallel()
	session := offsetmap.Session{Session: 3, Worker: "one", ProducerID: spillway.MirrorProducerID(1), Opened: true, Local: 0, Virtual: 1000}
	chunk := func(at spillway.LocalOffset, virtual spillway.Offset) *offsetmap.Chunk {
		return &offsetmap.Chunk{Session: 3, Worker: "one", First: at, Sequence: int32(at), Ranges: []offsetmap.Range{{Epoch: 1, Virtual: virtual, Local: at, Length: 5}}}
	}
	verified := offsetmap.Verified{Session: 3, Local: 5, Virtual: 1005}
	for name, c := range map[string]struct {
		also   []offsetmap.Record
		logEnd spillway.LocalOffset
		stands bool
	}{
		"as it was left":                       {nil, 5, true},
		"the log has more":                     {nil, 6, false},
		"the log has lost its end":             {nil, 4, false},
		"another session was claimed":          {[]offsetmap.Record{offsetmap.Session{Session: 4, Worker: "two"}}, 5, false},
		"ranges of another chunk were saved":   {[]offsetmap.Record{chunk(5, 1005)}, 5, false},
		"the verified end was moved by others": {[]offsetmap.Record{offsetmap.Verified{Session: 3, Local: 5, Virtual: 1007}}, 5, false},
		"an epoch was started":                 {[]offsetmap.Record{offsetmap.EpochStart{Epoch: 2, Virtual: 1005, Local: 5}}, 5, false},
	} {
		om := offsetmap.New()
		for _, r := range append([]offsetmap.Record{session, chunk(0, 1000), verified}, c.also...) {
			om.Apply(r)
		}
		p := &partition{session: session, position: position{virtual: 1005, local: 5}}
		if p.stands(om, c.logEnd) != c.stands {
			t.Errorf("%s: stands is %v", name, !c.stands)
		}
	}
	if (&partition{session: session, position: position{virtual: 1005, local: 5}}).stands(nil, 5) {
		t.Error("it stands without a map")
	}
}
