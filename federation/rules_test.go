package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// raw opens a connection on which tests send what they like.
func raw(t *testing.T, address string) *conn.Conn {
	t.Helper()
	c, err := conn.Open(within(t, soon), conn.Config{Address: address, Node: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func do[R kmsg.Response](t *testing.T, c *conn.Conn, req kmsg.Request) R {
	t.Helper()
	resp, err := c.DoVersion(within(t, soon), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.(R)
}

func produceRequest(topic string, change func(*batch.Header)) *kmsg.ProduceRequest {
	h := batch.Header{Magic: 2, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: time.Now().UnixMilli()}
	records := []batch.Record{{Value: []byte("one")}, {OffsetDelta: 1, Value: []byte("two")}}
	if change != nil {
		change(&h)
	}
	b, err := batch.Rebuild(h, records, batch.None)
	if err != nil {
		panic(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, 5000
	rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	rt.Topic, rp.Records = topic, b
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func produced(r *kmsg.ProduceResponse) (code int16, offset int64) {
	p := r.Topics[0].Partitions[0]
	return p.ErrorCode, p.BaseOffset
}

func TestProduceIsChecked(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	ours := spillway.ClientProducerID(1)
	of := func(change func(*batch.Header)) *kmsg.ProduceRequest { return produceRequest("orders", change) }
	with := func(req *kmsg.ProduceRequest, change func(*kmsg.ProduceRequest)) *kmsg.ProduceRequest {
		change(req)
		return req
	}
	for name, c1 := range map[string]struct {
		req  *kmsg.ProduceRequest
		want *kerr.Error
	}{
		"an id of a cluster": {of(func(h *batch.Header) { h.ProducerID, h.ProducerEpoch, h.BaseSequence = 1000, 0, 0 }), kerr.InvalidProducerIDMapping},
		"an id of a mirror": {of(func(h *batch.Header) {
			h.ProducerID, h.ProducerEpoch, h.BaseSequence = spillway.MirrorProducerID(1), 0, 0
		}), kerr.InvalidProducerIDMapping},
		"no sequence":        {of(func(h *batch.Header) { h.ProducerID, h.ProducerEpoch = ours, 0 }), kerr.InvalidRecord},
		"a control batch":    {of(func(h *batch.Header) { h.Attributes = batch.AttributeControl }), kerr.InvalidRecord},
		"a transaction":      {of(func(h *batch.Header) { h.Attributes = batch.AttributeTransactional }), kerr.TransactionalIDAuthorizationFailed},
		"unknown topic":      {produceRequest("nobody", nil), kerr.UnknownTopicOrPartition},
		"internal topic":     {produceRequest("__consumer_offsets", nil), kerr.UnknownTopicOrPartition},
		"acks 2":             {with(of(nil), func(r *kmsg.ProduceRequest) { r.Acks = 2 }), kerr.InvalidRequiredAcks},
		"a transactional id": {with(of(nil), func(r *kmsg.ProduceRequest) { r.TransactionID = kmsg.StringPtr("t") }), kerr.TransactionalIDAuthorizationFailed},
		"unknown partition":  {with(of(nil), func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = 7 }), kerr.UnknownTopicOrPartition},
		"no records":         {with(of(nil), func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Records = []byte{} }), kerr.CorruptMessage},
		"format 1":           {with(of(nil), func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Records[16] = 1 }), kerr.UnsupportedForMessageFormat},
		"a wrong checksum":   {with(of(nil), func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Records[70] ^= 1 }), kerr.CorruptMessage},
		"two batches": {with(of(nil), func(r *kmsg.ProduceRequest) {
			p := &r.Topics[0].Partitions[0]
			p.Records = append(p.Records, p.Records...)
		}), kerr.InvalidRecord},
		"a partition twice": {with(of(nil), func(r *kmsg.ProduceRequest) {
			r.Topics = append(r.Topics, r.Topics[0])
			r.Topics[0].Partitions[0].Partition = 0
		}), nil},
		"a batch that is cut": {with(of(nil), func(r *kmsg.ProduceRequest) { p := &r.Topics[0].Partitions[0]; p.Records = p.Records[:65] }), kerr.CorruptMessage},
	} {
		resp := do[*kmsg.ProduceResponse](t, c, c1.req)
		last := resp.Topics[len(resp.Topics)-1].Partitions[0]
		want := int16(0)
		if c1.want != nil {
			want = c1.want.Code
		} else {
			want = kerr.InvalidRecord.Code // the second time
		}
		if last.ErrorCode != want || last.BaseOffset != -1 {
			t.Errorf("%s: %v at %d, want error %d", name, kerr.ErrorForCode(last.ErrorCode), last.BaseOffset, want)
		}
	}
}

func TestInitProducerID(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{})
	c := raw(t, w.Addrs[0])
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version = 4
	first := do[*kmsg.InitProducerIDResponse](t, c, req)
	if first.ErrorCode != 0 || !spillway.IsClientProducerID(first.ProducerID) || first.ProducerEpoch != 0 {
		t.Fatalf("%+v", first)
	}
	if again := do[*kmsg.InitProducerIDResponse](t, c, req); again.ProducerID == first.ProducerID {
		t.Error("one id was given twice")
	}
	req.ProducerID, req.ProducerEpoch = first.ProducerID, first.ProducerEpoch
	if bumped := do[*kmsg.InitProducerIDResponse](t, c, req); bumped.ProducerID != first.ProducerID || bumped.ProducerEpoch != 1 {
		t.Errorf("%+v", bumped)
	}
	req.ProducerEpoch = 32766
	if fresh := do[*kmsg.InitProducerIDResponse](t, c, req); fresh.ProducerID == first.ProducerID || fresh.ProducerEpoch != 0 {
		t.Errorf("epochs used up: %+v", fresh)
	}
	req.TransactionalID = kmsg.StringPtr("orders-tx")
	if refused := do[*kmsg.InitProducerIDResponse](t, c, req); refused.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code {
		t.Errorf("transactional: %+v", refused)
	}
}

// The fourth version of what experiments K found brokers to answer.
func TestAPIVersions(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{})
	c := raw(t, w.Addrs[0])
	ask := func(cluster *string, node int32) *kmsg.ApiVersionsResponse {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClusterID, req.NodeID = 5, cluster, node
		req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1"
		return do[*kmsg.ApiVersionsResponse](t, c, req)
	}
	mine, other := kmsg.StringPtr(gatewaytest.ClusterID), kmsg.StringPtr("other")
	for name, c := range map[string]struct {
		got  *kmsg.ApiVersionsResponse
		want int16
	}{
		"nothing expected":   {ask(nil, -1), 0},
		"right":              {ask(mine, 1000), 0},
		"other cluster":      {ask(other, 1000), kerr.RebootstrapRequired.Code},
		"other node":         {ask(mine, 1001), kerr.RebootstrapRequired.Code},
		"cluster without id": {ask(mine, -1), kerr.InvalidRequest.Code},
		"id without cluster": {ask(nil, 1000), kerr.InvalidRequest.Code},
	} {
		if c.got.ErrorCode != c.want || (c.want == 0) != (len(c.got.ApiKeys) > 0) {
			t.Errorf("%s: error %d with %d keys, want %d", name, c.got.ErrorCode, len(c.got.ApiKeys), c.want)
		}
	}
	for _, k := range ask(nil, -1).ApiKeys {
		if k.ApiKey == 0 && (k.MinVersion != 0 || k.MaxVersion != 13) {
			t.Errorf("Produce %d to %d", k.MinVersion, k.MaxVersion)
		}
		if kmsg.NameForKey(k.ApiKey) == "Unknown" || k.ApiKey == 20 {
			t.Errorf("key %d is offered", k.ApiKey)
		}
	}
	// A version of the future, with a body that nobody can read.
	body, err := c.Send(context.Background(), 18, 99, true, []byte{1, 2, 3}).Wait(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := conn.Decode(resp, body); err != nil || resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].MaxVersion != 5 {
		t.Errorf("version 99: %+v, %v", resp, err)
	}
}

func TestProduceByTopicID(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	req := produceRequest("orders", nil)
	req.Version, req.Topics[0].TopicID = 13, w.Topology.TopicID("orders")
	if code, offset := produced(do[*kmsg.ProduceResponse](t, c, req)); code != 0 || offset != gatewaytest.OffsetBase {
		t.Errorf("error %d offset %d", code, offset)
	}
	req.Topics[0].TopicID[3] ^= 1
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, req)); code != kerr.UnknownTopicID.Code {
		t.Errorf("another id: error %d", code)
	}
}

// What bounds a hold first ends it: the failover group's, or what the request itself
// allows (C29).
func TestHoldEnds(t *testing.T) {
	t.Parallel()
	const short = 200 * time.Millisecond
	var w *gatewaytest.World
	var req *kmsg.ProduceRequest
	for name, c := range map[string]struct{ group, request time.Duration }{
		"the group's":   {short, time.Hour},
		"the request's": {time.Hour, short},
	} {
		w = gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
			Group:   func(g *spillway.FailoverGroup) { g.HoldMax = c.group },
			Gateway: func(c *federation.Config) { c.Router.HoldMax = time.Hour }})
		w.Fence("west", failover.Switchover)
		req = produceRequest("orders", nil)
		req.TimeoutMillis = int32(c.request.Milliseconds())
		begin, answer := time.Now(), later(t, raw(t, w.Addrs[0]), req)
		select {
		case code := <-answer:
			if took := time.Since(begin); code != kerr.NotLeaderForPartition.Code || took < short {
				t.Errorf("%s: error %d after %s", name, code, took)
			}
		case <-time.After(soon / 2): // a request may allow twice as long at most
			t.Errorf("%s does not end it", name)
		}
	}
	// Without an answer to give, the connection is closed (C29).
	c := raw(t, w.Addrs[0])
	req.Acks, req.TimeoutMillis = 0, int32(short.Milliseconds())
	if _, err := c.DoVersion(within(t, soon), req); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Closed():
	case <-time.After(soon):
		t.Error("the connection of an acks=0 produce stays open")
	}
}

// A held request whose client went away is dropped: the client has sent it
// again elsewhere by then (C29).
func TestHeldRequestDiesWithItsConnection(t *testing.T) {
	t.Parallel()
	held := make(chan struct{}, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(c *federation.Config) {
			c.Limits.InFlightMax = 2 // so that nobody reads while it holds
			c.Events.Router.Held = func(spillway.ShareID) { held <- struct{}{} }
		}})
	w.Fence("west", failover.Switchover)
	c := raw(t, w.Addrs[0])
	for range 5 {
		req := produceRequest("orders", nil)
		c.Send(context.Background(), 0, req.Version, true, req.AppendTo(nil))
	}
	<-held
	c.Close()
	w.Open(0, 0)
	other := raw(t, w.Addrs[0])
	if code, offset := produced(do[*kmsg.ProduceResponse](t, other, produceRequest("orders", nil))); code != 0 || offset != gatewaytest.OffsetBase {
		t.Errorf("error %d, offset %d: a dropped request was forwarded", code, offset)
	}
}

// lapse has the lease of a gateway end when a test says so.
type lapse struct {
	ahead atomic.Int64 // of the machine's clocks
	lost  chan error
}

func newLapse() *lapse { return &lapse{lost: make(chan error, 10)} }

func (l *lapse) of(c *federation.Config) {
	c.Clock, c.Events.LeaseState = l, func(err error) { l.lost <- err }
}

// Now implements coordination.Clock.
func (l *lapse) Now() coordination.Instant {
	now, ahead := coordination.SystemClock{}.Now(), time.Duration(l.ahead.Load())
	now.Time, now.Boot = now.Time.Add(ahead), now.Boot+ahead
	return now
}

// end takes the store away until the lease has run out, and the gateway has seen it.
func (l *lapse) end(w *gatewaytest.World) {
	w.Store.Fail(func(coordtest.Moment, []coordination.Op) error { return errors.New("the store is away") })
	l.ahead.Add(int64(2 * coordination.LeaseTTL))
	for err := range l.lost {
		if err != nil {
			return
		}
	}
}

// Without the store the lease ends, and then nothing is acknowledged, also if
// the site has taken it meanwhile (C10, C32).
func TestNoAnswerWithoutLease(t *testing.T) {
	t.Parallel()
	lease := newLapse()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: lease.of})
	c := raw(t, w.Addrs[0])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
		t.Fatalf("error %d", code)
	}
	w.Wires["east"].Mute()
	req := produceRequest("orders", nil)
	pending := c.Send(context.Background(), 0, req.Version, true, req.AppendTo(nil))
	lease.end(w)
	w.Wires["east"].Unmute()
	body, err := pending.Wait(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	if err := conn.Decode(resp, body); err != nil {
		t.Fatal(err)
	}
	if code, _ := produced(resp); code != kerr.NotLeaderForPartition.Code {
		t.Errorf("acknowledged without a lease: error %d", code)
	}
	w.Store.Fail(nil)
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
		t.Errorf("after the store came back: error %d", code)
	}
}

// markedWorld is a virtual cluster with ack.sites 2 whose second site says what
// the test puts into the channel.
func markedWorld(t *testing.T, partitions int32, real map[spillway.SiteID]gatewaytest.RealSite) (*gatewaytest.World, chan<- string) {
	t.Helper()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": partitions}, Brokers: 2, Sites: []spillway.SiteID{"east", "west"}, Real: real,
		Group: func(g *spillway.FailoverGroup) { g.Ack = spillway.AckPolicy{Sites: 2, OnShortfall: "block"} }})
	return w, markStream(t, w, "west")
}

// markStream is a mirror that says what the test puts into the channel; to a gateway
// that connects again, all of it. Each second it says that it lives.
func markStream(t *testing.T, w *gatewaytest.World, site spillway.SiteID) chan<- string {
	t.Helper()
	marks := make(chan string, 10)
	var mu sync.Mutex
	var said []string
	mirror := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(rw)
		alive := time.NewTicker(time.Second)
		defer alive.Stop()
		for told := 0; ; {
			mu.Lock()
			for ; told < len(said); told++ {
				fmt.Fprintln(rw, said[told])
			}
			mu.Unlock()
			rc.Flush()
			select {
			case line := <-marks:
				mu.Lock()
				said = append(said, line)
				mu.Unlock()
			case <-alive.C:
				fmt.Fprintf(rw, "{\"site\":%q}\n", site)
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(mirror.Close)
	t.Cleanup(mirror.CloseClientConnections)
	value, _ := json.Marshal(failover.MirrorLease{Site: site, Worker: "w", Marks: mirror.URL})
	if _, err := w.Store.Put(context.Background(), w.Keys.Mirror(site, "w"), value, 0); err != nil {
		t.Fatal(err)
	}
	return marks
}

func markLine(site spillway.SiteID, partition, epoch, end int) string {
	return fmt.Sprintf(`{"site":%q,"topic":"orders","partition":%d,"epoch":%d,"end":%d}`, site, partition, epoch, end)
}

// Acknowledgements wait for the durable mark of the right epoch.
func TestAckSites(t *testing.T) {
	t.Parallel()
	w, marks := markedWorld(t, 1, nil)
	cl := client(t, w)
	acked := make(chan *kgo.Record, 1)
	cl.Produce(context.Background(), &kgo.Record{Topic: "orders", Value: []byte("x")}, func(r *kgo.Record, err error) {
		if err != nil {
			t.Error(err)
		}
		acked <- r
	})
	siteLog(t, w, "east", "orders", 1)
	marks <- markLine("west", 0, 1, gatewaytest.OffsetBase)
	select {
	case <-acked:
		t.Fatal("acknowledged before the mark")
	case <-time.After(100 * time.Millisecond):
	}
	marks <- markLine("west", 0, 1, gatewaytest.OffsetBase+1)
	select {
	case r := <-acked:
		if r.Offset != gatewaytest.OffsetBase {
			t.Errorf("offset %d", r.Offset)
		}
	case <-time.After(soon):
		t.Fatal("not acknowledged after the mark")
	}
	// A mark of another epoch says nothing, and the request's own timeout ends the wait.
	marks <- markLine("west", 0, 2, gatewaytest.OffsetBase+100)
	req := produceRequest("orders", nil)
	req.TimeoutMillis = 200
	if code, _ := produced(do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[0]), req)); code != kerr.RequestTimedOut.Code {
		t.Errorf("error %d", code)
	}
}

// Everything acknowledged lies below the reserved end that is in the store.
func TestReservedEnd(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Group: func(g *spillway.FailoverGroup) { g.ReservedBlock = 10 }})
	cl := client(t, w)
	for range 100 {
		r := &kgo.Record{Topic: "orders", Value: []byte("x")}
		if err := cl.ProduceSync(within(t, soon), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		e, err := w.Store.Get(context.Background(), w.Keys.Reserved(gatewaytest.ShareID))
		if err != nil {
			t.Fatal(err)
		}
		var reserved failover.Reserved
		if err := json.Unmarshal(e.Value, &reserved); err != nil {
			t.Fatal(err)
		}
		end := reserved.Ends.Get(spillway.TopicPartition{Topic: "orders"})
		if reserved.Epoch != 1 || int64(end) <= r.Offset || int64(end) > r.Offset+1+3*10 {
			t.Fatalf("acknowledged %d, reserved %d in epoch %d", r.Offset, end, reserved.Epoch)
		}
	}
}
