package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	store "spillway/federation/coordination/embedded"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/workers"
)

// childSettings, in the environment, makes the test program one mirror process of a site.
const childSettings = "SPILLWAY_TEST_MIRROR_PROCESS"

// childConfig is what a mirror process of a test is told.
type childConfig struct {
	Site, Worker string
	Sites        []spillway.SiteID
	Bootstrap    map[spillway.SiteID][]string
	User, Secret string // empty: embedded sites
	Ack          int
	Embedded     string // address of the store
	Consul       string // or of a Consul
}

// runMirrorProcess is the mirror role of one process until it is killed.
func runMirrorProcess(settings string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(settings), &c); err != nil {
		return err
	}
	var s coordination.Store = store.Dial(c.Embedded)
	if c.Consul != "" {
		var err error
		if s, err = consul.New(consul.Config{Address: c.Consul}); err != nil {
			return err
		}
	}
	site, ctx := spillway.SiteID(c.Site), context.Background()
	var local broker.Cluster
	var sites []spillway.Site
	sources := map[spillway.SiteID]broker.Cluster{}
	for _, id := range c.Sites {
		config := kafka.Config{Site: id, Bootstrap: c.Bootstrap[id], Capabilities: embedded.Capabilities(true)}
		one := spillway.Site{ID: id}
		if c.User != "" {
			config.Capabilities, config.SASL = nil, &conn.SASL{Mechanism: "SCRAM-SHA-256", User: c.User, Password: c.Secret}
			one.GatewayPrincipal = gatewayPrincipal
		}
		cluster, err := kafka.New(config)
		if err != nil {
			return err
		}
		sites = append(sites, one)
		if sources[id] = cluster; id == site {
			local = cluster
			delete(sources, id)
		}
	}
	writer := NewWriter(s, "shop", site, c.Worker, testTTL)
	go writer.Run(ctx)
	m, err := mirror.New(ctx, testMirrorConfig(mirror.Config{Worker: fmt.Sprintf("%s-%d", c.Worker, os.Getpid()), Local: local, Sources: sources, Lead: writer.Lead}))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, m) }() // until the process is killed
	group := testGroup(c.Sites)
	group.Ack.Sites = c.Ack
	f := NewFollower(FollowerConfig{Topology: spillway.NewTopology("shop", "shop-1", sites, []spillway.FailoverGroup{group}), Store: s, Cluster: local, Mirror: m, Worker: c.Worker,
		Writer: writer, Marks: "http://" + l.Addr().String() + "/marks", LeaseTTL: testTTL})
	return f.Run(ctx)
}

// processes are the mirror processes of a site.
type processes struct {
	w      *world
	config childConfig

	mu      sync.Mutex
	running map[string]*exec.Cmd // by worker
	stopped map[string]bool
	begun   int
	marks   map[spillway.TopicPartition]mirror.Mark
	streams map[string]bool // by address
}

func (p *processes) start() (worker string) {
	p.w.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	c := p.config
	c.Worker = fmt.Sprintf("%s-%d", c.Site, p.begun)
	settings, err := json.Marshal(c)
	if err != nil {
		p.w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childSettings+"="+string(settings))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		p.w.t.Fatal(err)
	}
	p.running[c.Worker] = cmd
	return c.Worker
}

func (p *processes) signal(worker string, s syscall.Signal) {
	p.w.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.running[worker].Process.Signal(s); err != nil {
		p.w.t.Fatal(err)
	}
	p.stopped[worker] = s == syscall.SIGSTOP
	if s == syscall.SIGKILL {
		_ = p.running[worker].Wait() // it was killed
		delete(p.running, worker)
	}
}

func (p *processes) killAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cmd := range p.running {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed
	}
	clear(p.running)
}

// said are the leases of the processes that run and are not stopped.
func (p *processes) said() (all []failover.MirrorLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for worker := range p.running {
		e, err := p.w.store.Get(context.Background(), failover.Keys("shop").Mirror(spillway.SiteID(p.config.Site), worker))
		var l failover.MirrorLease
		if err == nil && json.Unmarshal(e.Value, &l) == nil && !p.stopped[worker] {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b failover.MirrorLease) int { return slices.Compare([]byte(a.Worker), []byte(b.Worker)) })
	return all
}

// roles waits until one leads, and so many others carry a part while the site follows.
func (p *processes) roles(helpers int) (lead string, others []string) {
	p.w.t.Helper()
	p.w.eventually(fmt.Sprintf("one process of %s leads, %d help", p.config.Site, helpers), func() bool {
		lead, others = "", nil
		share := p.w.record()
		for _, l := range p.said() {
			f, leads := l.Following["orders/0"]
			switch {
			case leads && f.Epoch == share.Epoch && f.Problem == "" && !l.Waits && (f.Source == "" || f.Partitions == partitions):
				lead = l.Worker
			case l.Waits && (string(share.Active) == p.config.Site || l.Carries["orders/0"].Epoch == share.Epoch && l.Carries["orders/0"].Source == share.Active):
				others = append(others, l.Worker)
			}
		}
		return lead != "" && len(others) == helpers
	})
	return lead, others
}

// follow reads the marks of all processes, as a gateway does.
func (p *processes) follow(ctx context.Context) {
	for ctx.Err() == nil {
		for _, l := range p.said() {
			p.mu.Lock()
			known := l.Marks == "" || p.streams[l.Marks]
			p.streams[l.Marks] = true
			p.mu.Unlock()
			if !known {
				go p.read(ctx, l.Marks)
			}
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (p *processes) read(ctx context.Context, address string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		p.w.fault("%v", err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // it was killed
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var m mirror.Mark
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.Topic == "" {
			continue
		}
		p.mu.Lock()
		tp := spillway.TopicPartition{Topic: m.Topic, Partition: m.Partition}
		if was := p.marks[tp]; m.Epoch > was.Epoch || m.Epoch == was.Epoch && (m.Session > was.Session || m.Session == was.Session && m.End > was.End) {
			p.marks[tp] = m
		}
		p.mu.Unlock()
	}
}

// has tells whether a record is at the site, by the marks.
func (p *processes) has(tp spillway.TopicPartition, offset spillway.Offset) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.marks[tp].End > offset
}

// heldStore takes no record of a share that leaves the state in which it is held.
type heldStore struct {
	coordination.Store
	mu sync.Mutex
	in failover.State // "": none
}

func (s *heldStore) hold(in failover.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = in
}

func (s *heldStore) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if s.holds(value) {
		return 0, coordination.ErrUnavailable
	}
	return s.Store.Put(ctx, key, value, version)
}

// Txn is the way that the end of a move goes, together with its history.
func (s *heldStore) Txn(ctx context.Context, ops []coordination.Op) error {
	for _, op := range ops {
		if s.holds(op.Value) {
			return coordination.ErrUnavailable
		}
	}
	return s.Store.Txn(ctx, ops)
}

func (s *heldStore) holds(value []byte) bool {
	share, err := failover.Decode(value)
	if err != nil || share.Group == "" || share.Epoch == 0 || share.Abort != "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in != "" && past(share.State, s.in)
}

// past tells whether a move in one state has left another one behind.
func past(state, behind failover.State) bool {
	order := []failover.State{failover.Draining, failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open, failover.Stable}
	return slices.Index(order, state) > slices.Index(order, behind)
}

// holdInTests is longer than it takes until one is known to hang.
const holdInTests = 40 * time.Second

// several makes a world in which several processes mirror into a site.
func several(t *testing.T, at spillway.SiteID, n, ack int, holdMax time.Duration) (*world, *processes, *heldStore) {
	t.Helper()
	s, err := store.Open(t.TempDir() + "/store.db")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(ctx, l) }() // ends with ctx
	t.Cleanup(func() { cancel(); <-served; _ = s.Close() })
	held := &heldStore{Store: s}
	w := newWorld(t, options{store: held, children: map[spillway.SiteID]childConfig{at: {Embedded: l.Addr().String(), Ack: ack}},
		group: func(g *spillway.FailoverGroup) { g.Ack.Sites = ack; g.HoldMax = holdMax }})
	p := w.sites[at].processes
	for range n {
		p.start()
	}
	w.settled(1)
	return w, p, held
}

// blow is what happens to one of several mirror processes of west in a state of a move.
type blow struct {
	to     spillway.SiteID
	in     failover.State // Stable: before it
	leads  bool           // the process
	signal syscall.Signal
}

// strike moves the share while something happens to one of the processes, brings that one
// back, and waits until all do their part again. One that helps, and hangs before the move
// begins, hangs with a part of what flows.
func (w *world) strike(p *processes, held *heldStore, b blow) {
	w.t.Helper()
	before := w.record()
	lead, others := p.roles(p.count() - 1)
	victim := others[0]
	if b.leads {
		victim = lead
	} else if b.in == failover.Stable {
		victim = p.carrier()
	}
	n := p.count()
	w.loaded(20)
	if b.in == failover.Stable {
		p.signal(victim, b.signal)
		if !b.leads && !p.mayHold(victim) {
			w.t.Errorf("%+v: it has nothing in work", b)
		}
	} else {
		held.hold(b.in)
	}
	plan := w.switchover(b.to, "exercise")
	if b.in != failover.Stable {
		w.eventually(fmt.Sprintf("the move is in %s", b.in), func() bool { s := w.record(); return s.Epoch == plan.Epoch && s.State == b.in })
		p.signal(victim, b.signal)
		held.hold("")
	}
	share, err := w.operator.Await(within(w.t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != b.to {
		w.t.Fatalf("%+v: %v; the record before was %s, now %s; faults %q", b, err, before.Encode(), w.record().Encode(), last(w.failed, 8))
	}
	w.loaded(10)
	if b.signal == syscall.SIGSTOP {
		p.signal(victim, syscall.SIGCONT)
	} else {
		p.start()
	}
	p.roles(n - 1)
	w.loaded(20)
}

// Two of three sites must have a record, and several processes mirror into one of them,
// each its partitions. In each state of planned moves there and away one of them dies, or
// hangs and wakes up later: the one that leads, or another one. Nothing is lost, nothing
// is there twice, and no offset is given twice.
func TestMirrorProcessesDieAndHangInMoves(t *testing.T) { // not beside other worlds, for it has many processes
	w, p, held := several(t, "west", 2, 2, holdInTests)
	p.roles(1)
	stop := w.load()
	for _, b := range []blow{
		{"west", failover.Cutover, true, syscall.SIGKILL},
		{"east", failover.Open, false, syscall.SIGKILL},
		{"west", failover.Stable, false, syscall.SIGSTOP},
		{"north", failover.Cutover, true, syscall.SIGSTOP},
		{"east", failover.Cutover, true, syscall.SIGKILL}, // of a site that only looks on
		{"west", failover.Cutover, true, syscall.SIGSTOP},
	} {
		w.strike(p, held, b)
	}
	w.intact(stop)
}

// intact ends the load and compares what clients were told with what all sites have.
func (w *world) intact(stop func() int) {
	w.t.Helper()
	acked := stop()
	share := w.settled(w.record().Epoch)
	for id := range w.sites {
		if w.sites[id].cancel == nil {
			continue
		}
		w.eventually(string(id)+" has all", func() bool { return w.holds(id) })
		if missing := w.check(id, share); missing > 0 {
			w.t.Errorf("%d of %d acknowledged records are missing at %s", missing, acked, id)
		}
		if gaps := w.sites[id].maps.Gaps(); len(gaps) > 0 {
			w.t.Errorf("gaps at %s: %+v", id, gaps)
		}
	}
	if w.weak > 0 || acked < 100 {
		w.t.Errorf("%d records acknowledged, %d of them too early", acked, w.weak)
	}
	w.t.Logf("%d records, all there", acked)
}

// holds tells whether a site shows a record at each offset that clients were told of.
func (w *world) holds(id spillway.SiteID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for tp, acked := range w.acked {
		shown := w.visible(id, tp)
		for o := range acked {
			if _, ok := shown[o]; !ok {
				return false
			}
		}
	}
	return true
}

// The active site is lost. Several processes mirror into the site that takes over, and the
// one that leads there dies in the middle of it: nothing that was acknowledged is missing.
func TestSeveralMirrorProcessesTakeOver(t *testing.T) {
	w, p, held := several(t, "west", 3, 2, holdInTests)
	lead, others := p.roles(2)
	stop := w.load()
	w.loaded(20)
	held.hold(failover.Fenced)
	east := w.sites["east"]
	east.stop()
	if err := east.server.Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("a failover", func() bool {
		_, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "east is gone", false)
		return err == nil
	})
	w.eventually("the move is in FENCED", func() bool { return w.record().State == failover.Fenced })
	p.signal(lead, syscall.SIGKILL)
	p.signal(others[0], syscall.SIGSTOP)
	held.hold("")
	share, err := w.operator.Await(within(t), "orders", 2, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%v: %s; faults %q", err, w.record().Encode(), last(w.failed, 8))
	}
	w.loaded(20)
	p.signal(others[0], syscall.SIGCONT)
	p.roles(1)
	w.loaded(20)
	w.intact(stop)
}

func (p *processes) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.running)
}

// carrier is a process that helps and has a part of what flows. What each has is up to
// their names, so others may have to come for that.
func (p *processes) carrier() (worker string) {
	p.w.t.Helper()
	for ; ; p.start() {
		p.roles(p.count() - 1)
		for _, l := range p.said() {
			if l.Waits && l.Carries["orders/0"].Partitions > 0 {
				return l.Worker
			}
		}
	}
}

// mayHold tells whether a process may still be at work on a partition, by what it said.
func (p *processes) mayHold(worker string) bool {
	p.w.t.Helper()
	if err := p.w.sites[spillway.SiteID(p.config.Site)].maps.CaughtUp(within(p.w.t)); err != nil {
		p.w.t.Fatal(err)
	}
	table := p.w.sites[spillway.SiteID(p.config.Site)].maps.Workers("share/orders/0")
	for _, name := range table.Members() {
		if strings.HasPrefix(name, worker+"-") {
			return table.MayHold(name, workers.Whole, func(string, string) bool { return true })
		}
	}
	return false
}

// The active site is lost, and of the survivors only north has all: several processes
// mirror into it, and one of them hangs with its part. The site is heard all the same, and
// nothing is lost.
func TestASurvivorWithAProcessThatHangsIsHeard(t *testing.T) {
	w, p, _ := several(t, "north", 2, 1, holdInTests)
	victim := p.carrier()
	if _, err := w.sites["west"].mirror.Stop(within(t), spillway.ShareID{Group: "orders"}, 1); err != nil {
		t.Fatal(err)
	}
	stop := w.load()
	w.loaded(100)
	acked := stop()
	for tp, offsets := range w.acked {
		w.eventually("north has all of "+tp.String(), func() bool { return p.has(tp, slices.Max(slices.Collect(maps.Keys(offsets)))) })
	}
	east := w.sites["east"]
	east.stop()
	if err := east.server.Close(); err != nil {
		t.Fatal(err)
	}
	p.signal(victim, syscall.SIGSTOP)
	if !p.mayHold(victim) {
		t.Error("the process that hangs has nothing in work")
	}
	w.eventually("a failover", func() bool {
		_, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "east is gone", false)
		return err == nil
	})
	share, err := w.operator.Await(within(t), "orders", 2, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%v: %s; faults %q", err, w.record().Encode(), last(w.failed, 8))
	}
	p.signal(victim, syscall.SIGCONT)
	if missing := w.check("west", w.settled(2)); missing > 0 {
		t.Errorf("%d of %d acknowledged records were lost, though north had them", missing, acked)
	}
}

// The process that leads at the target hangs in the middle of a move, for longer than
// clients may be held: the move is given up, and goes through when it is asked for again.
func TestAMoveIsGivenUpWhileAMirrorProcessHangs(t *testing.T) {
	w, p, held := several(t, "west", 2, 2, 3*time.Second)
	lead, _ := p.roles(1)
	stop := w.load()
	w.loaded(20)
	held.hold(failover.Fencing)
	plan := w.switchover("west", "exercise")
	w.eventually("the move has begun", func() bool { s := w.record(); return s.Epoch == plan.Epoch && s.State == failover.Fencing })
	p.signal(lead, syscall.SIGSTOP)
	held.hold("")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "east" || share.Epoch != plan.Epoch+1 {
		t.Fatalf("%v: %s; faults %q", err, w.record().Encode(), last(w.failed, 8))
	}
	w.loaded(20)
	p.roles(0) // the other one leads
	plan = w.switchover("west", "once more")
	if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != "west" {
		t.Fatalf("%v: %s; faults %q", err, w.record().Encode(), last(w.failed, 8))
	}
	p.signal(lead, syscall.SIGCONT)
	p.roles(1)
	w.loaded(20)
	w.intact(stop)
}
