package router

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/federation/quota"
	"spillway/federation/session"
)

// What a principal uses beyond its quotas is made up for as KIP-219 says: the request is
// served, its answer is told a throttle time, and the connection is not read for so long,
// since not all clients keep to it. Nothing is refused, and no acknowledgement is late for
// it; a fetch of who owes is answered with no records. See docs/decisions/0032.

const (
	// shortPauseMax is the longest pause for what was fetched or asked, and of connections
	// that carry transactions. A client that keeps to a throttle time may send nothing
	// meanwhile, on no connection to this node: sarama and kafkajs do all over one, franz-go
	// waits for the node. And session timeouts of groups begin at 6 s; others wait for the end
	// of a transaction. Who owes more gets no records all the same, and one request a second.
	shortPauseMax = time.Second
	// firstWaitMax is the longest wait of the first batch of a connection for what its
	// principal owes already. Clients count it as a part of the answer's time.
	firstWaitMax = 5 * time.Second
	// waitPause is how often that wait looks whether it should end.
	waitPause = 100 * time.Millisecond
	// steadyAfter is how long after a move of a share, or a new layout, nobody pauses who has
	// to do with it. Other gateways take for granted then that what clients have sent here
	// before is answered after releaseAfter.
	steadyAfter = releaseAfter + 2*time.Second
)

// Enter counts the connection as one of its client's principal, which must be known. False:
// the principal has as many as it may, and the connection has to end.
func (c *Client) Enter() bool {
	if c.entered {
		return true // a login that was renewed
	}
	var refused quota.Refusal
	if c.account, refused = c.router.config.Quotas.Enter(c.login.Principal(), time.Now()); refused != quota.None {
		c.router.events.tooManyOfPrincipal()
		return false
	}
	c.entered = true
	return true
}

func (c *Client) leave() {
	if c.entered {
		c.router.config.Quotas.Leave(c.login.Principal(), time.Now())
	}
}

// charge counts a request before it is begun.
func (c *Client) charge(req session.Request) {
	now := time.Now()
	c.account.Charge(quota.Request, 1, now)
	if req.Key == produceAPI.key {
		if !c.produced {
			c.behind = c.account.Charge(quota.Produce, 0, now)
		}
		c.account.Charge(quota.Produce, int64(len(req.Body)), now)
	}
}

// await has the first batches of a connection wait for what its principal owed before: one
// that opens connections again and again would never pause. Nothing that waits is lost
// where it ends early; a client that went has nothing forwarded but what has no answer.
func (c *Client) await(ctx context.Context, silent bool) {
	wait := min(c.behind, c.longest(), firstWaitMax)
	c.produced, c.behind = true, 0
	if wait <= 0 || !c.steady() {
		return
	}
	c.router.events.overQuota(quota.Produce, wait)
	look := time.NewTicker(waitPause)
	defer look.Stop()
	for until := time.Now().Add(wait); time.Now().Before(until) && c.steady() && (silent || !c.gone()); {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// longest is the longest pause of the connection for what was produced.
func (c *Client) longest() time.Duration {
	if c.transacts.Load() {
		return shortPauseMax
	}
	return quota.PauseMax
}

// telling has an answer tell how long the connection pauses.
func (c *Client) telling(req session.Request, answer session.Answer) session.Answer {
	if req.Key == produceAPI.key { // which tells it itself
		return answer
	}
	req.Body = nil
	return func(ctx context.Context) ([]byte, error) {
		body, err := answer(ctx)
		kind := quota.Request
		if req.Key == fetchAPI.key {
			kind = quota.Fetch
		}
		if millis := c.pause(req, kind); millis > 0 && throttleFirst[throttleKey{req.Key, req.Version}] && len(body) >= 4 {
			asked := int32(binary.BigEndian.Uint32(body))
			binary.BigEndian.PutUint32(body, uint32(max(asked, millis)))
		}
		return body, err
	}
}

// pause has nothing more read from the connection for what is owed of a kind, and of
// requests, from when the answer was written; unless something moves. It returns the
// throttle time to tell. Called by the answer.
func (c *Client) pause(req session.Request, kind quota.Kind) (millis int32) {
	if c.account == nil {
		return 0
	}
	now := time.Now()
	most := shortPauseMax
	if kind == quota.Produce {
		most = c.longest() // nothing else holds it back
	}
	owed := min(c.account.Charge(kind, 0, now), most)
	if requests := min(c.account.Charge(quota.Request, 0, now), shortPauseMax); requests > owed {
		kind, owed = quota.Request, requests
	}
	already := req.Muted()
	if owed > already && c.steady() {
		req.Mute(owed, func() bool { return !c.steady() })
		c.router.events.overQuota(kind, owed-already)
		already = owed
	}
	return int32((min(already, quota.PauseMax) + time.Millisecond - 1) / time.Millisecond)
}

// owesFetches tells whether a fetch is to be answered with no records.
func (c *Client) owesFetches() bool {
	return c.account.Owes(quota.Fetch, time.Now()) && c.steady()
}

// quotaBytes bounds what one fetch asks for: more than may be used at once would only be
// waited for afterwards. All connections of the principal may ask at once.
func (c *Client) quotaBytes(asked int32) int32 {
	if most := c.account.Burst(quota.Fetch); most > 0 {
		return int32(min(int64(asked), max(most/c.account.Open(), fetchBytesFree)))
	}
	return asked
}

// concern notes that the connection has to do with a share: when it moves, pauses end.
func (c *Client) concern(s *Share) {
	if c.account == nil {
		return
	}
	c.concerns.Lock()
	defer c.concerns.Unlock()
	if c.concerns.shares == nil {
		c.concerns.shares = make(map[*Share]bool)
	}
	c.concerns.shares[s] = true
}

// steady tells whether nothing that the connection has to do with has moved lately, or is
// about to, and the gateway may serve.
func (c *Client) steady() bool {
	c.concerns.Lock()
	defer c.concerns.Unlock()
	for s := range c.concerns.shares {
		if s.unsteady(c.router.config.SteadyAfter) {
			return false
		}
	}
	return c.router.lease.Held()
}

// unsteady tells whether the share moves, or its leaders here did, or have done so lately.
// While groups drain the move waits for what clients commit, and so for what lies unread.
func (s *Share) unsteady(lately time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.record.State == failover.Draining || !s.mu.moved.IsZero() && time.Since(s.mu.moved) < lately
}

// relaid notes for each share whether its leaders may have changed with a layout, and this
// gateway is or was one of them.
func (r *Router) relaid(before, now layout.Layout) {
	mine := func(n layout.Node) bool { return n.Gateway == r.config.Gateway }
	for _, s := range r.shares {
		was, is := before.Leaders(s.ID), now.Leaders(s.ID)
		if !slices.Equal(was, is) && (slices.ContainsFunc(was, mine) || slices.ContainsFunc(is, mine)) {
			s.mu.Lock()
			s.mu.moved = time.Now()
			s.mu.Unlock()
		}
	}
}

type throttleKey struct{ key, version int16 }

// throttleFirst are the answers that begin with the throttle time: all that have one, but
// for Produce, which says it itself, and ApiVersions. Found out from the encoder.
var throttleFirst map[throttleKey]bool

func init() {
	throttleFirst = make(map[throttleKey]bool)
	const mark = 0x1badcafe
	for _, a := range apis {
		for v := a.min; v <= a.max; v++ {
			resp := kmsg.ResponseForKey(a.key)
			asks, ok := resp.(kmsg.SetThrottleResponse)
			if !ok {
				continue
			}
			resp.SetVersion(v)
			asks.SetThrottle(mark)
			body := resp.AppendTo(nil)
			throttleFirst[throttleKey{a.key, v}] = len(body) >= 4 && binary.BigEndian.Uint32(body) == mark
		}
	}
}
