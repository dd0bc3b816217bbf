package router

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/session"
)

// marksAt is how far the other site is.
type marksAt spillway.Offset

func (m *marksAt) Mark(Term, spillway.TopicPartition, int) spillway.Offset {
	return spillway.Offset(*m)
}

// Wait is for what does not come.
func (m *marksAt) Wait(ctx context.Context, _ Term, _ spillway.TopicPartition, _ spillway.Offset, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// lagging is a group whose limit is ten records.
func lagging(onLag string) spillway.FailoverGroup {
	return spillway.FailoverGroup{Name: "shop", Topics: []string{"orders"}, Sites: []spillway.SiteID{"east", "west"},
		Ack: spillway.AckPolicy{Sites: 1, OnLag: onLag, LagRecordsMax: 10}}
}

// fill writes up to the limit; no answer is late for more than the request allows.
func (b *bench) fill() {
	b.t.Helper()
	b.open()
	for range 10 {
		if b.send(2 * time.Millisecond); b.answered() != 0 {
			b.t.Fatal("not taken")
		}
	}
}

// What is late because of a lag is answered at once where its reason is gone, and nobody is
// told to wait for what comes next.
func TestALateAnswerIsLetGo(t *testing.T) {
	for name, let := range map[string]func(*bench){
		"the share moves": func(b *bench) {
			b.share.SetRecord(failover.Share{State: failover.Fencing, Epoch: 2, Active: "east", Target: "west", Kind: failover.Switchover, Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		},
		"the gateway stops": func(b *bench) { b.Leave() },
	} {
		t.Run(name, func(t *testing.T) {
			inBenchOf(t, lagging(spillway.OnLagThrottle), func(t *testing.T, b *bench) {
				b.fill()
				began := time.Now()
				b.send(time.Minute)
				time.Sleep(time.Second)
				let(b)
				resp := b.answer()
				if took := time.Since(began); took != time.Second || resp.ThrottleMillis != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
					t.Errorf("answered after %s with error %d and a throttle time of %d ms", took, resp.Topics[0].Partitions[0].ErrorCode, resp.ThrottleMillis)
				}
			})
		})
	}
}

// How late an answer may be counts from when the request came, holds included.
func TestALateAnswerIsNotTooLate(t *testing.T) {
	inBenchOf(t, lagging(spillway.OnLagThrottle), func(t *testing.T, b *bench) {
		b.fill()
		record := b.share.Record()
		b.share.SetRecord(failover.Share{State: failover.Fencing, Epoch: 2, Active: "east", Target: "west", Kind: failover.Switchover, Terms: record.Terms})
		began := time.Now()
		b.send(10 * time.Second)
		time.Sleep(4 * time.Second)
		b.open()
		resp := b.answer()
		if took := time.Since(began); took != 5*time.Second || resp.ThrottleMillis != int32(toldMax.Milliseconds()) {
			t.Errorf("answered after %s, throttle time %d ms", took, resp.ThrottleMillis)
		}
	})
}

// A gateway that has just begun to lead a partition knows nothing of what was written before.
// With onLag block it must not believe that others have it.
func TestWhatIsNotKnownSlowsNobodyDown(t *testing.T) {
	for onLag, late := range map[string]bool{spillway.OnLagThrottle: false, spillway.OnLagBlock: true} {
		t.Run(onLag, func(t *testing.T) {
			inBenchOf(t, lagging(onLag), func(t *testing.T, b *bench) {
				b.taken, b.marks = 1_000_000, -1
				b.open()
				began := time.Now()
				b.send(time.Second)
				b.answer()
				if took := time.Since(began); late != (took > 0) {
					t.Errorf("answered after %s", took)
				}
			})
		})
	}
}

// A topic that is made anew has nothing of what is missing.
func TestALogThatIsShorterIsNoticed(t *testing.T) {
	inBenchOf(t, lagging(spillway.OnLagThrottle), func(t *testing.T, b *bench) {
		b.fill()
		time.Sleep(time.Minute)
		b.taken = 0
		for i := range 2 {
			began := time.Now()
			b.send(time.Minute)
			b.answer()
			if took := time.Since(began); i == 1 && took > 0 {
				t.Errorf("answered after %s", took)
			}
		}
	})
}

// A batch whose acknowledgement waits for another site is in the log: its bytes are not kept.
func TestWhatWaitsForAnotherSiteKeepsNoRecords(t *testing.T) {
	inBenchOf(t, lagging(spillway.OnLagBlock), func(t *testing.T, b *bench) {
		b.open()
		c := b.Connect(b.client)
		req := request(append([]byte{}, oneRecord(t)...), time.Second)
		sreq := session.Request{Body: req.AppendTo(nil)}
		frame := weak.Make(&sreq.Body[0])
		if err := req.ReadFrom(sreq.Body); err != nil {
			t.Fatal(err)
		}
		op, parts := c.newProduce(t.Context(), sreq, req)
		sreq, req = session.Request{}, nil
		p := parts[0]
		p.term, _ = b.share.Serving()
		p.leased = 1
		lane, err := c.lanes.Lane(t.Context(), ProduceLane, "east", 0)
		if err != nil {
			t.Fatal(err)
		}
		b.taken = 100
		resp := b.takes(&kmsg.ProduceRequest{Version: 9}).(*kmsg.ProduceResponse)
		done := make(chan struct{})
		go func() {
			defer close(done)
			op.answered(lane, parts, resp.AppendTo(nil))
		}()
		synctest.Wait()
		runtime.GC()
		if frame.Value() != nil {
			t.Error("the request is kept")
		}
		select {
		case <-done:
			t.Error("it does not wait")
		default:
		}
		b.Leave()
		<-done
		c.Close()
	})
}

// Two groups are in one request. While what one of them promised waits for another site,
// the other may be lost: nothing is acknowledged on the word of before that wait. And what
// is promised in a term that still answers waits for nobody.
func TestPromisesAreLookedAtAfterTheLastWait(t *testing.T) {
	inBenchOf(t, lagging(spillway.OnLagBlock), func(t *testing.T, b *bench) {
		b.open()
		term := Term{Epoch: 1, Base: 1, Site: "east"}
		moving := failover.Share{State: failover.Fencing, Epoch: 2, Active: "east", Target: "west", Kind: failover.Switchover, Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
		blocked := NewShare(spillway.ShareID{Group: "stock"}, b.share.Group)
		blocked.SetRecord(b.share.Record())
		if !blocked.Open(term) {
			t.Fatal("the share does not open")
		}
		promise := func(op *produce, s *Share, end spillway.Offset) *part {
			s.promise()
			p := &part{op: op, share: s, term: term, leased: 1, promised: true, end: end, out: &kmsg.ProduceResponseTopicPartition{}}
			p.header.ProducerID = -1
			op.all = append(op.all, p)
			return p
		}
		op := &produce{client: &Client{router: b.Router}, begun: time.Now(), timeout: 10 * time.Second}
		first, second := promise(op, b.share, 0), promise(op, blocked, 5)
		began := time.Now()
		promise(op, b.share, 5) // not sealed when the answer is written
		b.share.SetRecord(moving)
		op.all = op.all[2:]
		op.keepPromises(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("a term that still answers waited %s for another site", took)
		}

		b.open()
		op.all = []*part{first, second}
		blocked.SetRecord(moving)
		if err := blocked.seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second) // second waits for a mark that does not come
			b.share.SetRecord(moving)
			_ = b.share.seal(t.Context())
		}()
		op.keepPromises(t.Context())
		for i, p := range op.all {
			if p.out.ErrorCode != kerr.NotLeaderForPartition.Code {
				t.Errorf("part %d of a term that is over is answered with error %d", i, p.out.ErrorCode)
			}
		}
	})
}
