package orders

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"

	"spillway/tests/orders/history"
)

// Config says what a workload does. All that it needs of the outside is a
// bootstrap address; the topics must exist, or be made with CreateTopics.
type Config struct {
	Bootstrap  []string
	Partitions int32  // of each topic
	Seed       uint64 // the same seed gives the same orders
	// Slots bounds the workload: each slot is one order, or (every 40th, if
	// there are readers) a sale of ten. 0 means until Finish or ctx ends.
	Slots int
	// RecordsPerSecond of all producers together; 0 means as fast as it goes.
	RecordsPerSecond float64
	// InFlight is how many orders are under way at once; 0 means 64.
	InFlight int
	// RecordBytes pads values to about this size; 0 means no padding.
	RecordBytes int
	Producers   []Producer
	Readers     []Reader
	// DrainQuiet is how long readers that have all that was acknowledged must
	// have got nothing more to count as drained where the end offset is not
	// reached; 0 means 5 s.
	DrainQuiet time.Duration
}

const (
	defaultInFlight   = 64
	defaultDrainQuiet = 5 * time.Second
	paddingOverhead   = 120 // bytes of a payload without padding, about
)

// Validate reports all faults at once.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("orders: "+format, args...)) }
	if len(c.Bootstrap) == 0 {
		bad("no bootstrap address")
	}
	if c.Partitions < 1 {
		bad("partitions: %d, want at least 1", c.Partitions)
	}
	if len(c.Producers) == 0 {
		bad("no producer")
	}
	names := map[string]bool{}
	for _, p := range c.Producers {
		switch {
		case p.Name == "" || names[p.Name]:
			bad("producer %q: names must be there, and differ", p.Name)
		case !knownLibrary(p.Library):
			bad("producer %s: library %q is none of %s, %s", p.Name, p.Library, Franz, Sarama)
		case p.Acks != "" && p.Acks != "all" && !p.Plain:
			bad("producer %s: acks %q need a plain producer", p.Name, p.Acks)
		}
		names[p.Name] = true
	}
	for _, r := range c.Readers {
		if r.Name == "" || names[r.Name] {
			bad("reader %q: names must be there, and differ", r.Name)
		}
		if !knownLibrary(r.Library) {
			bad("reader %s: library %q is none of %s, %s", r.Name, r.Library, Franz, Sarama)
		}
		names[r.Name] = true
	}
	return errors.Join(errs...)
}

func knownLibrary(name string) bool { return name == "" || name == Franz || name == Sarama }

// CreateTopics makes the topics of the workload.
func CreateTopics(ctx context.Context, bootstrap []string, partitions int32, replicas int16, opts ...kgo.Opt) error {
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(bootstrap...))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	made, err := kadm.NewClient(cl).CreateTopics(ctx, partitions, replicas, nil, Topics...)
	if err != nil {
		return fmt.Errorf("orders: create topics: %w", err)
	}
	for _, t := range made {
		if t.Err != nil && !errors.Is(t.Err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("orders: create topic %s: %w", t.Topic, t.Err)
		}
	}
	return nil
}

// counts are the live figures of a workload.
type counts struct {
	sent, acked, failed, read, readErrors, commitErrors, foreign atomic.Int64
	complete, abandoned                                          atomic.Int64

	mu struct {
		sync.Mutex
		ends map[place]int64 // behind the highest offset acknowledged
	}
}

func (c *counts) ack(at place, offset int64) {
	c.acked.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.ends == nil {
		c.mu.ends = map[place]int64{}
	}
	c.mu.ends[at] = max(c.mu.ends[at], offset+1)
}

// forgetEnds: what was acknowledged before a failover may be lost, so readers
// need not wait for it.
func (c *counts) forgetEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.mu.ends)
}

func (c *counts) ackedEnds() map[place]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.mu.ends)
}

// Progress is what a workload has done so far.
type Progress struct {
	Sent         int64 `json:"sent"`
	Acked        int64 `json:"acked"`
	Failed       int64 `json:"failed"`
	Read         int64 `json:"read"`
	ReadErrors   int64 `json:"readErrors"`
	CommitErrors int64 `json:"commitErrors"`
	Foreign      int64 `json:"foreign"`   // records that no workload wrote
	Complete     int64 `json:"complete"`  // orders all of whose steps were acknowledged
	Abandoned    int64 `json:"abandoned"` // orders that lost a step or were cut off
	HeldBack     int64 `json:"heldBack"`  // steps that a join had to hold for one of another topic
	Waiting      int64 `json:"waiting"`   // steps that a join holds still
	Drained      bool  `json:"drained"`   // all readers read to the end
}

// BothLibraries are producers and readers of franz-go and sarama, in each way in which they
// can write and read.
func BothLibraries() ([]Producer, []Reader) {
	return []Producer{{Name: "franz"}, {Name: "sarama", Library: Sarama}, {Name: "sarama-plain", Library: Sarama, Plain: true}},
		[]Reader{
			{Name: "franz-group", Group: "franz-group"},
			{Name: "franz-assign", RestartEvery: 5 * time.Second},
			{Name: "sarama-group", Group: "sarama-group", Library: Sarama},
			{Name: "sarama-assign", Library: Sarama},
		}
}

// Workload is running.
type Workload struct {
	cfg    Config
	rec    *history.Recorder
	counts counts
	stock  *stock
	join   *Join
	limit  *rate.Limiter
	shops  []*shop

	readers   []*positions
	finishing chan struct{} // closed: no new orders
	finish    func()
	ordersCtx context.Context // ends when open orders are given up
	giveUp    context.CancelFunc
	readCtx   context.Context // ends when readers are
	stopRead  context.CancelFunc

	orders  sync.WaitGroup
	reading sync.WaitGroup
	drained atomic.Bool
}

// Start opens all clients and begins to send. ctx ends the workload at once;
// Finish ends it in order. One of the two must be called, then Finish.
func Start(ctx context.Context, cfg Config, rec *history.Recorder) (*Workload, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.InFlight <= 0 {
		cfg.InFlight = defaultInFlight
	}
	if cfg.DrainQuiet <= 0 {
		cfg.DrainQuiet = defaultDrainQuiet
	}
	w := &Workload{cfg: cfg, rec: rec, stock: newStock(), join: NewJoin(), finishing: make(chan struct{})}
	w.finish = sync.OnceFunc(func() { close(w.finishing) })
	w.limit = rate.NewLimiter(rate.Inf, 0)
	if cfg.RecordsPerSecond > 0 {
		w.limit = rate.NewLimiter(rate.Limit(cfg.RecordsPerSecond), max(1, int(cfg.RecordsPerSecond/100)))
	}
	w.ordersCtx, w.giveUp = context.WithCancel(ctx)
	w.readCtx, w.stopRead = context.WithCancel(ctx)
	for _, spec := range cfg.Producers {
		s, err := openShop(cfg.Bootstrap, spec, rec, &w.counts)
		if err != nil {
			w.giveUp()
			w.stopRead()
			return nil, errors.Join(err, w.closeShops())
		}
		w.shops = append(w.shops, s)
	}
	for i, spec := range cfg.Readers {
		w.startReader(spec, i == 0)
	}
	w.orders.Go(w.launch)
	return w, nil
}

func (w *Workload) startReader(spec Reader, first bool) {
	at := newPositions()
	w.readers = append(w.readers, at)
	members := 1
	if spec.Group != "" {
		members = max(1, spec.Members)
	}
	for i := range members {
		d := &desk{spec: spec, client: spec.Name, bootstrap: w.cfg.Bootstrap, rec: w.rec, counts: &w.counts, positions: at, handle: func(history.Payload) {}}
		if first {
			d.handle = w.handle
		}
		role := history.Assigned
		if spec.Group != "" {
			d.client = fmt.Sprintf("%s-%d", spec.Name, i+1)
			role = history.Member
		}
		w.rec.Record(history.Event{Kind: history.Start, Client: d.client, Role: role, Group: spec.Group})
		w.reading.Go(func() {
			d.run(w.readCtx, w.cfg.Partitions)
			w.rec.Record(history.Event{Kind: history.Stop, Client: d.client, Drained: w.drained.Load()})
		})
	}
}

// handle is the application of the first reader: it decides the sales, and
// joins the steps over topics.
func (w *Workload) handle(p history.Payload) {
	if sale, ok := saleOf(p.Order); ok && p.Step == Placed {
		w.stock.read(sale, p.Order)
	}
	w.join.Add(p)
}

// Progress returns the present figures.
func (w *Workload) Progress() Progress {
	c := &w.counts
	held, waiting := w.join.Held()
	return Progress{
		Sent: c.sent.Load(), Acked: c.acked.Load(), Failed: c.failed.Load(), Read: c.read.Load(),
		ReadErrors: c.readErrors.Load(), CommitErrors: c.commitErrors.Load(), Foreign: c.foreign.Load(),
		Complete: c.complete.Load(), Abandoned: c.abandoned.Load(), HeldBack: held, Waiting: waiting, Drained: w.drained.Load(),
	}
}

// Mark writes something that was done to the system into the history.
func (w *Workload) Mark(e history.Event) {
	e.Kind = history.Mark
	if e.Name == history.MoveEnd && e.Move == history.Failover {
		w.counts.forgetEnds()
		w.stock.lose()
	}
	w.rec.Record(e)
}

// Wait returns when all slots are done, or ctx or the workload's own ends.
func (w *Workload) Wait(ctx context.Context) {
	done := make(chan struct{})
	go func() { w.orders.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Finish takes no new orders, lets open ones come to their end, lets readers
// read to the end, and closes all clients. Whatever has not come to its end
// when ctx ends stays open in the history.
func (w *Workload) Finish(ctx context.Context) (Progress, error) {
	w.finish()
	w.Wait(ctx)
	w.giveUp()
	w.orders.Wait() // nobody sends any more, so clients may close
	closed := w.closeShops()
	drainErr := w.drain(ctx)
	w.stopRead()
	w.reading.Wait()
	return w.Progress(), errors.Join(closed, drainErr, w.rec.Flush())
}

func (w *Workload) closeShops() error {
	var errs []error
	for _, s := range w.shops {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// pollEvery is how often drain looks whether the readers have come to the end.
const pollEvery = 20 * time.Millisecond

func (w *Workload) drain(ctx context.Context) error {
	if len(w.readers) == 0 || ctx.Err() != nil || w.readCtx.Err() != nil {
		return nil
	}
	ends, err := w.ends(ctx)
	if err != nil {
		return fmt.Errorf("orders: end offsets for draining: %w", err)
	}
	acked := w.counts.ackedEnds()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		all := true
		for _, r := range w.readers {
			all = all && r.reached(ends, acked, w.cfg.DrainQuiet)
		}
		if all {
			w.drained.Store(true)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *Workload) ends(ctx context.Context) (map[place]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cfg.Bootstrap...))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	starts, err := admin.ListStartOffsets(ctx, Topics...)
	if err != nil {
		return nil, err
	}
	listed, err := admin.ListCommittedOffsets(ctx, Topics...)
	if err != nil {
		return nil, err
	}
	ends := map[place]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		start, ok := starts.Lookup(o.Topic, o.Partition)
		if ok && o.Err == nil && start.Err == nil && start.Offset < o.Offset {
			ends[place{o.Topic, o.Partition}] = o.Offset
		}
	})
	return ends, errors.Join(listed.Error(), starts.Error())
}
