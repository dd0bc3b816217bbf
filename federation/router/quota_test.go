package router

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/wire"
	"spillway/federation/authentication"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/federation/quota"
	"spillway/federation/session"
)

// An answer that has a throttle time has it at the front, or is known to tell it itself: an
// API whose answers have it elsewhere would tell its clients nothing.
func TestThrottleTimesAreFound(t *testing.T) {
	mark := []byte{0x1b, 0xad, 0xca, 0xfe}
	found := 0
	for _, a := range apis {
		for v := a.min; v <= a.max; v++ {
			resp := kmsg.ResponseForKey(a.key)
			asks, ok := resp.(kmsg.SetThrottleResponse)
			if !ok {
				continue
			}
			resp.SetVersion(v)
			asks.SetThrottle(0x1badcafe)
			at := bytes.Index(resp.AppendTo(nil), mark)
			if own := a.key == produceAPI.key || a.key == apiVersionsAPI.key; at >= 0 && !own != throttleFirst[throttleKey{a.key, v}] {
				t.Errorf("%s version %d has its throttle time at byte %d", kmsg.NameForKey(a.key), v, at)
			}
			if at == 0 {
				found++
			}
		}
	}
	if found < 50 {
		t.Errorf("%d versions of APIs can tell", found)
	}
}

// ledgerOf gives each principal one rate.
func ledgerOf(kind quota.Kind, rate int64, burst time.Duration) *quota.Ledger[authentication.Principal] {
	return quota.NewLedger(func(authentication.Principal) quota.Terms {
		var t quota.Terms
		t.Rates[kind] = rate
		return t
	}, burst)
}

// inPoorBench is a bench whose one principal owes more than the longest pause with each batch.
func inPoorBench(t *testing.T, run func(*testing.T, *bench, *Client)) {
	t.Helper()
	inBenchWith(t, spillway.FailoverGroup{Name: "shop", Topics: []string{"orders"}}, ledgerOf(quota.Produce, 1, time.Second), func(t *testing.T, b *bench, c *Client) {
		b.open()
		time.Sleep(b.config.SteadyAfter)
		run(t, b, c)
	})
}

// takesAs writes a batch, and judges how long its answer takes and what it tells.
func (b *bench) takesAs(when string, took, told time.Duration) {
	b.t.Helper()
	began := time.Now()
	b.send(time.Minute)
	r := b.answer()
	if code := r.Topics[0].Partitions[0].ErrorCode; code != 0 {
		b.t.Errorf("%s: error %d", when, code)
	}
	if got := time.Since(began); got < took || got > took+300*time.Millisecond {
		b.t.Errorf("%s: it took %s, want %s", when, got, took)
	}
	if got := time.Duration(r.ThrottleMillis) * time.Millisecond; got != told {
		b.t.Errorf("%s: told to pause for %s, want %s", when, got, told)
	}
}

// The pause begins when the client is told. What it sent before is read and answered,
// though the first answer is late: for a client the time of each began when it sent it.
func TestPipelinedBatchesDoNotWaitForAPause(t *testing.T) {
	inPoorBench(t, func(t *testing.T, b *bench, _ *Client) {
		began, late := time.Now(), 8*time.Second
		b.late = late
		for range 5 {
			b.send(time.Minute) // which waits until it is read
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("they were read after %s", took)
		}
		for n := range 5 {
			r := b.answer()
			if took := time.Since(began); took != late {
				t.Errorf("batch %d was answered after %s", n, took)
			}
			if r.ThrottleMillis != int32(quota.PauseMax.Milliseconds()) {
				t.Errorf("batch %d: told to pause for %d ms", n, r.ThrottleMillis)
			}
		}
		b.takesAs("behind the pause", quota.PauseMax, quota.PauseMax)
		const patience = 30 * time.Second // request.timeout.ms of Java, ReadTimeout of sarama
		if longest := quota.PauseMax + b.config.HoldMax; longest >= patience {
			t.Errorf("a batch that its client sent when it was told may be answered after %s, if it is held too", longest)
		}
	})
}

// A switchover waits for what members of groups commit, and for the ends of transactions:
// from when groups drain nothing lies unread.
func TestNobodyPausesWhileGroupsDrain(t *testing.T) {
	inPoorBench(t, func(t *testing.T, b *bench, _ *Client) {
		record := b.share.Record()
		b.takesAs("at first", 0, quota.PauseMax)
		draining := record
		draining.State, draining.Epoch, draining.Target = failover.Draining, 2, "west"
		time.AfterFunc(time.Second, func() { b.share.SetRecord(draining) })
		b.takesAs("when groups begin to drain", time.Second, 0)
		time.Sleep(time.Minute)
		b.takesAs("while they drain", 0, 0)
		b.share.SetRecord(record)
		b.takesAs("when the move was given up", 0, quota.PauseMax)
		b.share.SetRecord(draining)
		b.share.SetRecord(record)
		b.takesAs("right behind one that was given up", 0, 0)
	})
}

// What was lifted does not come back when all is steady again: the client was told meanwhile
// that it need not pause.
func TestAPauseThatWasLiftedIsOver(t *testing.T) {
	inPoorBench(t, func(t *testing.T, b *bench, c *Client) {
		b.takesAs("at first", 0, quota.PauseMax)
		b.share.mu.Lock()
		b.share.mu.moved = time.Now()
		b.share.mu.Unlock()
		b.takesAs("after a move", 0, 0)
		time.Sleep(b.config.SteadyAfter)
		b.takesAs("when it was some time ago", 0, quota.PauseMax)
	})
}

// A connection that is new does not begin as if nothing was owed.
func TestTheFirstBatchOfAConnectionWaits(t *testing.T) {
	inPoorBench(t, func(t *testing.T, b *bench, _ *Client) {
		b.takesAs("at first", 0, quota.PauseMax)
		_, end := b.connect()
		b.takesAs("on another connection", firstWaitMax, quota.PauseMax)
		b.takesAs("behind that", quota.PauseMax, quota.PauseMax)
		end()
		c, end := b.connect()
		c.transacts.Store(true)
		b.takesAs("on one with transactions", shortPauseMax, shortPauseMax)
		end()
		_, end = b.connect()
		time.AfterFunc(time.Second, func() {
			r := b.share.Record()
			r.State = failover.Draining
			b.share.SetRecord(r)
		})
		b.takesAs("until groups drain", time.Second, 0)
		end()
		time.Sleep(quota.DebtMax)
		b.share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		time.Sleep(b.config.SteadyAfter)
		_, end = b.connect()
		b.takesAs("when nothing is owed", 0, quota.PauseMax)
		end()
	})
}

// A move lifts the pauses of those that have to do with it, and of nobody else; so does a
// layout, where this gateway is or was among the leaders.
func TestAMoveConcernsItsOwnConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop, bank := NewShare(spillway.ShareID{Group: "shop"}, spillway.FailoverGroup{}), NewShare(spillway.ShareID{Group: "bank"}, spillway.FailoverGroup{})
		r := New(Config{Gateway: "east-1", Shares: []*Share{shop, bank}, Lease: always{}, Layout: fixedLayout{}})
		defer r.Close()
		account, _ := ledgerOf(quota.Produce, 1, 0).Enter("", time.Now())
		of := func(s *Share) *Client {
			c := &Client{router: r, account: account}
			c.concern(s)
			return c
		}
		buyer, teller, idle := of(shop), of(bank), &Client{router: r, account: account}
		judge := func(when string, buys, tells bool) {
			t.Helper()
			if buyer.steady() != buys || teller.steady() != tells || !idle.steady() {
				t.Errorf("%s: steady %t, %t and %t, want %t, %t and true", when, buyer.steady(), teller.steady(), idle.steady(), buys, tells)
			}
			time.Sleep(r.config.SteadyAfter)
			if !buyer.steady() || !teller.steady() {
				t.Errorf("%s: not steady some time later", when)
			}
		}
		judge("at first", true, true)
		shop.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		shop.Open(Term{Epoch: 1, Base: 1, Site: "east"})
		judge("after a move of the shop", false, true)

		node := func(id int32, gateway spillway.GatewayID, site spillway.SiteID) layout.Node {
			return layout.Node{ID: id, Gateway: gateway, Site: site}
		}
		homes := map[string]spillway.SiteID{"shop/0": "east", "bank/0": "west"}
		two := layout.Layout{Version: 1, Homes: homes, Nodes: []layout.Node{node(1000, "east-1", "east"), node(1001, "west-1", "west")}}
		west, east := two, two
		west.Nodes = append(slices.Clone(two.Nodes), node(1002, "west-2", "west"))
		east.Nodes = append(slices.Clone(two.Nodes), node(1003, "east-2", "east"))
		r.relaid(two, west)
		judge("when leaders elsewhere change", true, true)
		r.relaid(two, east)
		judge("when the leaders here change", false, true)
		alone := two
		alone.Nodes = two.Nodes[:1] // which leads all then
		r.relaid(two, alone)
		judge("when the other site has no gateway", true, false)
	})
}

// What all connections of a principal ask for at once is no more than may be saved up.
func TestFetchesThatAreOpenShareWhatIsSavedUp(t *testing.T) {
	const rate, open = 1 << 20, 10
	ledger := ledgerOf(quota.Fetch, rate, 10*time.Second)
	var c *Client
	for range open {
		account, _ := ledger.Enter("User:alice", time.Now())
		c = &Client{account: account}
	}
	if got := c.quotaBytes(1 << 30); got != 10*rate/open {
		t.Errorf("one of %d may ask for %d bytes", open, got)
	}
	if got := c.quotaBytes(1000); got != 1000 {
		t.Errorf("who asks for 1000 bytes gets %d", got)
	}
	for range 1000 {
		_, _ = ledger.Enter("User:alice", time.Now())
	}
	if got := c.quotaBytes(1 << 30); got != fetchBytesFree {
		t.Errorf("one of many may ask for %d bytes", got)
	}
}

// A fetch that is answered with an error is no gift of the quota.
func TestOnlyFetchesThatAreKeptEmptyAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := ledgerOf(quota.Fetch, 1, time.Second)
		account, _ := ledger.Enter("User:alice", time.Now())
		r := New(Config{Lease: always{}, Layout: fixedLayout{}})
		defer r.Close()
		c := &Client{router: r, account: account}
		account.Charge(quota.Fetch, 100, time.Now())
		if _, free := c.fetch(t.Context(), session.Request{}, kmsg.NewPtrFetchRequest()); !free {
			t.Error("what is kept empty for a debt is charged")
		}
		wrong := kmsg.NewPtrFetchRequest()
		wrong.SessionID, wrong.SessionEpoch = 1, 1
		if _, free := c.fetch(t.Context(), session.Request{}, wrong); free {
			t.Error("an error is free")
		}
	})
}

// What quotas cost a request that is within them; without any it is a look at a nil pointer.
func BenchmarkWithinQuotas(b *testing.B) {
	ledger := quota.NewLedger(func(authentication.Principal) quota.Terms {
		var t quota.Terms
		t.Rates[quota.Produce], t.Rates[quota.Fetch], t.Rates[quota.Request] = 1<<40, 1<<40, 1<<40
		return t
	}, 0)
	account, _ := ledger.Enter("User:alice", time.Now())
	c := &Client{account: account}
	req := session.Request{RequestHeader: wire.RequestHeader{Key: produceAPI.key, Version: 9}, Body: make([]byte, 100)}
	answer := func(context.Context) ([]byte, error) { return nil, nil }
	b.ReportAllocs()
	for b.Loop() {
		c.charge(req)
		_, _ = c.telling(req, answer)(b.Context())
		c.pause(req, quota.Produce)
	}
}
