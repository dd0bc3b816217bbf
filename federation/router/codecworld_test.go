package router

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/wire"
	"spillway/broker/wire/wiretest"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/session"
	"spillway/federation/topicchange"
)

// codecTopics are the topics of the virtual cluster, codecPartitions how many
// partitions each has.
var codecTopics = []string{"orders", "carts", "stock"}

const codecPartitions = 4

// codecSite is a site, of one broker if the test says nothing else, that keeps what it is asked and answers what
// the test says. All of it lives in a bubble.
type codecSite struct {
	broker.Cluster
	t       testing.TB
	mapping mapping
	release *kversion.Versions
	nodes   []broker.Node
	// transaction is the newest one of every transactional id.
	transaction broker.Transaction
	// silent: it tells nothing of transactions.
	silent error
	// forgetful: nor whether the newest one was committed.
	forgetful bool

	described atomic.Int64

	dials, requests atomic.Int64 // so far; greetings are no requests

	mu struct {
		sync.Mutex
		answer   func(kmsg.Request) kmsg.Response
		raw      func(kmsg.Request) []byte // takes the place of answer if it is not nil
		asked    []kmsg.Request
		answered []kmsg.Response
	}
}

// answers has the site answer so from now on.
func (s *codecSite) answers(f func(kmsg.Request) kmsg.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.answer = f
}

// says has it write any bytes; several connections may ask at once.
func (s *codecSite) says(f func(kmsg.Request) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.raw = f
}

func (s *codecSite) bytes(req kmsg.Request) []byte {
	s.requests.Add(1)
	s.mu.Lock()
	raw := s.mu.raw
	s.mu.Unlock()
	if raw != nil {
		return raw(req)
	}
	return s.reply(req)
}

func (s *codecSite) Capabilities() broker.Capabilities {
	return broker.Capabilities{ConsumerGroupV2: true, TransactionOutcome: !s.forgetful}
}

func (*codecSite) Leader(context.Context, spillway.TopicPartition) (int32, error) { return 0, nil }

func (*codecSite) KnownLeader(spillway.TopicPartition) (int32, bool) { return 0, true }

func (*codecSite) Address(int32) (string, bool) { return "", false }

func (*codecSite) Coordinator(context.Context, broker.CoordinatorKind, string) (int32, error) {
	return 0, nil
}

// codecAdmin knows one producer, under every transactional id, and refuses whatever is to change.
type codecAdmin struct {
	broker.Admin
	of *codecSite
}

func (s *codecSite) Admin() broker.Admin { return codecAdmin{of: s} }

func (a codecAdmin) DescribeTransaction(context.Context, string) (broker.Transaction, error) {
	a.of.described.Add(1)
	return a.of.transaction, a.of.silent
}

func (codecAdmin) CheckTopics(_ context.Context, topics []broker.NewTopic) (map[string]error, error) {
	refused := make(map[string]error)
	for _, t := range topics {
		refused[t.Name] = kerr.PolicyViolation
	}
	return refused, nil
}

func (codecAdmin) TopicSettings(_ context.Context, topics []string) (map[string]map[string]string, error) {
	return map[string]map[string]string{codecTopics[0]: {"retention.ms": "1"}}, nil
}

func (codecAdmin) AlterTopic(context.Context, string, []broker.SettingChange, bool) error {
	return kerr.InvalidConfig
}

func (*codecSite) Refresh(context.Context) error { return nil }

func (*codecSite) Relocate(context.Context, broker.CoordinatorKind, ...string) error { return nil }

func (s *codecSite) Metadata(context.Context, ...string) (broker.Metadata, error) {
	md := broker.Metadata{Nodes: s.nodes, Topics: make(map[string]broker.TopicMetadata)}
	for _, name := range codecTopics {
		topic := broker.TopicMetadata{Name: name, ID: s.mapping.siteID(name)}
		for p := range int32(codecPartitions) {
			topic.Partitions = append(topic.Partitions, broker.PartitionMetadata{Partition: p})
		}
		md.Topics[name] = topic
	}
	return md, nil
}

func (s *codecSite) Dial(ctx context.Context, _ int32) (*conn.Conn, error) {
	s.dials.Add(1)
	return conn.Open(ctx, conn.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go s.serve(far)
		return near, nil
	}})
}

// serve answers on one connection. What the gateway sends has to be well-formed.
func (s *codecSite) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		frame, err := wire.ReadFrame(r, nil, wire.FrameBytesMax)
		if err != nil {
			return
		}
		h, body, err := wire.ParseRequest(frame)
		if err == nil {
			err = wire.Check(h.Key, h.Version, body)
		}
		if err != nil {
			s.t.Errorf("the site got: %v", err)
			return
		}
		req := kmsg.RequestForKey(h.Key)
		req.SetVersion(h.Version)
		if err := req.ReadFrom(body); err != nil {
			s.t.Errorf("the site got: %v", err)
			return
		}
		if h.Key == apiVersionsAPI.key {
			if err := write(c, wire.AppendResponseHeader(make([]byte, 4), h.Key, h.Version, h.CorrelationID), s.versions(h.Version).AppendTo(nil)); err != nil {
				return
			}
			continue
		}
		answer := s.bytes(req)
		if p, ok := req.(*kmsg.ProduceRequest); ok && p.Acks == 0 {
			continue
		}
		if err := write(c, wire.AppendResponseHeader(make([]byte, 4), h.Key, h.Version, h.CorrelationID), answer); err != nil {
			return
		}
	}
}

func (s *codecSite) versions(version int16) *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = version
	s.release.EachMaxKeyVersion(func(key, highest int16) {
		resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: highest})
	})
	return resp
}

// reply keeps the request and the answer, this one with what its version carries. One
// answer is made at a time, so those of several connections may share what is random.
func (s *codecSite) reply(req kmsg.Request) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := s.mu.answer(req).AppendTo(nil)
	sent := req.ResponseKind()
	if err := sent.ReadFrom(body); err != nil {
		s.t.Errorf("the site answers %T: %v", sent, err)
	}
	s.mu.asked, s.mu.answered = append(s.mu.asked, req), append(s.mu.answered, sent)
	return body
}

// take gives what was asked and answered since the last call.
func (s *codecSite) take() (asked []kmsg.Request, answered []kmsg.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked, answered = s.mu.asked, s.mu.answered
	s.mu.asked, s.mu.answered = nil, nil
	return asked, answered
}

// codecWorld is a router before such a site.
type codecWorld struct {
	*Router
	site *codecSite
	// manners of the library that asks; nil: it has not said who it is.
	manners *manners
}

func newCodecWorld(t testing.TB, m mapping, release *kversion.Versions) *codecWorld {
	t.Helper()
	group := spillway.FailoverGroup{Name: "shop", Topics: []string{"*"}, ConsumerGroups: []string{"*"}, OffsetBase: spillway.Offset(m.base)}
	share := NewShare(spillway.ShareID{Group: "shop"}, group)
	site := &codecSite{t: t, mapping: m, release: release, nodes: []broker.Node{{ID: 0}},
		transaction: broker.Transaction{State: broker.TransactionOngoing, ProducerID: codecProducer}}
	sites := map[spillway.SiteID]broker.Cluster{"east": site}
	r := New(Config{
		Changes:        topicchange.New(topicchange.Config{Topology: m.topology, Store: coordtest.NewMemory(), Sites: sites}),
		Administration: TopicAdministration,
		Topology:       m.topology, Sites: sites, Shares: []*Share{share},
		Lease: always{}, Layout: fixedLayout{}, Maps: always{}, Reserve: always{}, Marks: new(marksAt),
		HoldMax: 200 * time.Millisecond,
	})
	share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east", Mask: m.mask}}})
	if !share.Open(Term{Epoch: 1, Base: 1, Site: "east", Mask: m.mask}) {
		t.Fatal("the share does not open")
	}
	r.aside = nil // what the gateway asks by itself is not what a client asked
	return &codecWorld{Router: r, site: site}
}

// serve has the gateway serve one request, as the session does, and returns the body
// of its answer.
func (w *codecWorld) serve(ctx context.Context, key, version int16, body []byte) ([]byte, error) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c := w.Connect(far)
	defer c.Close()
	c.manners.Store(w.manners)
	req := session.Request{RequestHeader: wire.RequestHeader{Key: key, Version: version}, Body: body}
	c.Silent(req)
	answer, err := c.Begin(ctx, req)
	if err != nil {
		return nil, err
	}
	return answer(ctx)
}

// bytesOf encodes a message in a version.
func bytesOf(m wiretest.Message, version int16) []byte {
	before := m.GetVersion()
	defer m.SetVersion(before)
	m.SetVersion(version)
	return m.AppendTo(nil)
}

// copyOf decodes what a message's own version carries of it.
func copyOf[M wiretest.Message](m M) M {
	n := wiretest.Fresh(m).(M)
	initialize(n)
	if err := n.ReadFrom(m.AppendTo(nil)); err != nil {
		panic(fmt.Sprintf("%T version %d: %v", m, m.GetVersion(), err))
	}
	return n
}

// initialize gives fields that the version does not carry their defaults.
func initialize(m wiretest.Message) {
	version := m.GetVersion()
	if d, ok := m.(interface{ Default() }); ok {
		d.Default()
	}
	m.SetVersion(version)
}

// merged joins messages into which the gateway has divided one: their lists one
// after the other, and topics of one name into one.
func merged[M any](ms []M) M {
	all := reflect.ValueOf(ms[0]).Elem()
	for _, m := range ms[1:] {
		one := reflect.ValueOf(m).Elem()
		for i := range all.NumField() {
			if list := all.Field(i); list.Kind() == reflect.Slice {
				list.Set(reflect.AppendSlice(list, one.Field(i)))
			}
		}
	}
	for i := range all.NumField() {
		if list := all.Field(i); list.Kind() == reflect.Slice && list.Type().Elem().Kind() == reflect.Struct {
			join(list)
		}
	}
	return ms[0]
}

// asAsked puts questions about groups, which the gateway asks at the same time, in the order in
// which the client asked, each with its answer.
func asAsked(in kmsg.Request, asked []kmsg.Request, answered []kmsg.Response) {
	groups := func(req kmsg.Request) (names []string) {
		switch req := req.(type) {
		case *kmsg.OffsetFetchRequest:
			for _, g := range req.Groups {
				names = append(names, g.Group)
			}
		case *kmsg.DescribeGroupsRequest:
			names = req.Groups
		case *kmsg.ConsumerGroupDescribeRequest:
			names = req.Groups
		}
		return names
	}
	at := 0
	for _, group := range groups(in) {
		for i := at; i < len(asked); i++ {
			if slices.Equal(groups(asked[i]), []string{group}) {
				asked[at], asked[i], answered[at], answered[i] = asked[i], asked[at], answered[i], answered[at]
				at++
				break
			}
		}
	}
}

// join makes neighbours of one topic one.
func join(list reflect.Value) {
	kept := reflect.MakeSlice(list.Type(), 0, list.Len())
	for i := range list.Len() {
		e := list.Index(i)
		name, parts := e.FieldByName("Topic"), e.FieldByName("Partitions")
		if n := kept.Len(); n > 0 && name.IsValid() && parts.IsValid() && kept.Index(n-1).FieldByName("Topic").Equal(name) {
			before := kept.Index(n - 1).FieldByName("Partitions")
			before.Set(reflect.AppendSlice(before, parts))
			continue
		}
		kept = reflect.Append(kept, e)
	}
	if !list.IsNil() {
		list.Set(kept)
	}
}
