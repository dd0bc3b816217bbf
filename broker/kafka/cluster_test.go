package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/kafka"
)

// known are goroutines that are meant to outlive the tests.
var known []goleak.Option

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, known...) }

// start starts a server whose answers a test can bend, and the adapter.
func start(t *testing.T, config kafka.Config, options ...kfake.Opt) (*kfake.Cluster, *kafka.Cluster) {
	t.Helper()
	server, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.SeedTopics(3, "orders")}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	config.Site, config.Bootstrap = "east", server.ListenAddrs()
	config.Capabilities = &broker.Capabilities{} // kfake answers probes with what it does not do
	c, err := kafka.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return server, c
}

var orders = spillway.TopicPartition{Topic: "orders", Partition: 1}

// Whoever waits for a connection that another caller makes can give up. The mirror's
// reader took ten seconds to find that a site was behind a black hole, and a failover
// waited for it, because a flow that had to stop stood behind it.
func TestWaitingForAConnectionEndsWithItsContext(t *testing.T) {
	dialing := make(chan struct{}, 1)
	_, c := start(t, kafka.Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case dialing <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}, HandshakeTimeout: time.Hour})
	patient, end := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Metadata(patient)
		first <- err
	}()
	<-dialing
	hasty, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() {
		_, err := c.Metadata(hasty)
		second <- err
	}()
	cancel()
	select {
	case err := <-second:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the second one: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the second one waits for the first")
	}
	end()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first one: %v", err)
	}
}

// Addresses come from the other side (reliability 3.2, row 59).
func TestHostileMetadataIsRefused(t *testing.T) {
	node := func(id int32, host string, port int32) []kmsg.MetadataResponseBroker {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = id, host, port
		return []kmsg.MetadataResponseBroker{b}
	}
	for name, brokers := range map[string][]kmsg.MetadataResponseBroker{
		"an address of the cloud's own": node(1, "169.254.169.254", 80),
		"Consul":                        node(1, "127.0.0.1", 8500),
		"port 0":                        node(1, "127.0.0.1", 0),
		"port 65536":                    node(1, "127.0.0.1", 65536),
		"a negative node":               node(-5, "127.0.0.1", 9092),
		"no host":                       node(1, "", 9092),
		"a host of 300 bytes":           node(1, strings.Repeat("x", 300), 9092),
		"10,001 nodes":                  make([]kmsg.MetadataResponseBroker, 10_001),
	} {
		t.Run(name, func(t *testing.T) {
			server, c := start(t, kafka.Config{Allow: func(host string, port int32) bool { return host == "127.0.0.1" && port != 8500 }})
			server.ControlKey(3, func(req kmsg.Request) (kmsg.Response, error, bool) {
				server.KeepControl()
				resp := req.ResponseKind().(*kmsg.MetadataResponse)
				resp.Brokers = brokers
				return resp, nil, true
			})
			if m, err := c.Metadata(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "site east: Metadata: ") {
				t.Errorf("%+v, %v", m.Nodes, err)
			}
			if _, err := c.Dial(t.Context(), 1); err == nil {
				t.Error("connected")
			}
		})
	}
}

// Invariant A: a leader that refuses is asked about, and the next one found.
func TestAMovedLeaderIsFoundAgain(t *testing.T) {
	server, c := start(t, kafka.Config{})
	before, err := c.Leader(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	moved := (before + 1) % 3
	if err := server.MoveTopicPartition("orders", 1, moved); err != nil {
		t.Fatal(err)
	}
	if cached, err := c.Leader(t.Context(), orders); err != nil || cached != before {
		t.Errorf("the cache says %d, %v", cached, err)
	}
	ends, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{orders, {Topic: "orders"}, {Topic: "orders", Partition: 2}})
	if err != nil || len(ends) != 3 {
		t.Errorf("log ends %v, %v", ends, err)
	}
	if after, err := c.Leader(t.Context(), orders); err != nil || after != moved {
		t.Errorf("after the refusal the leader is %d, %v", after, err)
	}
}

// Who asks again in any case takes nothing from others that is known, whatever comes of it:
// while a site is away, each gateway asks it each second how far it is.
func TestAQuestionThatFailsForgetsNothing(t *testing.T) {
	for what, answer := range map[string]func(kmsg.Request) (kmsg.Response, error, bool){
		"a leader that refuses": func(req kmsg.Request) (kmsg.Response, error, bool) {
			resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
			for _, in := range req.(*kmsg.ListOffsetsRequest).Topics {
				topic := kmsg.ListOffsetsResponseTopic{Topic: in.Topic}
				for _, p := range in.Partitions {
					one := kmsg.NewListOffsetsResponseTopicPartition()
					one.Partition, one.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
					topic.Partitions = append(topic.Partitions, one)
				}
				resp.Topics = append(resp.Topics, topic)
			}
			return resp, nil, true
		},
		"one that closes the connection": func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("not now"), true },
		"one that hangs":                 nil,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			server, c := start(t, kafka.Config{})
			tps := []spillway.TopicPartition{orders, {Topic: "orders"}, {Topic: "orders", Partition: 2}}
			known := func() (found []int32) {
				for _, tp := range tps {
					node, err := c.Leader(t.Context(), tp)
					if err != nil {
						t.Fatal(err)
					}
					found = append(found, node)
				}
				node, err := c.Coordinator(t.Context(), broker.GroupCoordinator, "shop")
				if err != nil {
					t.Fatal(err)
				}
				return append(found, node)
			}
			before := known()
			if starts, ends, err := c.Admin().LogBounds(t.Context(), tps); err != nil || len(starts) != 3 || len(ends) != 3 {
				t.Fatalf("%v, %v, %v", starts, ends, err)
			}
			var asked, looked atomic.Int64
			for _, key := range []int16{3, 10} { // Metadata, FindCoordinator
				server.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
					server.KeepControl()
					looked.Add(1)
					return nil, nil, false
				})
			}
			ended := make(chan struct{})
			t.Cleanup(func() { close(ended) })
			server.ControlKey(2, func(req kmsg.Request) (kmsg.Response, error, bool) {
				server.KeepControl()
				asked.Add(1)
				if answer != nil {
					return answer(req)
				}
				server.SleepControl(func() { <-ended })
				return nil, errors.New("it has hung"), true
			})
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // longer than a node is waited for before it counts as one that hangs
			defer cancel()
			if starts, ends, err := c.Admin().LogBounds(ctx, tps); err == nil || len(starts)+len(ends) > 0 {
				t.Fatalf("%v, %v, %v", starts, ends, err)
			}
			if n := asked.Load(); n > 6 { // three nodes, two questions
				t.Errorf("it was asked %d times", n)
			}
			if after := known(); !slices.Equal(after, before) || looked.Load() > 0 {
				t.Errorf("leaders and coordinator %v, before %v; the cluster was asked %d times for them", after, before, looked.Load())
			}
		})
	}
}

// Who asks for a node that is not there takes nothing from others that is known.
func TestAnUnknownNodeForgetsNothing(t *testing.T) {
	server, c := start(t, kafka.Config{})
	before, err := c.Leader(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.MoveTopicPartition("orders", 1, (before+1)%3); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial(t.Context(), 77); !errors.Is(err, broker.ErrUnknownNode) {
		t.Errorf("error %v", err)
	}
	if cached, err := c.Leader(t.Context(), orders); err != nil || cached != before {
		t.Errorf("the cache says %d, %v", cached, err)
	}
}

// A probe of the site's settings opens the link of a node. Its place was
// forgotten meanwhile by somebody else, so it is asked for, which must not probe
// in its turn: that waited for the link that it was opening, for ever.
func TestAProbeDoesNotWaitForItself(t *testing.T) {
	server, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	server.ControlKey(32, func(kmsg.Request) (kmsg.Response, error, bool) { // DescribeConfigs, by which it probes
		server.KeepControl()
		return nil, errors.New("not now"), true // closes the connection, so each probe opens the link anew
	})
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for ctx.Err() == nil {
					_ = c.Refresh(ctx) // forgets where the node is
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("hangs")
	}
}

// Invariant B: the request names the epoch, so a node that only follows cannot answer.
func TestLogEndsNameTheLeadersEpoch(t *testing.T) {
	server, c := start(t, kafka.Config{})
	var replica, epoch atomic.Int32
	epoch.Store(-1)
	server.ControlKey(2, func(req kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		r := req.(*kmsg.ListOffsetsRequest)
		replica.Store(r.ReplicaID)
		epoch.Store(r.Topics[0].Partitions[0].CurrentLeaderEpoch)
		return nil, nil, false
	})
	if _, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{orders}); err != nil {
		t.Fatal(err)
	}
	if replica.Load() != -2 || epoch.Load() < 0 {
		t.Errorf("asked as replica %d with epoch %d", replica.Load(), epoch.Load())
	}
}

// What could be found comes with the error of the rest.
func TestEndsThatWereFoundAreKept(t *testing.T) {
	server, c := start(t, kafka.Config{})
	server.ControlKey(2, func(req kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		r := req.(*kmsg.ListOffsetsRequest)
		resp := r.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range r.Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				if p.Partition, p.Offset = rp.Partition, 5; rp.Partition != orders.Partition {
					p.ErrorCode, p.Offset = kerr.OffsetNotAvailable.Code, -1
				}
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	other := orders
	other.Partition = 1 - orders.Partition
	for what, ask := range map[string]func(context.Context, []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error){
		"stable ends": c.Admin().StableEnds, "log starts": c.Admin().LogStarts,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		found, err := ask(ctx, []spillway.TopicPartition{orders, other})
		cancel()
		if at, there := found[orders]; err == nil || !there || at != 5 || len(found) != 1 {
			t.Errorf("%s: %v, %v", what, found, err)
		}
	}
}

func TestAMovedCoordinatorIsFoundAgain(t *testing.T) {
	server, c := start(t, kafka.Config{})
	offsets := map[spillway.TopicPartition]broker.GroupOffset{orders: {Offset: 3, LeaderEpoch: -1}}
	if err := c.Admin().CommitGroupOffsets(t.Context(), "shippers", offsets); err != nil {
		t.Fatal(err)
	}
	refusals := atomic.Int32{}
	server.ControlKey(8, func(req kmsg.Request) (kmsg.Response, error, bool) {
		r := req.(*kmsg.OffsetCommitRequest)
		resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
		p := kmsg.NewOffsetCommitResponseTopicPartition()
		p.Partition, p.ErrorCode = 1, kerr.NotCoordinator.Code
		resp.Topics = []kmsg.OffsetCommitResponseTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitResponseTopicPartition{p}}}
		refusals.Add(1)
		return resp, nil, true
	})
	if err := c.Admin().CommitGroupOffsets(t.Context(), "shippers", offsets); err != nil || refusals.Load() != 1 {
		t.Errorf("%d refusals, %v", refusals.Load(), err)
	}
}

// A broker came back at another address, and its old one leads elsewhere: the answer that names it
// as a coordinator has the new one. It is taken if it is allowed.
func TestACoordinatorIsFoundAtItsNewAddress(t *testing.T) {
	var dialled atomic.Value
	server, c := start(t, kafka.Config{
		Allow: func(host string, port int32) bool { return host == "127.0.0.1" && port != 8500 },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled.Store(address)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}, kfake.SeedTopics(100, "many"))
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	dial := func() string {
		t.Helper()
		to, err := c.Dial(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		to.Close()
		return dialled.Load().(string)
	}
	own := func() bool {
		t.Helper()
		for p := range int32(100) {
			tp := spillway.TopicPartition{Topic: "many", Partition: p}
			if leader, err := c.Leader(t.Context(), tp); err != nil {
				t.Fatal(err)
			} else if leader != 1 {
				continue
			}
			_, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{tp})
			return err == nil
		}
		t.Fatal("node 1 leads nothing")
		return false
	}
	own()
	release := make(chan struct{})
	defer close(release)
	waits, failed := make(chan struct{}), make(chan error, 1)
	var first atomic.Bool
	first.Store(true)
	server.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		if first.CompareAndSwap(true, false) {
			close(waits)
			server.SleepControl(func() { <-release })
		}
		return nil, nil, false
	})
	go func() {
		for p := range int32(100) {
			tp := spillway.TopicPartition{Topic: "many", Partition: p}
			if leader, err := c.Leader(t.Context(), tp); err == nil && leader == 1 {
				_, err = c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{tp})
				failed <- err
				return
			}
		}
	}()
	<-waits
	old, elsewhere := dial(), ""
	for _, address := range server.ListenAddrs() {
		if address != old {
			elsewhere = address
		}
	}
	host, port, err := net.SplitHostPort(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	for _, announced := range []struct {
		host  string
		port  int
		error int16
		want  string
	}{
		{host, 8500, 0, old},
		{"10.0.0.1", number, 0, old},
		{host, number, kerr.CoordinatorNotAvailable.Code, old},
		{host, number, 0, elsewhere},
	} {
		server.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
			resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
			one := kmsg.NewFindCoordinatorResponseCoordinator()
			one.Key, one.NodeID, one.Host, one.Port, one.ErrorCode = "shippers", 1, announced.host, int32(announced.port), announced.error
			resp.Coordinators = append(resp.Coordinators, one)
			return resp, nil, true
		})
		if err := c.Relocate(t.Context(), broker.GroupCoordinator, "shippers"); err != nil {
			t.Fatal(err)
		}
		if got := dial(); got != announced.want {
			t.Errorf("%+v: node 1 is dialled at %s", announced, got)
		}
	}
	// The connection that the cluster itself had to the old address is left: the process there lives.
	// What waits on it for an answer fails, and that is nothing against the new address.
	if dialled.Store(""); !own() || dialled.Load() != elsewhere {
		t.Errorf("node 1 is asked, and %q is dialled for it", dialled.Load())
	}
	if err := <-failed; err == nil {
		t.Error("what waited at the old address was answered")
	}
	if got := dial(); got != elsewhere {
		t.Errorf("when a request to its old address has failed, node 1 is dialled at %q", got)
	}
	if dialled.Store(""); !own() || dialled.Load() != "" {
		t.Errorf("node 1 is asked again, and %q is dialled for it", dialled.Load())
	}
}

// A group's coordinator moves, or nobody knows it for a while: what is known of others is not
// asked for again, neither by who asks that group nor by who has been told of the move.
func TestOneCoordinatorThatMovesForgetsNoOther(t *testing.T) {
	t.Parallel()
	server, c := start(t, kafka.Config{})
	var questions sync.Map // by group
	asked := func(group string) int {
		n, _ := questions.LoadOrStore(group, new(atomic.Int32))
		return int(n.(*atomic.Int32).Load())
	}
	var away atomic.Bool
	server.ControlKey(int16(kmsg.FindCoordinator), func(req kmsg.Request) (kmsg.Response, error, bool) {
		r := req.(*kmsg.FindCoordinatorRequest)
		server.KeepControl()
		for _, key := range r.CoordinatorKeys {
			asked(key)
			n, _ := questions.Load(key)
			n.(*atomic.Int32).Add(1)
		}
		if !away.CompareAndSwap(true, false) {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.FindCoordinatorResponse)
		for _, key := range r.CoordinatorKeys {
			one := kmsg.NewFindCoordinatorResponseCoordinator()
			one.Key, one.NodeID, one.ErrorCode = key, -1, kerr.CoordinatorNotAvailable.Code
			resp.Coordinators = append(resp.Coordinators, one)
		}
		return resp, nil, true
	})
	metadata := atomic.Int32{}
	server.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		metadata.Add(1)
		return nil, nil, false
	})
	find := func(group string) {
		t.Helper()
		if _, err := c.Coordinator(t.Context(), broker.GroupCoordinator, group); err != nil {
			t.Fatal(err)
		}
	}
	find("other")
	if _, err := c.Leader(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	known := metadata.Load()

	away.Store(true)
	find("shippers") // asked twice
	refused := atomic.Bool{}
	server.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		if refused.Swap(true) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		g := kmsg.NewOffsetFetchResponseGroup()
		g.Group, g.ErrorCode = "shippers", kerr.NotCoordinator.Code
		resp.Groups = append(resp.Groups, g)
		return resp, nil, true
	})
	if _, err := c.Admin().FetchGroupOffsets(t.Context(), "shippers"); err != nil || !refused.Load() {
		t.Fatal(err)
	} // a third time
	if err := c.Relocate(t.Context(), broker.GroupCoordinator, "shippers", "billing"); err != nil {
		t.Fatal(err)
	}
	find("billing") // known from there
	away.Store(true)
	if err := c.Relocate(t.Context(), broker.GroupCoordinator, "shippers"); err != nil {
		t.Fatal(err)
	}
	find("shippers") // nobody knew
	find("other")
	if _, err := c.Leader(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]int{"other": 1, "shippers": 6, "billing": 1} {
		if n := asked(group); n != want {
			t.Errorf("asked %d times for the coordinator of %s, want %d", n, group, want)
		}
	}
	if n := metadata.Load() - known; n > 0 {
		t.Errorf("asked %d times for metadata", n)
	}
}

// freezable is a connection whose answers can be withheld for good.
type freezable struct {
	net.Conn
	frozen *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (f *freezable) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.frozen.Load() {
		<-f.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (f *freezable) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

// A broker hangs: the groups of the others are listed all the same, and which broker did not
// answer is said.
func TestGroupsOfTheBrokersThatAnswerAreListed(t *testing.T) {
	t.Parallel()
	// The first one is that which is asked which brokers there are.
	for _, coordinator := range []int32{0, 1} {
		t.Run(fmt.Sprint("broker ", coordinator), func(t *testing.T) {
			t.Parallel()
			listBeside(t, coordinator)
		})
	}
}

// listBeside lists groups while that broker hangs.
func listBeside(t *testing.T, coordinator int32) {
	t.Helper()
	var hung atomic.Pointer[string]
	frozen := &atomic.Bool{}
	server, c := start(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		opened, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		f := &freezable{Conn: opened, frozen: &atomic.Bool{}, closed: make(chan struct{})}
		if at := hung.Load(); at != nil && *at == address {
			f.frozen = frozen
		}
		return f, nil
	}})
	hangs := server.ListenAddrs()[coordinator] // kfake numbers its brokers in the order of their addresses
	hung.Store(&hangs)
	for i := range 30 {
		if err := c.Admin().CommitGroupOffsets(t.Context(), fmt.Sprint("group-", i), map[spillway.TopicPartition]broker.GroupOffset{orders: {Offset: 3, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.Admin().ListGroups(t.Context())
	if err != nil || len(all) != 30 {
		t.Fatalf("%d groups, %v", len(all), err)
	}
	var want []string
	for _, g := range all {
		if g.Coordinator != coordinator {
			want = append(want, g.ID)
		}
	}
	if len(want) == 0 || len(want) == 30 {
		t.Fatalf("%d of 30 groups are with broker %d", 30-len(want), coordinator)
	}
	frozen.Store(true)
	// Who has a deadline has a good part of it left for the groups.
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	some, err := c.Admin().ListGroups(ctx)
	if deadline, _ := ctx.Deadline(); time.Until(deadline) < 2*time.Second {
		t.Errorf("%s of 6 s are left", time.Until(deadline))
	}
	var found []string
	for _, g := range some {
		found = append(found, g.ID)
	}
	if !slices.Equal(found, want) || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("ListGroups of broker %d", coordinator)) || ctx.Err() != nil {
		t.Errorf("%v, want %v; %v", found, want, err)
	}
}

// Brokers take some seconds to list their groups, and nobody waits: they are listed. Where
// nobody answers at all the error says so.
func TestASlowBrokerListsItsGroups(t *testing.T) {
	t.Parallel()
	const slow = 4 * time.Second
	var silent atomic.Bool
	var first sync.Once
	server, c := start(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if silent.Load() {
			return nil, errors.New("nobody is there")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	if err := c.Admin().CommitGroupOffsets(t.Context(), "app", map[spillway.TopicPartition]broker.GroupOffset{orders: {Offset: 3, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Admin().ListGroups(t.Context()); err != nil { // it has connections to all
		t.Fatal(err)
	}
	server.ControlKey(int16(kmsg.ListGroups), func(kmsg.Request) (kmsg.Response, error, bool) {
		first.Do(func() { time.Sleep(slow) }) // the others wait for it
		return nil, nil, false
	})
	if groups, err := c.Admin().ListGroups(t.Context()); err != nil || len(groups) != 1 {
		t.Errorf("%v, %v", groups, err)
	}
	silent.Store(true)
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if groups, err := c.Admin().ListGroups(ctx); !errors.Is(err, broker.ErrAllUnreachable) || ctx.Err() != nil {
		t.Errorf("%v, %v", groups, err)
	}
}

// A node that hangs is left, also where nobody who asks it has much time; and the next
// request goes over a new connection.
func TestAHangingNodeIsLeft(t *testing.T) {
	first := &atomic.Bool{}
	current := atomic.Pointer[atomic.Bool]{}
	current.Store(first)
	_, c := start(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		opened, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &freezable{Conn: opened, frozen: current.Load(), closed: make(chan struct{})}, nil
	}})
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Store(true) // all connections made so far
	current.Store(&atomic.Bool{})
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Metadata(ctx)
		return err
	}
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ask() != nil; {
		if time.Now().After(end) {
			t.Fatal("the connection to a node that hangs is kept")
		}
	}
}

// A caller with little time says nothing of the node: what others asked on the same
// connection is answered, and what is known stays known.
func TestAHastyCallerCutsOffNobody(t *testing.T) {
	server, c := start(t, kafka.Config{}, kfake.NumBrokers(1))
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	came := make(chan struct{}, 100)
	server.ControlKey(3, func(kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		came <- struct{}{}
		time.Sleep(300 * time.Millisecond)
		return nil, nil, false
	})
	patient := make(chan error, 1)
	go func() {
		_, err := c.Metadata(t.Context())
		patient <- err
	}()
	<-came
	hasty, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Metadata(hasty, "orders"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err := <-patient; err != nil {
		t.Errorf("the other one: %v", err)
	}
	if again := len(came) - 1; again > 0 { // the first was taken above
		t.Errorf("%d questions were asked once more, on another connection", again)
	}
}

// One address of several swallows what is sent to it. Callers who have less time than a
// connection may take come to the next one.
func TestAnAddressThatSwallowsAllIsPassed(t *testing.T) {
	server, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	hole := "127.0.0.1:9"
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: []string{hole, server.ListenAddrs()[0]}, Capabilities: &broker.Capabilities{},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == hole {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ask := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := c.Metadata(ctx)
		return err
	}
	if err := ask(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if err := ask(5 * time.Second); err != nil {
		t.Error(err)
	}
}

// The address that is tried first takes connections and never answers. Whoever asks has
// no time left for the next one, so the next question begins behind it; every one began
// with it, and the site looked dead though the others worked.
func TestAnAddressThatHangsIsNotTriedFirstForEver(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var first atomic.Value
	server, c := start(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == first.Load() {
			address = silent.Addr().String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	first.Store(server.ListenAddrs()[0])
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := c.Metadata(ctx)
		return err
	}
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the first question: %v", err)
	}
	if err := ask(); err != nil {
		t.Errorf("the second question: %v", err)
	}
}

// The same where there is one address only, or none of them leads to a node that answers:
// the nodes that are known come after them.
func TestAnAddressThatHangsIsPassedForANodeThatIsKnown(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	server, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	var hangs atomic.Bool
	var mu sync.Mutex
	var open []net.Conn
	first := server.ListenAddrs()[0]
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: []string{first}, Capabilities: &broker.Capabilities{}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == first && hangs.Load() {
			address = silent.Addr().String()
		}
		opened, err := (&net.Dialer{}).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		open = append(open, opened)
		return opened, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	hangs.Store(true)
	mu.Lock()
	for _, o := range open {
		o.Close()
	}
	mu.Unlock()
	for i := range 3 { // the dead connection, the address, the node that it leads to
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err = c.Metadata(ctx)
		cancel()
		if err == nil {
			t.Logf("question %d is answered", i+1)
			return
		}
	}
	t.Errorf("nobody is asked but the address that hangs: %v", err)
}

// A broker that hangs is asked what it can do aside from what the caller wants, who must
// have time left: each canary of a probe of the site ran out of it, and the site looked
// dead. What another broker says counts.
func TestABrokerThatHangsTellsNothingOfTheOthers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	server, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	var mute atomic.Bool // nobody tells his settings
	server.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		if mute.Load() {
			return nil, errors.New("not now"), true
		}
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		r := kmsg.NewDescribeConfigsResponseResource()
		value, unlimited := kmsg.NewDescribeConfigsResponseResourceConfig(), "9223372036854775807"
		value.Name, value.Value = "log.message.timestamp.after.max.ms", &unlimited
		r.Configs = append(r.Configs, value)
		resp.Resources = append(resp.Resources, r)
		return resp, nil, true
	})
	server.ControlKey(int16(kmsg.DescribeACLs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		return req.ResponseKind(), nil, true
	})
	hung := server.ListenAddrs()[0] // of the lowest id
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.ListenAddrs()[1:], HandshakeTimeout: time.Hour, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == hung {
			address = silent.Addr().String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mute.Store(true)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		_, err := c.Metadata(ctx)
		if at, _ := ctx.Deadline(); err != nil || time.Until(at) < 2*time.Second {
			t.Errorf("%v, with %v of 4 s left", err, time.Until(at))
		}
		cancel()
	}
	mute.Store(false)
	until := time.Now().Add(30 * time.Second)
	for c.Capabilities().TimestampLimits {
		if time.Now().After(until) {
			t.Fatal("what the others tell does not count")
		}
		_, _ = c.Metadata(t.Context())
	}
}

func TestAnUnreachableSiteSaysSo(t *testing.T) {
	server, c := start(t, kafka.Config{})
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Close()
	for name, ask := range map[string]func() error{
		"metadata": func() error { _, err := c.Metadata(t.Context()); return err },
		"log ends": func() error {
			_, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{orders})
			return err
		},
		"settings": func() error { _, err := c.Admin().TopicConfigs(t.Context(), "orders"); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "site east") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Dial(t.Context(), broker.AnyNode); !errors.Is(err, broker.ErrAllUnreachable) {
		t.Errorf("error %v", err)
	}
}

func TestEveryMechanismServesDataAndAdmin(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			_, c := start(t, kafka.Config{SASL: &conn.SASL{Mechanism: mechanism, User: "mirror", Password: "secret"}},
				kfake.EnableSASL(), kfake.Superuser(mechanism, "mirror", "secret"))
			if err := c.Admin().CreateTopic(t.Context(), "carts", 1, 1, nil); err != nil {
				t.Error(err)
			}
			if _, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{{Topic: "carts"}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNothingWorksAfterClose(t *testing.T) {
	_, c := start(t, kafka.Config{})
	if _, err := c.Admin().TopicConfigs(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Metadata(t.Context()); !errors.Is(err, conn.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if err := c.Admin().DeleteTopic(t.Context(), "orders"); !errors.Is(err, conn.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestConfigurationFaultsAreNamed(t *testing.T) {
	_, err := kafka.New(kafka.Config{Bootstrap: []string{"east-1"}, SASL: &conn.SASL{Mechanism: "GSSAPI"}})
	for _, fault := range []string{"site: is empty", `bootstrap[0]: "east-1" is not host:port`, `sasl.mechanism: "GSSAPI" is not known`} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q is not in %v", fault, err)
		}
	}
	if _, err := kafka.New(kafka.Config{Site: "east"}); err == nil || !strings.Contains(err.Error(), "bootstrap: needs at least one") {
		t.Errorf("error %v", err)
	}
}

// What is asked of the partitions of many topics needs no request for each topic, though
// nothing is known of their leaders.
func TestLeadersOfManyTopics(t *testing.T) {
	var topics []string
	var tps []spillway.TopicPartition
	for i := range 50 {
		topics = append(topics, fmt.Sprintf("topic-%d", i))
		tps = append(tps, spillway.TopicPartition{Topic: topics[i]})
	}
	server, c := start(t, kafka.Config{}, kfake.SeedTopics(1, topics...))
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	server.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	starts, err := c.Admin().LogStarts(t.Context(), tps)
	if err != nil || len(starts) != len(tps) {
		t.Fatalf("%d of %d: %v", len(starts), len(tps), err)
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("the metadata was asked for %d times", n)
	}
}

// Topics whose creation was not answered count as created when they are there then:
// whoever asked for them must know that they are its own.
func TestTopicsAreCreatedThoughNobodyAnswers(t *testing.T) {
	server, c := start(t, kafka.Config{})
	var attempts atomic.Int64
	server.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		if attempts.Add(1) != 1 {
			return nil, nil, false
		}
		server.SleepControl(func() { // the attempt succeeds
			other, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.ListenAddrs(), Capabilities: &broker.Capabilities{}})
			if err == nil {
				_ = other.Admin().CreateTopic(context.Background(), "carts", 1, 1, nil)
				_ = other.Close()
			}
		})
		return nil, errors.New("gone"), true
	})
	topics := []broker.NewTopic{{Name: "carts", Partitions: 1, Replication: 1}, {Name: "parcels", Partitions: 1, Replication: 1}}
	created, refused, err := c.Admin().CreateTopics(t.Context(), topics)
	slices.Sort(created)
	if err != nil || len(refused) > 0 || !slices.Equal(created, []string{"carts", "parcels"}) {
		t.Errorf("created %v, refused %v, %v", created, refused, err)
	}
	created, refused, err = c.Admin().CreateTopics(t.Context(), topics)
	if err != nil || len(created) > 0 || !errors.Is(refused["carts"], broker.ErrTopicExists) {
		t.Errorf("once more: created %v, refused %v, %v", created, refused, err)
	}
}

// A topic that is there when the controller can be reached at last is somebody else's:
// nothing was sent before.
func TestATopicOfOthersIsNotOnesOwn(t *testing.T) {
	var refuse atomic.Bool
	_, c := start(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if refuse.Swap(false) {
			return nil, errors.New("refused")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	if _, err := c.Metadata(t.Context()); err != nil { // over a connection of its own
		t.Fatal(err)
	}
	refuse.Store(true)
	created, refused, err := c.Admin().CreateTopics(t.Context(), []broker.NewTopic{{Name: "orders", Partitions: 3, Replication: 1}})
	if err != nil || len(created) > 0 || !errors.Is(refused["orders"], broker.ErrTopicExists) || refuse.Load() {
		t.Errorf("created %v, refused %v, %v", created, refused, err)
	}
}
