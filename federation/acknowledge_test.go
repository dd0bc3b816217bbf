package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// sequenced is two records of one producer, from a sequence on.
func sequenced(sequence int32, timeout time.Duration) *kmsg.ProduceRequest {
	req := produceRequest("orders", func(h *batch.Header) {
		h.ProducerID, h.ProducerEpoch, h.BaseSequence = spillway.ClientProducerID(7), 0, sequence
	})
	req.TimeoutMillis = int32(timeout.Milliseconds())
	return req
}

// later sends a produce and tells how it was answered.
func later(t *testing.T, c *conn.Conn, req *kmsg.ProduceRequest) <-chan int16 {
	answer := make(chan int16, 1)
	pending := c.Send(context.Background(), 0, req.Version, true, req.AppendTo(nil))
	go func() {
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		if body, err := pending.Wait(t.Context()); err != nil {
			t.Error(err)
		} else if err := conn.Decode(resp, body); err != nil {
			t.Error(err)
		}
		code, _ := produced(resp)
		answer <- code
	}()
	return answer
}

// What a client sends again after a move is at the new site already. That site
// may be the only one that has it, so its acknowledgement waits for the durable
// mark like any other: as success, and as "duplicate", which clients take for it.
func TestTheTrailIsAcknowledgedWhenItIsDurable(t *testing.T) {
	t.Parallel()
	w, west := markedWorld(t, 1, nil)
	c := raw(t, w.Addrs[0])
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+4)
	for _, sequence := range []int32{0, 2} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 5*time.Second))); code != 0 {
			t.Fatalf("sequence %d: error %d", sequence, code)
		}
	}
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	east := markStream(t, w, "east")
	whole, other := sequenced(2, 10*time.Second), sequenced(1, 10*time.Second) // as it was written, and with other boundaries
	for _, sequence := range []int32{2, 1} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 300*time.Millisecond))); code != kerr.RequestTimedOut.Code {
			t.Errorf("sequence %d at one site: error %d", sequence, code)
		}
	}
	success, duplicate := later(t, c, whole), later(t, raw(t, w.Addrs[0]), other)
	east <- markLine("east", 0, 2, gatewaytest.OffsetBase+4)
	if code := <-success; code != 0 {
		t.Errorf("at two sites: error %d", code)
	}
	if code := <-duplicate; code != kerr.DuplicateSequenceNumber.Code {
		t.Errorf("with other boundaries at two sites: error %d", code)
	}
}

// A broker that says "duplicate" has the batch, and does not say where. The
// answer waits until all that the broker had then is durable.
func TestADuplicateAtTheSiteIsAcknowledgedWhenItIsDurable(t *testing.T) {
	t.Parallel()
	site, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(site.Close)
	w, marks := markedWorld(t, 1, map[spillway.SiteID]gatewaytest.RealSite{"east": {
		Config: kafka.Config{Bootstrap: site.ListenAddrs(), Capabilities: embedded.Capabilities(false)},
		Dial:   []kgo.Opt{kgo.SeedBrokers(site.ListenAddrs()...)},
	}})
	c := raw(t, w.Addrs[0])
	marks <- markLine("west", 0, 1, gatewaytest.OffsetBase+2)
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(0, 5*time.Second))); code != 0 {
		t.Fatalf("error %d", code)
	}
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(2, 100*time.Millisecond))); code != kerr.RequestTimedOut.Code {
		t.Fatalf("without a mark: error %d", code)
	}
	site.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
		site.KeepControl()
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		rt, rp := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		rt.Topic, rp.BaseOffset, rp.ErrorCode = "orders", -1, kerr.DuplicateSequenceNumber.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(2, 300*time.Millisecond))); code != kerr.RequestTimedOut.Code {
		t.Errorf("at one site: error %d", code)
	}
	marks <- markLine("west", 0, 1, gatewaytest.OffsetBase+4)
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(2, 5*time.Second))); code != kerr.DuplicateSequenceNumber.Code {
		t.Errorf("at two sites: error %d", code)
	}
}

// While the reserved ends cannot be raised, nothing at or above them is
// acknowledged or handed out, what lies below is read as ever, and a produce
// that waits is acknowledged when the store is back.
func TestNothingPassesTheReservedEnd(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Group: func(g *spillway.FailoverGroup) { g.ReservedBlock = 10 }})
	c := raw(t, w.Addrs[0])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(0, 5*time.Second))); code != 0 {
		t.Fatalf("error %d", code)
	}
	var reserved failover.Reserved
	e, err := w.Store.Get(t.Context(), w.Keys.Reserved(gatewaytest.ShareID))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(e.Value, &reserved); err != nil {
		t.Fatal(err)
	}
	end := int64(reserved.Ends.Get(spillway.TopicPartition{Topic: "orders"}))
	var tries atomic.Int64
	w.Store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeWrite && ops[0].Key == w.Keys.Reserved(gatewaytest.ShareID) {
			tries.Add(1)
			return errors.New("no raise today")
		}
		return nil
	})
	sequence := int32(2)
	for ; gatewaytest.OffsetBase+int64(sequence)+2 <= end; sequence += 2 {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 5*time.Second))); code != 0 {
			t.Fatalf("below the reserved end: error %d", code)
		}
	}
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 5*time.Second))); code != kerr.NotLeaderForPartition.Code {
		t.Errorf("acknowledged above the reserved end: error %d", code)
	}
	reader := client(t, w, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().At(gatewaytest.OffsetBase)}}))
	for next := int64(gatewaytest.OffsetBase); next < end-1; {
		fs := reader.PollFetches(within(t, soon))
		if fs.Err() != nil {
			t.Fatalf("%d below the reserved end: %v", next, fs.Err())
		}
		for _, r := range fs.Records() {
			if next = r.Offset + 1; r.Offset >= end {
				t.Errorf("%d was handed out, reserved is %d", r.Offset, end)
			}
		}
	}
	waiting := later(t, c, sequenced(sequence, 8*time.Second)) // the client sends it again
	before := tries.Load()
	gatewaytest.Eventually(t, "it waits for a raise", func() bool { return tries.Load() > before })
	w.Store.Fail(nil)
	if code := <-waiting; code != 0 {
		t.Errorf("the store is back: error %d", code)
	}
}
