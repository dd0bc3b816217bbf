package router

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/quota"
	"spillway/federation/session"
)

// What a principal uses beyond its quotas is made up for as KIP-219 says: the request is
// served, its answer is told a throttle time, and the connection is not read for so long,
// since not all clients keep to it. Nothing is refused, and no acknowledgement is late for
// it; a fetch of who owes is answered with no records. See docs/decisions/0032.

const (
	// shortPauseMax is the longest pause for what was fetched or asked. A client that keeps
	// to a throttle time may send nothing meanwhile, on no connection to this node: sarama and
	// kafkajs do all over one, franz-go waits for the node. And session timeouts of groups
	// begin at 6 s. Who owes more gets no records all the same, and one request a second.
	shortPauseMax = time.Second
	// steadyAfter is how long after a move of a share, or a new layout, nobody pauses. Other
	// gateways take for granted then that what clients have sent here before is answered
	// after releaseAfter.
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
	c.pause(req, quota.Request, c.account.Charge(quota.Request, 1, now))
	if req.Key == produceAPI.key {
		c.pause(req, quota.Produce, c.account.Charge(quota.Produce, int64(len(req.Body)), now))
	}
}

// telling has an answer tell how long the connection pauses.
func (c *Client) telling(key, version int16, answer session.Answer) session.Answer {
	if !throttleFirst[throttleKey{key, version}] {
		return answer
	}
	return func(ctx context.Context) ([]byte, error) {
		body, err := answer(ctx)
		if millis := c.owedMillis(); millis > 0 && len(body) >= 4 {
			asked := int32(binary.BigEndian.Uint32(body))
			binary.BigEndian.PutUint32(body, uint32(max(asked, millis)))
		}
		return body, err
	}
}

// pause has nothing more read from the connection for a time, unless something moves.
func (c *Client) pause(req session.Request, kind quota.Kind, owed time.Duration) {
	if owed <= 0 || !c.router.steady() {
		return
	}
	if kind != quota.Produce { // which nothing else holds back
		owed = min(owed, shortPauseMax)
	}
	now := time.Now()
	until := now.Add(owed)
	for {
		before := c.pausedUntil.Load()
		longer := until.Sub(time.Unix(0, before))
		if longer <= 0 {
			return // it pauses for as long already
		}
		if c.pausedUntil.CompareAndSwap(before, until.UnixNano()) {
			req.Mute(until, func() bool { return !c.router.steady() })
			c.router.events.overQuota(kind, min(owed, longer))
			return
		}
	}
}

// owedMillis is the throttle time to tell now.
func (c *Client) owedMillis() int32 {
	until := c.pausedUntil.Load()
	if until == 0 {
		return 0
	}
	left := time.Until(time.Unix(0, until))
	if left <= 0 || !c.router.steady() {
		return 0
	}
	return int32((left + time.Millisecond - 1).Milliseconds())
}

// owesFetches tells whether a fetch is to be answered with no records.
func (c *Client) owesFetches() bool {
	return c.account.Owes(quota.Fetch, time.Now()) && c.router.steady()
}

// payFetch counts an answer to a fetch. One that is kept empty for what is owed is free.
func (c *Client) payFetch(req session.Request, size int) {
	if c.account == nil {
		return
	}
	if !c.keptBack {
		c.account.Charge(quota.Fetch, int64(size), time.Now())
	}
	c.pause(req, quota.Fetch, c.account.Charge(quota.Fetch, 0, time.Now()))
}

// quotaBytes bounds what one fetch asks for: more than may be used at once would only be
// waited for afterwards.
func (c *Client) quotaBytes(asked int32) int32 {
	if most := c.account.Burst(quota.Fetch); most > 0 {
		return int32(min(int64(asked), max(most, fetchBytesFree)))
	}
	return asked
}

// steady tells whether nothing has moved lately, and the gateway may serve.
func (r *Router) steady() bool {
	last := r.relaid.Load()
	for _, s := range r.shares {
		last = max(last, s.moved.Load())
	}
	return time.Now().UnixNano()-last >= int64(r.config.SteadyAfter) && r.lease.Held()
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
