package federation_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/broker/wire"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/session"
)

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func request(req kmsg.Request, body []byte) []byte {
	return frame(append(wire.AppendRequestHeader(nil, req.Key(), req.GetVersion(), 7, "hostile"), body...))
}

// TestHostileBytes sends what no client sends. Each connection ends with its
// reason, nothing else happens, and a well-behaved client notices nothing.
func TestHostileBytes(t *testing.T) {
	produce := kmsg.NewPtrProduceRequest()
	produce.Version = 9
	produce.Acks = 1
	pt, pp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	pt.Topic, pp.Records = "orders", bytes.Repeat([]byte{7}, 100)
	pt.Partitions = append(pt.Partitions, pp)
	produce.Topics = append(produce.Topics, pt)
	body := produce.AppendTo(nil)
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	groups := kmsg.NewPtrDescribeGroupsRequest()
	groups.Version = 5
	noise := make([]byte, 1<<20)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(noise)
	binary.BigEndian.PutUint32(noise, 0x7f000000)

	cases := []struct {
		name   string
		bytes  []byte
		reason session.Reason
	}{
		// The numbers are rows of the list of hostile input (reliability 3.2). Rows
		// that are about what a sound request says are in hostile_requests_test.go, about
		// logins (14 to 22) in login_test.go,
		// those about bodies and frames alone in broker/wire, about brokers in broker/conn.
		{"2: the smallest length", []byte{0x80, 0, 0, 0, 0, 0, 0, 1}, "frame-negative"},
		{"3: length 0", []byte{0, 0, 0, 0}, "frame-short"},
		{"3: length 7", append([]byte{0, 0, 0, 7}, make([]byte, 7)...), session.ReasonHeader},
		{"4: one byte over the bound", append([]byte{0, 16, 0, 1}, make([]byte, 1<<10)...), "frame-too-large"},
		{"10: PROXY version 1", []byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), "frame-proxy"},
		{"10: PROXY version 2", []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"), "frame-proxy"},
		{"11: zeros", make([]byte, 1<<20), "frame-short"},
		{"17: a token of 2^31-1 bytes", []byte{0x7f, 0xff, 0xff, 0xff, 0, 'u', 0, 'p'}, "frame-too-large"},
		{"23: client id of length -2", frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xfe}), session.ReasonHeader},
		{"26: 65 tagged fields", frame(append([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 65}, make([]byte, 130)...)), session.ReasonHeader},
		{"27: a varint of six bytes", frame([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0}), session.ReasonHeader},
		{"28: as many groups as bytes", request(groups, append([]byte{0x80, 0x80, 0x10}, make([]byte, 1<<18)...)), session.ReasonMalformed},
		{"29: null where there is none", request(&kmsg.DescribeGroupsRequest{Version: 1}, []byte{0xff, 0xff, 0xff, 0xff}), session.ReasonMalformed},
		{"31: a compact string that is null", request(groups, []byte{2, 0, 0, 0}), session.ReasonMalformed},
		{"54: a coordinator for a million keys", request(&kmsg.FindCoordinatorRequest{Version: 4}, append(append([]byte{0, 0xc1, 0x84, 0x3d}, bytes.Repeat([]byte{1}, 1_000_000)...), 0)), session.ReasonMalformed},
		{"negative length", []byte{0x80, 0, 0, 0}, "frame-negative"},
		{"short frame", []byte{0, 0, 0, 1, 9}, "frame-short"},
		{"oversized frame", []byte{0x7f, 0xff, 0xff, 0xff}, "frame-too-large"},
		{"random bytes", noise, "frame-too-large"},
		{"http", []byte("GET / HTTP/1.1\r\n\r\n"), "frame-http"},
		{"tls", []byte{0x16, 3, 1, 2, 0, 1}, "frame-tls"},
		{"ssh", []byte("SSH-2.0-OpenSSH_9\r\n"), "frame-ssh"},
		{"frame cut off", request(metadata, metadata.AppendTo(nil))[:10], session.ReasonTruncated},
		{"unknown key", frame([]byte{0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff}), session.ReasonHeader},
		{"negative key", frame([]byte{0xff, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff}), session.ReasonHeader},
		{"key between brokers", request(&kmsg.LeaderAndISRRequest{Version: 1}, nil), session.ReasonUnknownAPI},
		{"key of administrators", request(&kmsg.AlterUserSCRAMCredentialsRequest{}, nil), session.ReasonUnknownAPI},
		{"version not served", request(&kmsg.ProduceRequest{Version: 2}, nil), session.ReasonVersion},
		{"version unheard of", frame([]byte{0, 3, 0x7f, 0xff, 0, 0, 0, 1, 0xff, 0xff, 0}), session.ReasonVersion},
		{"header with four billion tags", frame([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f}), session.ReasonHeader},
		{"client id longer than the frame", frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff}), session.ReasonHeader},
		{"body cut off", request(produce, body[:len(body)/2]), session.ReasonMalformed},
		{"array of two billion topics", request(&kmsg.MetadataRequest{Version: 1}, []byte{0x7f, 0xff, 0xff, 0xff}), session.ReasonMalformed},
		{"array of length -2", request(&kmsg.MetadataRequest{Version: 1}, []byte{0xff, 0xff, 0xff, 0xfe}), session.ReasonMalformed},
	}

	reasons := make(chan session.Reason, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { reasons <- r }
		c.Limits.FrameBytesMax = 1 << 20
	}})
	canary := client(t, w)
	must := func(what string) {
		t.Helper()
		if err := canary.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatalf("after %s a good client fails: %v", what, err)
		}
	}
	must("the start")
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.Addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			deadline(t, conn, soon)
			_, _ = conn.Write(c.bytes) // the gateway may close before the end
			if c.reason == session.ReasonTruncated {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("it was answered: %x", answer)
			}
			select {
			case got := <-reasons:
				if got != c.reason {
					t.Errorf("closed for %q, want %q", got, c.reason)
				}
			case <-time.After(soon):
				t.Fatal("the connection stays open")
			}
			must(c.name)
		})
	}
	gatewaytest.Eventually(t, fmt.Sprintf("goroutines fall back to %d", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines })
}

// Rows 5 and 6: what has begun has to go on.
func TestFramesThatStop(t *testing.T) {
	reasons := make(chan session.Reason, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { reasons <- r }
		c.Limits.FrameMax = 500 * time.Millisecond
	}})
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	for name, sent := range map[string][]byte{
		"three bytes of a length": {0, 0, 1},
		"half a body":             request(metadata, metadata.AppendTo(nil))[:20],
	} {
		c := dial(t, w)
		deadline(t, c, soon)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if answer, _ := io.ReadAll(c); len(answer) > 0 {
			t.Errorf("%s: it was answered: %x", name, answer)
		}
		if got := came(t, reasons); got != session.ReasonSlowFrame {
			t.Errorf("%s: closed for %q", name, got)
		}
	}
}

// A client that pipelines and never reads is held back, not buffered for.
func TestClientThatNeverReads(t *testing.T) {
	reasons := make(chan session.Reason, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 64}, Gateway: func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { reasons <- r }
		c.Limits.WriteMax = 500 * time.Millisecond
	}})
	conn, err := net.Dial("tcp", w.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	one := request(req, req.AppendTo(nil))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := conn.Write(bytes.Repeat(one, 1000)); err != nil {
				return
			}
		}
	})
	select {
	case got := <-reasons:
		if got != session.ReasonSlowReader {
			t.Errorf("closed for %q", got)
		}
	case <-time.After(soon):
		t.Fatal("the connection stays open")
	}
	conn.Close()
	wg.Wait()
}

// TestDamagedRequests sends requests of all APIs with some bytes changed, many
// times. Whatever they come to mean, the gateway lives, forgets the
// connections, and serves others.
func TestDamagedRequests(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	random := rand.New(rand.NewPCG(1, 2))
	var whole [][]byte
	for key := range int16(100) {
		req := kmsg.RequestForKey(key)
		if req == nil || c.MaxVersion(key) < 0 {
			continue
		}
		lowest, highest, _ := c.Versions(key)
		for v := lowest; v <= highest; v++ {
			req := kmsg.RequestForKey(key)
			if p, ok := req.(*kmsg.ProduceRequest); ok {
				*p = *produceRequest("orders", nil)
				p.TimeoutMillis = 10
			}
			req.SetVersion(v)
			whole = append(whole, request(req, req.AppendTo(nil)))
		}
	}
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	for range 1500 {
		conn, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(whole[random.IntN(len(whole))])
		for range 1 + random.IntN(4) {
			b[12+random.IntN(len(b)-12)] = byte(random.Uint32())
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		deadline(t, conn, 100*time.Millisecond)
		_, _ = conn.Write(b)
		if random.IntN(4) == 0 {
			_, _ = io.ReadFull(conn, make([]byte, 4))
		}
		conn.Close()
	}
	if err := client(t, w).ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatalf("a good client fails: %v", err)
	}
	gatewaytest.Eventually(t, "goroutines fall back", func() bool { return runtime.NumGoroutine() <= goroutines+20 })
}

func deadline(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
}

// What a client names is not remembered: neither topics that do not exist, nor
// its own name, however long they are.
func TestNamesAreNotRemembered(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for n := range 40 {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.SessionEpoch = 12, -1
		for i := range 100 {
			rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
			rt.Topic = fmt.Sprintf("%030000d", n*100+i)
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
		}
		for _, topic := range do[*kmsg.FetchResponse](t, c, req).Topics {
			if code := topic.Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
				t.Fatalf("error %d", code)
			}
		}
	}
	for range 6 {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, strings.Repeat("x", 10<<20), "1"
		do[*kmsg.ApiVersionsResponse](t, raw(t, w.Addrs[0]), req)
	}
	if more := heap() - before; more > 20<<20 {
		t.Errorf("%d MiB are remembered", more>>20)
	}
}

// A request with very many entries is refused, not served slowly.
func TestTooManyEntries(t *testing.T) {
	reasons := make(chan session.Reason, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { reasons <- r }
	}})
	for name, req := range map[string]kmsg.Request{
		"produce": &kmsg.ProduceRequest{Version: 9, Acks: 1, Topics: []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: make([]kmsg.ProduceRequestTopicPartition, 10_001)}}},
		"fetch":   &kmsg.FetchRequest{Version: 12, Topics: []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: make([]kmsg.FetchRequestTopicPartition, 10_001)}}},
		"commit":  &kmsg.OffsetCommitRequest{Version: 9, Group: "g", Topics: []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: make([]kmsg.OffsetCommitRequestTopicPartition, 10_001)}}},
		"groups":  &kmsg.DescribeGroupsRequest{Version: 5, Groups: slices.Repeat([]string{"a group of this name"}, 10_001)},
		"topics":  &kmsg.MetadataRequest{Version: 12, Topics: make([]kmsg.MetadataRequestTopic, 10_001)},
	} {
		c := raw(t, w.Addrs[0])
		if _, err := c.Send(t.Context(), req.Key(), req.GetVersion(), true, req.AppendTo(nil)).Wait(within(t, soon)); err == nil {
			t.Errorf("%s: it was answered", name)
		}
		if got := <-reasons; got != session.ReasonTooMany {
			t.Errorf("%s: closed for %q", name, got)
		}
	}
}

// A request that names the same thing over and over gets one answer about it: the answer
// would be thousands of times as large as the request.
func TestWhatIsNamedAgainIsAnsweredOnce(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 20}})
	orders := kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr("orders")}
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = "readers"
	describe := kmsg.NewPtrMetadataRequest()
	describe.Version, describe.Topics = 12, slices.Repeat([]kmsg.MetadataRequestTopic{orders}, 5000)
	groups := kmsg.NewPtrDescribeGroupsRequest()
	groups.Version, groups.Groups = 5, slices.Repeat([]string{"readers"}, 5000)
	positions := kmsg.NewPtrOffsetFetchRequest()
	positions.Version, positions.Groups = 8, slices.Repeat([]kmsg.OffsetFetchRequestGroup{group}, 5000)
	c := raw(t, w.Addrs[0])
	for _, req := range []kmsg.Request{describe, groups, positions} {
		resp, err := c.DoVersion(within(t, soon), req)
		if err != nil {
			t.Fatalf("%T: %v", req, err)
		}
		answers := 0
		switch resp := resp.(type) {
		case *kmsg.MetadataResponse:
			answers = len(resp.Topics)
		case *kmsg.DescribeGroupsResponse:
			answers = len(resp.Groups)
		case *kmsg.OffsetFetchResponse:
			answers = len(resp.Groups)
		}
		if answers != 1 {
			t.Errorf("%T: %d answers about one thing", req, answers)
		}
	}
}

// A producer that leaves gaps everywhere makes only so many of its batches wait.
func TestWaitingBatchesAreBounded(t *testing.T) {
	const partitions, requests = 20, 60
	refused := atomic.Int64{}
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": partitions}, Sites: []spillway.SiteID{"east", "west"}, Gateway: func(c *federation.Config) {
		c.Events.Router.Refused = func(reason string) {
			if reason == "too-many-waiting" || reason == "behind-refused" { // of its partition
				refused.Add(1)
			}
		}
	}})
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	c := raw(t, w.Addrs[0])
	var pending []*conn.Pending
	for n := range int32(requests) {
		req := sequenced(100+10*n, 2*time.Second)
		one := req.Topics[0].Partitions[0]
		req.Topics[0].Partitions = nil
		for p := range int32(partitions) {
			one.Partition = p
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, one)
		}
		pending = append(pending, c.Send(t.Context(), 0, req.Version, true, req.AppendTo(nil)))
	}
	for _, p := range pending {
		if _, err := p.Wait(within(t, soon)); err != nil {
			t.Fatal(err)
		}
	}
	if n := refused.Load(); n < partitions*requests-1000 || n > partitions*requests/2 {
		t.Errorf("%d of %d batches were sent back at once", n, partitions*requests)
	}
}

// One address takes no more than its part of the connections. Others go on.
func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	refused := make(chan string, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.ConnectionsMax, c.ConnectionsPerAddressMax = 10, 2
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	// from opens a connection from an address; nil if it is not served.
	from := func(address string) *conn.Conn {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		c, err := conn.Open(within(t, soon), conn.Config{Address: w.Addrs[0], Node: -1, Dial: dialer.DialContext})
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := from("127.0.0.2"), from("127.0.0.2")
	if first == nil || second == nil {
		t.Fatal("two connections of one address are not served")
	}
	if from("127.0.0.2") != nil {
		t.Fatal("a third connection of one address is served")
	}
	if reason := <-refused; reason != "too-many-of-address" {
		t.Errorf("refused for %q", reason)
	}
	if from("127.0.0.3") == nil {
		t.Error("another address is not served")
	}
	first.Close()
	gatewaytest.Eventually(t, "the address has room again", func() bool { return from("127.0.0.2") != nil })
}
