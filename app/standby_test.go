package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/configs"
	"spillway/federation/control"
)

// threeSites are embedded sites, each with a process of mirror and control and one of a
// gateway; consumers of the group read at their own site.
type threeSites struct {
	t         *testing.T
	text      string
	processes map[string]*App
	gateways  map[string]string
	brokers   map[string]string // behind the gateways' backs, by site
	operator  *control.Operator
}

// roundTrips are the delays between sites, there and back.
var roundTrips = map[[2]spillway.SiteID]time.Duration{{"east", "west"}: 10 * time.Millisecond, {"west", "north"}: 30 * time.Millisecond, {"east", "north"}: 80 * time.Millisecond}

// dial reaches the brokers of a site from another one.
func (w *threeSites) dial(here spillway.SiteID) func(spillway.SiteID) conn.DialFunc {
	return func(there spillway.SiteID) conn.DialFunc {
		far := max(roundTrips[[2]spillway.SiteID{here, there}], roundTrips[[2]spillway.SiteID{there, here}])
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := conn.Dial(ctx, network, address)
			if err != nil || far == 0 {
				return c, err
			}
			near, end := net.Pipe()
			go delayed(end, c, far/2)
			go delayed(c, end, far/2)
			return near, nil
		}
	}
}

// delayed carries bytes from one end to another, each after the same time. What comes
// meanwhile is on its way with it.
func delayed(from, to net.Conn, by time.Duration) {
	type piece struct {
		at    time.Time
		bytes []byte
	}
	way := make(chan piece, 100_000)
	go func() {
		defer to.Close()
		for p := range way {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.bytes); err != nil {
				break
			}
		}
		from.Close()
		for range way { // until the reader below has seen that
		}
	}()
	defer close(way)
	for {
		b := make([]byte, 64<<10)
		n, err := from.Read(b)
		if n > 0 {
			way <- piece{time.Now().Add(by), b[:n]}
		}
		if err != nil {
			return
		}
	}
}

const standbyPartitions = 3

// siteNames are in order of preference.
var siteNames = []string{"east", "west", "north"}

func startThreeSites(t *testing.T, group string) *threeSites {
	t.Helper()
	brokers := make(map[string]string)
	w := startSites(t, func(site string) string {
		brokers[site] = freeAddress(t)
		return fmt.Sprintf("embedded: {listen: %q, dir: $DIR/%s}", brokers[site], site)
	}, group)
	w.brokers = brokers
	return w
}

// startSites starts the processes of three sites, which reach says how to reach.
func startSites(t *testing.T, reach func(site string) string, group string) *threeSites {
	t.Helper()
	w := &threeSites{t: t, processes: make(map[string]*App), gateways: make(map[string]string)}
	dir := t.TempDir()
	text := "virtualCluster: {name: shop, clusterID: shop-1}\nprocess: {id: $SITE-$ID, site: $SITE, roles: [$ROLES], dataDir: $DIR}\nsites:\n"
	for _, site := range siteNames {
		w.gateways[site] = freeAddress(t)
		text += fmt.Sprintf("- {name: %s, %s}\n", site, reach(site))
	}
	text += `coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups:
- {name: shop, topics: [orders], consumerGroups: ["*"], sites: [east, west, north], offsetBase: 1000, groupDrain: 1500ms, reads: standby, freshnessMax: 1m` + group + `}
telemetry: {listen: "127.0.0.1:0"}
mirror: {listen: "127.0.0.1:0"}
control: {probeInterval: 200ms, probeTimeout: 2s}
gateway: {listen: "$GATEWAY", advertised: "$GATEWAY", lease: {interval: 500ms, ttl: 8s}}
`
	w.text = strings.ReplaceAll(text, "$DIR", dir)
	for _, site := range []string{"north", "west", "east"} { // the store is at the first, and east is lost in a test
		if strings.Contains(text, "embedded: {listen") {
			w.start(site, "brokers", "broker")
		}
		w.start(site, "mirror", "mirror, control")
		w.start(site, "gateway", "gateway")
	}
	north := w.processes["north-mirror"]
	home := w.processes["east-mirror"].sites["east"]
	w.eventually("the topic is there", func() bool { // its brokers may have just begun
		err := home.Admin().CreateTopic(w.within(), "orders", standbyPartitions, 1, nil)
		return err == nil || errors.Is(err, broker.ErrTopicExists)
	})
	w.operator = control.NewOperator(north.cfg.Topology(), north.store, Observers(north.cfg))
	return w
}

func (w *threeSites) within() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *threeSites) start(site, id, roles string) {
	w.t.Helper()
	text := strings.NewReplacer("$SITE", site, "$ID", id, "$ROLES", roles, "$GATEWAY", w.gateways[site]).Replace(w.text)
	cfg, err := configs.Parse("test.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		w.t.Fatal(err)
	}
	a := New(cfg, Options{Version: "test", Log: slog.New(slog.NewTextHandler(&logBuffer{}, nil)), Dial: w.dial(spillway.SiteID(site))})
	if err := a.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	name := site + "-" + id
	w.processes[name] = a
	w.t.Cleanup(func() { w.stop(name) })
}

func (w *threeSites) stop(name string) {
	if a := w.processes[name]; a != nil {
		if err := a.Stop(); err != nil {
			w.t.Error(err)
		}
		delete(w.processes, name)
	}
}

// eventually waits for a condition, on a machine that may be busy with real servers.
func (w *threeSites) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s did not come about", what)
		}
	}
}

// seeds are the gateways, home first.
func (w *threeSites) seeds() kgo.Opt {
	return kgo.SeedBrokers(w.gateways["east"], w.gateways["west"], w.gateways["north"])
}

// move waits until the site can take the group, and moves it there.
func (w *threeSites) move(begin func(context.Context) (control.Plan, error), to spillway.SiteID) {
	w.t.Helper()
	ctx := w.within()
	var plan control.Plan
	var err error
	var why error
	w.eventually("a move begins", func() bool {
		plan, err = begin(ctx)
		if err != nil && (why == nil || why.Error() != err.Error()) {
			why = err
			w.t.Log(err)
		}
		return err == nil
	})
	share, err := w.operator.Await(ctx, "shop", plan.Epoch, nil)
	if err != nil || share.Active != to {
		w.t.Fatalf("%s is active: %v; %+v", share.Active, err, share.Passages)
	}
}

func (w *threeSites) switchover(to spillway.SiteID) {
	w.t.Helper()
	w.move(func(ctx context.Context) (control.Plan, error) {
		return w.operator.Switchover(ctx, "shop", to, "test", "", false)
	}, to)
}

// metric adds up the series of a gateway's metric that have all the words.
func (w *threeSites) metric(site, name string, words ...string) (sum float64) {
	w.t.Helper()
	_, body := httpGet(w.t, w.processes[site+"-gateway"].Addr("telemetry"), "/metrics")
	for line := range strings.Lines(body) {
		found := strings.HasPrefix(line, name+"{")
		for _, word := range words {
			found = found && strings.Contains(line, strconv.Quote(word))
		}
		if found {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// seen is what a reader got, in order, by partition.
type seen struct {
	client *kgo.Client // of a reader with franz-go
	leave  func()      // ends it
	mu     sync.Mutex
	name   string
	values [standbyPartitions]map[int64]string
	last   [standbyPartitions]int64
	count  int
	fault  string
}

func newSeen(name string) *seen {
	s := &seen{name: name}
	for p := range s.values {
		s.values[p], s.last[p] = map[int64]string{}, -1
	}
	return s
}

func (s *seen) take(partition int32, offset int64, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset <= s.last[partition] && s.fault == "" {
		s.fault = fmt.Sprintf("%s: partition %d: offset %d after %d", s.name, partition, offset, s.last[partition])
	}
	s.last[partition] = offset
	s.values[partition][offset] = value
	s.count++
}

func (s *seen) n() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// follow reads all partitions from the start until the test ends.
func (w *threeSites) follow(rack string, opts ...kgo.Opt) *seen {
	w.t.Helper()
	s := newSeen("a consumer at " + rack)
	from := map[int32]kgo.Offset{}
	for p := range int32(standbyPartitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{w.seeds(), kgo.Rack(rack), kgo.FetchMaxWait(500 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": from})}, opts...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	s.client = cl
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { s.take(r.Partition, r.Offset, string(r.Value)) })
		}
	}()
	s.leave = sync.OnceFunc(func() { cancel(); <-done; cl.Close() })
	w.t.Cleanup(s.leave)
	return s
}

// leadersKnow has the leaders know how old the standby at a site is, until the end of what it
// returns: they look at that as long as a consumer there asks them.
func (w *threeSites) leadersKnow(site string) (end func()) {
	w.t.Helper()
	sent := func() float64 { return w.metric("east", "spillway_gateway_reads_sent_total", "near") }
	before := sent()
	r := w.follow(site, kgo.RecheckPreferredReplicaInterval(time.Second))
	w.eventually("a consumer is sent to "+site, func() bool { return sent() >= before+standbyPartitions })
	return r.leave
}

// followSarama is follow with sarama.
func (w *threeSites) followSarama(rack string) *seen {
	w.t.Helper()
	s := newSeen("sarama at " + rack)
	config := sarama.NewConfig()
	config.RackID, config.Version, config.Consumer.MaxWaitTime = rack, sarama.V2_8_0_0, 500*time.Millisecond
	consumer, err := sarama.NewConsumer([]string{w.gateways["east"], w.gateways["west"], w.gateways["north"]}, config)
	if err != nil {
		w.t.Fatal(err)
	}
	var reading sync.WaitGroup
	var partitions []sarama.PartitionConsumer
	for p := range int32(standbyPartitions) {
		pc, err := consumer.ConsumePartition("orders", p, sarama.OffsetOldest)
		if err != nil {
			w.t.Fatal(err)
		}
		partitions = append(partitions, pc)
		reading.Go(func() {
			for m := range pc.Messages() {
				s.take(m.Partition, m.Offset, string(m.Value))
			}
		})
	}
	w.t.Cleanup(func() {
		for _, pc := range partitions {
			pc.AsyncClose()
		}
		reading.Wait()
		if err := consumer.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return s
}

// writer writes numbered records until it is stopped, and knows which were acknowledged where.
type writer struct {
	*seen
	stop func()
}

func (w *threeSites) write(every time.Duration) *writer {
	w.t.Helper()
	cl, err := kgo.NewClient(w.seeds(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("orders"), kgo.ProducerLinger(0))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	out := &writer{seen: newSeen("the producer")}
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			cl.Produce(context.Background(), &kgo.Record{Partition: int32(n % standbyPartitions), Value: []byte("value-" + strconv.Itoa(n))}, func(r *kgo.Record, err error) {
				if err == nil {
					out.take(r.Partition, r.Offset, string(r.Value))
				} else {
					w.t.Logf("%s to partition %d: %v", r.Value, r.Partition, err)
				}
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		_ = cl.Flush(context.Background()) // what was not acknowledged is not expected
		cl.Close()
	}()
	out.stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(out.stop)
	return out
}

// compare waits until the readers have all that was acknowledged, and demands that each has
// it at the offsets of which the producer was told, and the same as the first of them, who
// reads as ever.
func (w *threeSites) compare(acknowledged *seen, readers ...*seen) {
	w.t.Helper()
	for _, r := range readers {
		w.eventually(r.name+" has all", func() bool { return r.has(acknowledged) })
	}
	for _, r := range readers {
		w.eventually(r.name+" has the same as "+readers[0].name, func() bool { return r.has(readers[0]) && readers[0].has(r) })
		if r.fault != "" {
			w.t.Error(r.fault)
		}
	}
}

// has tells whether all that another one has seen was seen at the same offsets.
func (s *seen) has(other *seen) bool {
	for p := range other.values {
		other.mu.Lock()
		values := maps.Clone(other.values[p])
		other.mu.Unlock()
		s.mu.Lock()
		for offset, value := range values {
			if s.values[p][offset] != value {
				s.mu.Unlock()
				return false
			}
		}
		s.mu.Unlock()
	}
	return true
}

// reads counts answers with records to consumers near a site, at all gateways that run: those
// of their own site, and those that could have been, as it was ready for them.
func (w *threeSites) reads() (local, eligible float64) {
	for name := range w.processes {
		site, isGateway := strings.CutSuffix(name, "-gateway")
		for _, from := range []string{"standby", "active", "far"} {
			if !isGateway {
				continue
			}
			n := w.metric(site, "spillway_gateway_near_reads_total", from)
			if eligible += n; from != "far" {
				local += n
			}
		}
	}
	return local, eligible
}

// tellReads tells where each gateway has read so far.
func (w *threeSites) tellReads() {
	for _, site := range siteNames {
		if w.processes[site+"-gateway"] == nil {
			continue
		}
		var words []string
		for _, from := range []string{"standby", "active", "far", "unready"} {
			words = append(words, fmt.Sprintf("%s %.0f", from, w.metric(site, "spillway_gateway_near_reads_total", from)))
		}
		for _, way := range []string{"near", "back"} {
			words = append(words, fmt.Sprintf("sent %s %.0f", way, w.metric(site, "spillway_gateway_reads_sent_total", way)))
		}
		for _, of := range siteNames {
			words = append(words, fmt.Sprintf("%s %.1f s and %.0f records behind", of, w.metric(site, "spillway_gateway_standby_behind_seconds", of), w.metric(site, "spillway_gateway_standby_behind_records", of)))
		}
		w.t.Logf("gateway at %s: %s", site, strings.Join(words, ", "))
	}
}

// readLocally waits until consumers read at their own site, and demands that of the reads
// that could be there nearly all are. It counts reads, and knows no time: a busy machine makes
// it longer.
func (w *threeSites) readLocally() float64 {
	w.t.Helper()
	share := func(reads float64) float64 {
		local, eligible := w.reads()
		nowLocal, nowEligible := local, eligible
		w.eventually(fmt.Sprintf("%.0f reads at their own site", reads), func() bool {
			nowLocal, nowEligible = w.reads()
			return nowLocal >= local+reads
		})
		return (nowLocal - local) / (nowEligible - eligible)
	}
	w.eventually("consumers are sent to their sites", func() bool { return share(50) >= 0.95 })
	got := share(500)
	if got < 0.95 {
		w.t.Errorf("%.1f %% of eligible reads are local", 100*got)
	}
	w.tellReads()
	return got
}

// deleteEverywhere deletes the first records of each partition, at all sites.
func (w *threeSites) deleteEverywhere(offsets int64) {
	w.t.Helper()
	for site, servers := range w.brokers {
		cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(servers, ", ")...))
		if err != nil {
			w.t.Fatal(err)
		}
		var below kadm.Offsets
		for p := range int32(standbyPartitions) {
			below.AddOffset("orders", p, offsets, -1)
		}
		resp, err := kadm.NewClient(cl).DeleteRecords(w.within(), below)
		cl.Close()
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			w.t.Fatalf("delete records at %s: %v", site, err)
		}
	}
}

// commit sets the positions of a consumer group so many offsets behind the first one.
func (w *threeSites) commit(group string, offsets int64) {
	w.t.Helper()
	cl, err := kgo.NewClient(w.seeds())
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	var at kadm.Offsets
	for p := range int32(standbyPartitions) {
		at.AddOffset("orders", p, 1000+offsets, -1)
	}
	w.eventually("positions of "+group+" are committed", func() bool {
		resp, err := kadm.NewClient(cl).CommitOffsets(w.within(), group, at)
		if err == nil {
			err = resp.Error()
		}
		if err != nil {
			w.t.Log(err)
		}
		return err == nil
	})
}

// committed is the lowest position of a consumer group.
func (w *threeSites) committed(group string) int64 {
	w.t.Helper()
	cl, err := kgo.NewClient(w.seeds())
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	offsets, err := kadm.NewClient(cl).FetchOffsets(w.within(), group)
	if err != nil {
		return -1
	}
	lowest, n := int64(math.MaxInt64), 0
	offsets.Each(func(o kadm.OffsetResponse) { lowest, n = min(lowest, o.At), n+1 })
	if n < standbyPartitions {
		return -1
	}
	return lowest
}

// Positions of a group that are gone: its member is told so, and begins where the log does, at
// its own site.
func TestAMemberWhosePositionIsGoneBeginsAnew(t *testing.T) {
	w := startThreeSites(t, "")
	out := w.write(5 * time.Millisecond)
	w.follow("north")
	w.eventually("the first records", func() bool { return out.n() > 300 })
	w.switchover("west")
	w.readLocally()
	w.deleteEverywhere(60)
	w.commit("late", 1)
	defer w.leadersKnow("north")()
	cl, err := kgo.NewClient(w.seeds(), kgo.Rack("north"), kgo.FetchMaxWait(500*time.Millisecond), kgo.ConsumerGroup("late"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	first, n := [standbyPartitions]int64{}, 0
	w.eventually("it reads", func() bool {
		cl.PollFetches(w.within()).EachRecord(func(r *kgo.Record) {
			if n++; first[r.Partition] == 0 {
				first[r.Partition] = r.Offset
			}
		})
		return n > 300 && !slices.Contains(first[:], 0)
	})
	if first != [standbyPartitions]int64{1060, 1060, 1060} {
		t.Errorf("it begins at %v", first)
	}
	before := w.metric("north", "spillway_gateway_near_reads_total", "standby")
	w.eventually("it reads at its own site", func() bool {
		cl.PollFetches(w.within())
		return w.metric("north", "spillway_gateway_near_reads_total", "standby") > before+20
	})
	w.tellReads()
}

// A site that served before has records of transactions that were aborted there, which the new
// active site never had. Consumers of what is committed that read it from its start have what
// those at the active site have.
func TestASiteThatServedIsReadWithoutWhatWasAborted(t *testing.T) {
	w := startThreeSites(t, `, transactionalIds: ["app-*"]`)
	committed, n := newSeen("the producer"), 0
	transactions := func(count int) {
		t.Helper()
		// Each time as after a start: a transactional producer does not outlive a move.
		cl, err := kgo.NewClient(w.seeds(), kgo.TransactionalID("app-1"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("orders"))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for i := range count {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			var records []*kgo.Record
			for p := range int32(standbyPartitions) {
				for range 3 {
					records = append(records, &kgo.Record{Partition: p, Value: []byte("value-" + strconv.Itoa(n))})
					n++
				}
			}
			if err := cl.ProduceSync(w.within(), records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := cl.EndTransaction(w.within(), i%2 == 0); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				for _, r := range records {
					committed.take(r.Partition, r.Offset, string(r.Value))
				}
			}
		}
	}
	transactions(10)
	w.switchover("west")
	transactions(4)
	readers := []*seen{w.follow("", kgo.FetchIsolationLevel(kgo.ReadCommitted())), w.follow("west", kgo.FetchIsolationLevel(kgo.ReadCommitted()))}
	w.compare(committed, readers...) // the group is known at its new site
	local := func() float64 { return w.metric("east", "spillway_gateway_near_reads_total", "standby") }
	before := local()
	w.eventually("a consumer reads all at the site that served before", func() bool {
		r := w.follow("east", kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		w.compare(committed, readers[0], r)
		return local() > before
	})
	transactions(4)
	w.compare(committed, append(readers, w.follow("east", kgo.FetchIsolationLevel(kgo.ReadCommitted())))...)
	for p := range committed.values { // and nothing else
		if got, want := len(readers[0].values[p]), len(committed.values[p]); got != want {
			t.Errorf("partition %d: %d records were read, %d were committed", p, got, want)
		}
	}
}

// Consumers at each of three sites read at their own one, and have the same records at the
// same offsets, payload by payload: while nothing moves, and after switchovers, by which their
// site becomes the active one or ceases to be it; with franz-go and sarama.
func TestConsumersReadAtTheirOwnSite(t *testing.T) {
	w := startThreeSites(t, "")
	out := w.write(5 * time.Millisecond)
	w.eventually("the first records", func() bool { return out.n() > 10 })
	readers := []*seen{w.follow(""), w.follow("east"), w.follow("west"), w.follow("north"), w.followSarama("north")}
	w.readLocally()
	before := out.n()
	for _, to := range []spillway.SiteID{"west", "east"} {
		w.switchover(to)
		w.eventually("the writer goes on", func() bool { return out.n() > before+100 })
		before = out.n()
	}
	w.readLocally()
	out.stop()
	w.compare(out.seen, readers...)
}

// The active site is lost with its gateway, and another one takes over. Consumers that read
// at standbys, the new active site among them, go on and have all that was acknowledged, and
// the same as those that read where the group is served.
func TestReadersOfStandbysGoOnAfterAFailover(t *testing.T) {
	w := startThreeSites(t, ", ack: {sites: 2, onShortfall: degrade, shortfallAfter: 1s}")
	out := w.write(5 * time.Millisecond)
	w.eventually("the first records", func() bool { return out.n() > 10 })
	readers := []*seen{w.follow(""), w.follow("west"), w.follow("north"), w.followSarama("west")}
	w.readLocally()
	before := out.n()
	for _, role := range []string{"gateway", "brokers", "mirror"} {
		w.stop("east-" + role)
	}
	w.move(func(ctx context.Context) (control.Plan, error) {
		return w.operator.Failover(ctx, "shop", "north", 1_000_000, "test", "", false)
	}, "north")
	w.eventually("the writer goes on", func() bool { return out.n() > before+100 })
	w.readLocally()
	out.stop()
	w.compare(out.seen, readers...)
}
