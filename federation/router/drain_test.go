package router

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/broker/wire"
	"spillway/federation/failover"
)

// A produce that lost its connection to the site that was lost does not make the end of the
// log of the next one doubtful: a move home within a minute would be held for it.
func TestUnsureIsOfTheSiteThatIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShare(spillway.ShareID{Group: "shop"}, spillway.FailoverGroup{})
		terms := []failover.Term{{Epoch: 1, Site: "east"}}
		serve := func(epoch spillway.Epoch, site spillway.SiteID) Term {
			if epoch > 1 {
				terms = append(terms, failover.Term{Epoch: epoch, Site: site})
			}
			s.SetRecord(failover.Share{State: failover.Stable, Epoch: epoch, Active: site, Terms: terms})
			term := Term{Epoch: epoch, Base: epoch, Site: site}
			if !s.Open(term) {
				t.Fatalf("the share does not open in epoch %d", epoch)
			}
			return term
		}
		drain := func(next spillway.Epoch, want bool) {
			t.Helper()
			r := s.Record()
			r.State, r.Epoch = failover.Fencing, next
			s.SetRecord(r)
			if unsure, err := s.Drain(t.Context(), time.Second); err != nil || unsure != want {
				t.Errorf("drained for epoch %d: unsure %t, %v; want %t", next, unsure, err, want)
			}
		}
		east := &Lane{Kind: ProduceLane, Site: "east"}
		if !s.enter(serve(1, "east"), east) {
			t.Fatal("a produce does not enter")
		}
		s.leave(east, true, false)
		drain(2, true)

		serve(2, "west")
		time.Sleep(unsureMemory / 4)
		drain(3, false)

		serve(3, "east") // and what is on its way to it may still come
		drain(4, true)

		serve(4, "east")
		time.Sleep(unsureMemory)
		drain(5, false)
	})
}

// muteLane is a connection to a broker that answers nothing once it has greeted.
func muteLane(t *testing.T) *Lane {
	t.Helper()
	c, err := conn.Open(t.Context(), conn.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			frame, err := wire.ReadFrame(far, nil, 1<<10)
			if err != nil {
				return
			}
			h, _, _ := wire.ParseRequest(frame)
			resp := kmsg.NewPtrApiVersionsResponse()
			resp.Version, resp.ApiKeys = h.Version, []kmsg.ApiVersionsResponseApiKey{{ApiKey: 18, MaxVersion: 3}}
			_ = write(far, wire.AppendResponseHeader(make([]byte, 4), h.Key, h.Version, h.CorrelationID), resp.AppendTo(nil))
			_, _ = io.Copy(io.Discard, far)
		}()
		return near, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &Lane{Kind: ProduceLane, Site: "east", conn: c}
}

// Many producers without acknowledgements at a broker that hangs: a move waits for their
// barriers as long as for one.
func TestBarriersOfADrainAreAwaitedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShare(spillway.ShareID{Group: "shop"}, spillway.FailoverGroup{})
		record := failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
		s.SetRecord(record)
		term := Term{Epoch: 1, Base: 1, Site: "east"}
		if !s.Open(term) {
			t.Fatal("the share does not open")
		}
		for range 50 {
			l := muteLane(t)
			if !s.enter(term, l) {
				t.Fatal("a produce does not enter")
			}
			s.leave(l, false, true)
		}
		record.State, record.Epoch = failover.Fencing, 2
		s.SetRecord(record)
		began := time.Now()
		unsure, err := s.Drain(t.Context(), 2*time.Second)
		if took := time.Since(began); err != nil || !unsure || took > 2*time.Second {
			t.Errorf("drained after %s, unsure %t, %v", took, unsure, err)
		}
	})
}

// A connection that failed and is replaced is not remembered, whatever it left unanswered:
// a client could have any number of them closed.
func TestReplacedConnectionsAreForgotten(t *testing.T) {
	inBench(t, func(t *testing.T, b *bench) {
		b.open()
		c, end := b.connect()
		defer end()
		for i := range 3 {
			l, err := c.lanes.Lane(t.Context(), ProduceLane, "east", 0)
			if err != nil {
				t.Fatal(err)
			}
			term, _ := b.share.Serving()
			if !b.share.enter(term, l) {
				t.Fatal("a produce does not enter")
			}
			b.share.leave(l, false, true)
			if silent := len(b.share.mu.silent); silent != 1 {
				t.Errorf("round %d: %d connections are remembered", i, silent)
			}
			l.conn.Close()
		}
	})
}
