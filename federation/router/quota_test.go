package router

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
	"spillway/federation/authentication"
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
		_, _ = c.telling(req.Key, req.Version, answer)(b.Context())
		c.owedMillis()
	}
}
