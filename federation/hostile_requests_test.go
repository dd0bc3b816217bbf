package federation_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/gatewaytest"
	"spillway/federation/session"
)

// Hostile requests that are well-formed; the numbers are rows of the list of hostile
// input (reliability 3.2).

// Rows 12, 55 to 58: what is not on the list of served APIs never passes.
func TestWhatIsNotServedClosesTheConnection(t *testing.T) {
	reasons := make(chan session.Reason, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { reasons <- r }
	}})
	probe := raw(t, w.Addrs[0])
	for key := range int16(kmsg.MaxKey + 2) {
		switch {
		case probe.MaxVersion(key) >= 0:
			continue
		case key == 68 || key == 69: // where every site has them
			continue
		case key == authentication.KeySaslHandshake || key == authentication.KeySaslAuthenticate: // told that nobody asked (login_test.go)
			continue
		}
		var body []byte
		if req := kmsg.RequestForKey(key); req != nil {
			body = request(req, req.AppendTo(nil))
		} else {
			body = frame(binary.BigEndian.AppendUint16(nil, uint16(key)))
		}
		c := dial(t, w)
		deadline(t, c, soon)
		_, _ = c.Write(body)
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("key %d is answered", key)
		}
		if got := came(t, reasons); got != session.ReasonUnknownAPI && got != session.ReasonHeader && got != "frame-short" {
			t.Errorf("key %d: closed for %q", key, got)
		}
	}
}

// came is what is said next.
func came[T any](t *testing.T, said <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-said:
	case <-time.After(soon):
		t.Fatal("nothing is said")
	}
	return v
}

func dial(t *testing.T, w *gatewaytest.World) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Row 4: a frame of exactly the bound is served.
func TestTheLargestFrameIsServed(t *testing.T) {
	t.Parallel()
	const bound = 1 << 20
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) { c.Limits.FrameBytesMax = bound }})
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version, req.ClientSoftwareVersion = 3, "1"
	short := len(request(req, req.AppendTo(nil))) - 4
	req.ClientSoftwareName = strings.Repeat("x", bound-short-2) // its length takes two bytes more
	whole := request(req, req.AppendTo(nil))
	if len(whole)-4 != bound {
		t.Fatalf("%d bytes", len(whole)-4)
	}
	c := dial(t, w)
	deadline(t, c, soon)
	if _, err := c.Write(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadFrame(c, nil, 1<<20); err != nil {
		t.Fatal(err)
	}
}

// Row 15 and 50: requests in one piece are answered one by one, in their order,
// whatever ids the client gives them.
func TestManyRequestsInOnePiece(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{})
	c := dial(t, w)
	deadline(t, c, soon)
	ids := []int32{7, 7, -1, math.MaxInt32, math.MinInt32}
	var all []byte
	for n := range 1000 {
		head := wire.AppendRequestHeader(nil, 18, 0, ids[n%len(ids)], "hostile")
		all = append(all, frame(head)...)
	}
	go func() { _, _ = c.Write(all) }() // the answers have to be read meanwhile
	for n := range 1000 {
		answer, err := wire.ReadFrame(c, nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if id := int32(binary.BigEndian.Uint32(answer)); id != ids[n%len(ids)] {
			t.Fatalf("answer %d is to %d", n, id)
		}
	}
}

// Rows 32 to 34: names and ids that are not of this virtual cluster say nothing about
// what exists, and asking creates nothing.
func TestNamesThatAreNotServed(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	names := []string{"", ".", "..", "a/b", "a\x00b", "orders\n", "о" + "rders", strings.Repeat("x", 250), "__consumer_offsets", "__transaction_state", "__spillway_map", "made-by-asking"}
	for _, name := range names {
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.AllowAutoTopicCreation = 12, true
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: &name}}
		got := do[*kmsg.MetadataResponse](t, c, req).Topics
		if len(got) != 1 || got[0].ErrorCode != kerr.UnknownTopicOrPartition.Code || len(got[0].Partitions) > 0 || got[0].TopicID != [16]byte{} {
			t.Errorf("%q: %+v", name, got)
		}
	}
	md, err := w.Direct["east"].Metadata(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	if _, exists := md.Topics["made-by-asking"]; exists {
		t.Error("a topic was created by asking")
	}
	for name, id := range map[string][16]byte{"zero": {}, "random": {1, 2, 3}, "the site's own": md.Topics["orders"].ID, "of another virtual cluster": w.Topology.TopicID("others")} {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 12
		req.Topics = []kmsg.MetadataRequestTopic{{TopicID: id}}
		if got := do[*kmsg.MetadataResponse](t, c, req).Topics; len(got) != 1 || got[0].ErrorCode != kerr.UnknownTopicID.Code {
			t.Errorf("metadata by the %s id: %+v", name, got)
		}
		fetch := kmsg.NewPtrFetchRequest()
		fetch.Version, fetch.SessionEpoch = 13, -1
		fetch.Topics = []kmsg.FetchRequestTopic{{TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{kmsg.NewFetchRequestTopicPartition()}}}
		if got := do[*kmsg.FetchResponse](t, c, fetch).Topics[0].Partitions[0]; got.ErrorCode != kerr.UnknownTopicID.Code {
			t.Errorf("fetch by the %s id: error %d", name, got.ErrorCode)
		}
	}
}

// Row 35: requests without an answer leave nothing behind.
func TestAFloodWithoutAnswersLeavesNothing(t *testing.T) {
	held := make(chan int64, 100_000)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.Events.Session.BytesHeld = func(more int64) { held <- more }
	}})
	c := dial(t, w)
	req := produceRequest("orders", nil)
	req.Acks = 0
	one := request(req, req.AppendTo(nil))
	for range 20 {
		if _, err := c.Write(bytes.Repeat(one, 100)); err != nil {
			t.Fatal(err)
		}
	}
	last := kmsg.NewPtrMetadataRequest()
	last.Version = 1
	deadline(t, c, soon)
	if _, err := c.Write(request(last, last.AppendTo(nil))); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadFrame(c, nil, 1<<20); err != nil {
		t.Fatal(err)
	}
	c.Close()
	var sum int64
	gatewaytest.Eventually(t, "nothing is held any more", func() bool {
		for len(held) > 0 {
			sum += <-held
		}
		return sum == 0
	})
	if n := len(siteLog(t, w, "east", "orders", 4000)); n != 4000 {
		t.Errorf("%d records", n)
	}
}

// Rows 36, 46 to 48 and 53: numbers far out are bounded, or the broker's to refuse.
func TestNumbersFarOut(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	for _, timeout := range []int32{-1, 0, math.MinInt32, math.MaxInt32} {
		req := produceRequest("orders", nil)
		req.TimeoutMillis = timeout
		code, _ := produced(do[*kmsg.ProduceResponse](t, c, req))
		if code != 0 && (timeout == math.MaxInt32 || !kerr.IsRetriable(kerr.ErrorForCode(code))) { // short ones may run out
			t.Errorf("timeout %d: error %d", timeout, code)
		}
	}
	for _, acks := range []int16{2, -2, math.MaxInt16, math.MinInt16} {
		req := produceRequest("orders", nil)
		req.Acks = acks
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, req)); code != kerr.InvalidRequiredAcks.Code {
			t.Errorf("acks %d: error %d", acks, code)
		}
	}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.ReplicaID, fetch.SessionEpoch = 12, 5, -1 // row 46: nobody's replica
	fetch.MinBytes, fetch.MaxBytes, fetch.MaxWaitMillis = 1, math.MaxInt32, math.MaxInt32
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = gatewaytest.OffsetBase, math.MaxInt32
	fetch.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	if err := client(t, w).ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := do[*kmsg.FetchResponse](t, c, fetch).Topics[0].Partitions[0]; got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
		t.Errorf("fetch of everything: error %d", got.ErrorCode)
	}
	// Row 48: sessions are not kept, so none is anybody's.
	fetch.SessionID, fetch.SessionEpoch = 77, 1
	if got := do[*kmsg.FetchResponse](t, c, fetch); got.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("a session of another: error %d", got.ErrorCode)
	}
	for _, offset := range []int64{math.MinInt64, -1, math.MaxInt64} {
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group, commit.Generation = 8, "g", -1
		cp := kmsg.NewOffsetCommitRequestTopicPartition()
		cp.Offset, cp.Metadata = offset, kmsg.StringPtr(strings.Repeat("m", 1<<20))
		commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{cp}}}
		if code := do[*kmsg.OffsetCommitResponse](t, c, commit).Topics[0].Partitions[0].ErrorCode; code != kerr.OffsetMetadataTooLarge.Code {
			t.Errorf("commit with large metadata: error %d", code)
		}
		commit.Topics[0].Partitions[0].Metadata = nil
		// The coordinator's to judge, and this one takes all.
		if code := do[*kmsg.OffsetCommitResponse](t, c, commit).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Errorf("commit of %d: error %d", offset, code)
		}
	}
}

// A client that wants no bytes gets its answer at once, and does not have the site asked
// over and over until its time is up.
func TestAFetchThatWantsNothingIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.SessionEpoch, fetch.MinBytes, fetch.MaxBytes, fetch.MaxWaitMillis = 12, -1, 0, 1<<20, 3000
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = gatewaytest.OffsetBase, 1<<20
	fetch.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	before := w.Wires["east"].Sent(fetch.Key())
	do[*kmsg.FetchResponse](t, c, fetch)
	if n := w.Wires["east"].Sent(fetch.Key()) - before; n > 2 {
		t.Errorf("the site was asked %d times", n)
	}
}

// Row 51: connections that end in the middle of anything leave nothing behind.
func TestConnectionsThatEndAnywhere(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	req := produceRequest("orders", nil)
	whole := request(req, req.AppendTo(nil))
	raw(t, w.Addrs[0])
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	for n := range 3 * len(whole) {
		c, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(whole[:n/3])
		switch n % 3 {
		case 0: // reset
			_ = c.(*net.TCPConn).SetLinger(0)
		case 1: // half-closed, and then more
			_ = c.(*net.TCPConn).CloseWrite()
		}
		c.Close()
	}
	gatewaytest.Eventually(t, "goroutines fall back", func() bool { return runtime.NumGoroutine() <= goroutines })
	if err := client(t, w).ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Who has sent little of a first request may cost 64 KiB.
func TestWhoHasSentLittleCostsLittle(t *testing.T) {
	const connections, bytesMax = 400, 64 << 10
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.Limits.GreetMax, c.BudgetBytesMax = 30*time.Second, 1<<40
	}})
	memory := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	before := memory()
	for range connections { // each claims much, and sends little
		_, _ = dial(t, w).Write([]byte{0, 0xff, 0, 0, 0})
	}
	gatewaytest.Eventually(t, "all are accepted", func() bool { return runtime.NumGoroutine() > 3*connections })
	if cost := (memory() - before) / connections; cost > bytesMax {
		t.Errorf("a connection costs %d bytes", cost)
	}
}

// Who goes on like that is closed, and who is silent is not.
func TestAFirstRequestHasItsTime(t *testing.T) {
	ended := make(chan session.Reason, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.Limits.GreetMax = 100 * time.Millisecond
		c.Events.Session.ConnectionClosed = func(r session.Reason) { ended <- r }
	}})
	silent := dial(t, w)
	_, _ = dial(t, w).Write([]byte{0, 0xff, 0, 0, 0})
	if r := came(t, ended); r != session.ReasonNoGreeting {
		t.Errorf("closed for %q", r)
	}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 1
	deadline(t, silent, soon)
	if _, err := silent.Write(request(metadata, metadata.AppendTo(nil))); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadFrame(silent, nil, 1<<20); err != nil {
		t.Errorf("who was silent is not served: %v", err)
	}
}

// Rows 9 and 63: who does not speak TLS on a TLS port is told so by TLS, and has
// nothing else of it.
func TestStrangersOnATLSPort(t *testing.T) {
	t.Parallel()
	refused := make(chan string, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, fmt.Errorf("no certificate for this test")
		}}
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 1
	for name, sent := range map[string][]byte{"kafka": request(metadata, metadata.AppendTo(nil)), "zeros": make([]byte, 100), "empty records": bytes.Repeat([]byte{22, 3, 1, 0, 0}, 100)} {
		c := dial(t, w)
		deadline(t, c, soon)
		_, _ = c.Write(sent)
		if reason := came(t, refused); reason != "tls" {
			t.Errorf("%s: refused for %q", name, reason)
		}
		answer := make([]byte, 100)
		if n, _ := c.Read(answer); n > 0 && answer[0] != 21 {
			t.Errorf("%s: answered %x, want an alert", name, answer[:n])
		}
	}
}
