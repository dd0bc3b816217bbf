package router

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/broker/wire"
	"spillway/federation/authentication"
	"spillway/federation/failover"
	"spillway/federation/quota"
	"spillway/federation/session"
	"spillway/mirror/offsetmap"
)

// bench is a router, a site of one broker, and a client connection. All of it
// lives in a bubble, whose time goes on when nobody has anything to do.
type bench struct {
	*Router
	t      *testing.T
	share  *Share
	client net.Conn
	sent   int32 // requests
	taken  int   // batches that the broker has seen
	marks  marksAt
	// refuses is the error of the broker; it writes nothing then.
	refuses int16
	late    time.Duration // the next answer of the broker
}

type always struct{}

func (always) Held() bool   { return true }
func (always) Term() uint64 { return 1 }

func (always) View(spillway.SiteID, spillway.TopicPartition) *offsetmap.View { return nil }
func (always) Hides(spillway.SiteID, string) string                          { return "" }

func (always) Ask(_ *Share, _ Term, _ spillway.TopicPartition, end spillway.Offset) spillway.Offset {
	return end
}

func (always) Knows(*Share, string) bool { return false }

func (always) Extend(context.Context, *Share, Term, spillway.TopicPartition, spillway.Offset) error {
	return nil
}

// oneBroker is the site.
type oneBroker struct {
	broker.Cluster
	b *bench
}

func (oneBroker) Capabilities() broker.Capabilities { return broker.Capabilities{Replicas: true} }

func (oneBroker) Leader(context.Context, spillway.TopicPartition) (int32, error) { return 0, nil }

func (oneBroker) KnownLeader(spillway.TopicPartition) (int32, bool) { return 0, true }

func (oneBroker) Metadata(context.Context, ...string) (broker.Metadata, error) {
	return broker.Metadata{}, nil
}

func (oneBroker) Refresh(context.Context) error { return nil }

func (s oneBroker) Admin() broker.Admin { return oneAdmin{b: s.b} }

type oneAdmin struct {
	broker.Admin
	b *bench
}

func (a oneAdmin) LogEnds(_ context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return map[spillway.TopicPartition]spillway.LocalOffset{tps[0]: spillway.LocalOffset(a.b.taken)}, nil
}

func (s oneBroker) Dial(ctx context.Context, _ int32) (*conn.Conn, error) {
	return conn.Open(ctx, conn.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go s.b.broker(far)
		return near, nil
	}})
}

// broker answers on one connection.
func (b *bench) broker(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		frame, err := wire.ReadFrame(r, nil, 1<<20)
		if err != nil {
			return
		}
		h, body, err := wire.ParseRequest(frame)
		if err != nil {
			b.t.Error(err)
			return
		}
		var resp kmsg.Response
		if h.Key == produceAPI.key {
			req := kmsg.NewPtrProduceRequest()
			req.Version = h.Version
			if err := req.ReadFrom(body); err != nil {
				b.t.Error(err)
				return
			}
			time.Sleep(b.late)
			b.late = 0
			resp = b.takes(req)
		} else {
			versions := kmsg.NewPtrApiVersionsResponse()
			versions.Version = h.Version
			versions.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 0, MinVersion: 3, MaxVersion: 11}, {ApiKey: 18, MaxVersion: 3}}
			resp = versions
		}
		if err := write(c, wire.AppendResponseHeader(make([]byte, 4), h.Key, h.Version, h.CorrelationID), resp.AppendTo(nil)); err != nil {
			return
		}
	}
}

func (b *bench) takes(req *kmsg.ProduceRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	t, p := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
	t.Topic, p.ErrorCode, p.BaseOffset = "orders", b.refuses, -1
	if b.taken++; b.refuses == 0 {
		p.BaseOffset = int64(b.taken - 1)
	}
	t.Partitions = append(t.Partitions, p)
	resp.Topics = append(resp.Topics, t)
	return resp
}

// write writes a frame; head begins with room for its size.
func write(c net.Conn, head, body []byte) error {
	binary.BigEndian.PutUint32(head, uint32(len(head)-4+len(body)))
	_, err := c.Write(append(head, body...))
	return err
}

// inBench runs a test in a bubble. The share is not served yet.
func inBench(t *testing.T, run func(*testing.T, *bench)) {
	t.Helper()
	inBenchOf(t, spillway.FailoverGroup{Name: "shop", Topics: []string{"orders"}}, run)
}

func inBenchOf(t *testing.T, group spillway.FailoverGroup, run func(*testing.T, *bench)) {
	t.Helper()
	inBenchWith(t, group, nil, func(t *testing.T, b *bench, _ *Client) { run(t, b) })
}

func inBenchWith(t *testing.T, group spillway.FailoverGroup, quotas *quota.Ledger[authentication.Principal], run func(*testing.T, *bench, *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, share: NewShare(spillway.ShareID{Group: "shop"}, group)}
		b.Router = New(Config{
			Topology: spillway.NewTopology("t", "id", nil, []spillway.FailoverGroup{group}), Sites: map[spillway.SiteID]broker.Cluster{"east": oneBroker{b: b}},
			Shares: []*Share{b.share}, Lease: always{}, Layout: fixedLayout{}, Maps: always{}, Reserve: always{}, Marks: &b.marks, Quotas: quotas,
		})
		c, end := b.connect()
		run(t, b, c)
		end()
		b.Close()
	})
}

// connect makes the connection that the test goes on with.
func (b *bench) connect() (c *Client, end func()) {
	near, far := net.Pipe()
	b.client, c = near, b.Connect(far)
	if !c.Enter() {
		b.t.Fatal("the principal has too many connections")
	}
	s := session.New(far, c, session.Limits{}, nil, session.Events{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(context.Background())
	}()
	return c, func() { near.Close(); <-ended }
}

// open has the share served from now on.
func (b *bench) open() {
	b.share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
	if !b.share.Open(Term{Epoch: 1, Base: 1, Site: "east"}) {
		b.t.Fatal("the share does not open")
	}
}

// send writes a request of a plain producer, which has to be read before the next.
func (b *bench) send(timeout time.Duration) {
	b.t.Helper()
	req := request(oneRecord(b.t), timeout)
	b.sent++
	if err := write(b.client, wire.AppendRequestHeader(make([]byte, 4), 0, req.Version, b.sent, "test"), req.AppendTo(nil)); err != nil {
		b.t.Fatal(err)
	}
}

// oneRecord is a batch of a plain producer.
func oneRecord(t *testing.T) []byte {
	t.Helper()
	records, err := batch.Rebuild(batch.Header{Magic: 2, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: []byte("one")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func request(records []byte, timeout time.Duration) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, int32(timeout.Milliseconds())
	topic, partition := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	topic.Topic, partition.Records = "orders", records
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	return req
}

// answered reads one answer and returns its error code.
func (b *bench) answered() int16 {
	b.t.Helper()
	return b.answer().Topics[0].Partitions[0].ErrorCode
}

func (b *bench) answer() *kmsg.ProduceResponse {
	b.t.Helper()
	frame, err := wire.ReadFrame(onlyReader{b.client}, nil, 1<<20)
	if err != nil {
		b.t.Fatal(err)
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 9
	_, body, err := wire.ParseResponse(0, resp.Version, frame)
	if err == nil {
		err = resp.ReadFrom(body)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return resp
}

// onlyReader reads no more than is asked for.
type onlyReader struct{ io.Reader }

// A client has five requests on their way when its share stops to be served. The
// first one is held as long as may be. When it is refused the others are too: each
// of them would be held as long again, and would be refused then.
func TestWhatIsBehindARefusedRequestIsNotHeld(t *testing.T) {
	inBench(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		for range 5 {
			b.send(30 * time.Second)
		}
		for i := range 5 {
			if code := b.answered(); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("request %d: error %d", i, code)
			}
		}
		if took := time.Since(begin); took != b.config.HoldMax {
			t.Errorf("clients waited %s, want %s", took, b.config.HoldMax)
		}
		b.open()
		if b.send(time.Second); b.answered() != 0 || b.taken != 1 {
			t.Error("what comes again is not taken")
		}
	})
}

// A refused request's answer waits for a slow reader. What the client sends until
// it has that answer may not go before it sends the refused one again.
func TestWhatIsSentBeforeARefusalIsReadIsRefused(t *testing.T) {
	inBench(t, func(t *testing.T, b *bench) {
		b.send(time.Second)
		time.Sleep(2 * time.Second) // refused by now, and not read
		b.open()
		b.send(time.Second)
		time.Sleep(time.Millisecond)
		for i := range 2 {
			if code := b.answered(); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("request %d: error %d", i, code)
			}
		}
		if b.send(time.Second); b.answered() != 0 || b.taken != 1 {
			t.Errorf("what comes again is not taken; the broker has seen %d", b.taken)
		}
	})
}

// A broker that refuses for ever uses up the request's time and no more.
func TestARefusedBatchIsGivenUpInTime(t *testing.T) {
	inBench(t, func(t *testing.T, b *bench) {
		b.refuses = kerr.NotLeaderForPartition.Code
		b.open()
		begin, timeout := time.Now(), 500*time.Millisecond
		b.send(timeout)
		b.send(timeout)
		for i := range 2 {
			if code := b.answered(); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("request %d: error %d", i, code)
			}
		}
		if took := time.Since(begin); took < timeout || took > timeout+againPauseMax || b.taken < 5 {
			t.Errorf("it took %s and %d attempts", took, b.taken)
		}
	})
}
