package router

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/wire"
	"spillway/federation/authentication"
	"spillway/federation/quota"
	"spillway/federation/session"
)

// Client is one client connection: a session.Handler.
type Client struct {
	// Set once, read by anyone.
	router   *Router
	conn     net.Conn
	lanes    *lanes
	produces *produces
	login    *authentication.Login // its steps belong to Begin
	host     string                // as entries of access control lists name it
	account  *quota.Account        // of its principal, from when that is known; nil: nothing is counted
	entered  bool                  // the principal has the connection counted

	// Owned by Begin.
	over     error         // why nothing more is begun; what was begun before is answered
	produced bool          // a batch came
	behind   time.Duration // what was owed before the first one

	// Owned by answers, which are called one after the other.
	highWatermarks map[spillway.TopicPartition]int64 // last shown
	near           map[spillway.TopicPartition]*near // of clients that read at their own site
	fetched        int64                             // bytes that the last fetch found
	told           []toldName                        // members that may not know their names

	claims claims // members that it names and no site has confirmed
	asides asides // leaves that are asked for aside

	left    atomic.Bool             // the client was seen to have closed its side
	repeats atomic.Bool             // by its name in ApiVersions it is one of repeatsProve
	counts  atomic.Bool             // by it, it is one of takeEveryOffset
	manners atomic.Pointer[manners] // by it, what its library makes of errors of transactions

	transacts atomic.Bool // it carries transactions
	concerns  struct {
		sync.Mutex
		shares map[*Share]bool // that it has to do with, where pauses depend on it
	}

	waiting atomic.Int32  // batches that wait for a missing one
	asking  chan struct{} // a token per question to a site about one
}

// saslBytesMax bounds a step of a login also where the client is known.
const saslBytesMax = 16 << 10

// Begin implements session.Handler.
func (c *Client) Begin(ctx context.Context, req session.Request) (session.Answer, error) {
	if c.over == nil {
		c.over = loginFault(c.login.Admit(req.Key, req.CameAt()))
	}
	if c.over != nil {
		return ending(c.over), nil //nolint:nilerr // told by its answer
	}
	a, ok := apis[req.Key]
	if !ok {
		c.router.events.refused("unknown-api")
		return nil, session.Close(session.ReasonUnknownAPI, fmt.Errorf("API key %d is not served", req.Key))
	}
	if a.level > c.router.config.Administration {
		c.router.events.refused("administration")
		return nil, session.Close(session.ReasonUnknownAPI, fmt.Errorf("API key %d is not served: gateway.administration does not allow it", req.Key))
	}
	if req.Version < a.min || req.Version > a.max {
		if req.Key == apiVersionsAPI.key {
			return c.versionMismatch(), nil
		}
		c.router.events.refused("version")
		return nil, session.Close(session.ReasonVersion, fmt.Errorf("version %d of API key %d is not served", req.Version, req.Key))
	}
	if a.sasl && len(req.Body) > saslBytesMax {
		c.router.events.refused("malformed")
		return nil, session.Close("frame-too-large", fmt.Errorf("%d bytes of API key %d, %d are the most", len(req.Body), req.Key, saslBytesMax))
	}
	if err := wire.Check(req.Key, req.Version, req.Body); err != nil {
		c.router.events.refused("malformed")
		return nil, session.Close(session.ReasonMalformed, err)
	}
	if c.account == nil || a.sasl { // a renewal must not be late
		return a.begin(c, ctx, req)
	}
	c.charge(req)
	answer, err := a.begin(c, ctx, req)
	if err != nil {
		return nil, err
	}
	return c.telling(req, answer), nil
}

// Admitted implements session.Gate.
func (c *Client) Admitted() bool { return c.login.Through() }

// Silent implements session.Handler: a Produce request with acks 0.
func (c *Client) Silent(req session.Request) bool {
	if req.Key != produceAPI.key {
		return false
	}
	r := kbin.Reader{Src: req.Body}
	if req.Version >= 9 { // flexible
		r.CompactNullableString() // transactional id
	} else {
		r.NullableString()
	}
	return r.Int16() == 0 && r.Ok()
}

// Close implements session.Handler. Upstream connections that carry produces
// are closed when these are answered, which may take longer than the client lives.
func (c *Client) Close() {
	c.leave()
	for _, t := range c.told {
		c.router.takeBack(t.share, t.join)
	}
	c.router.members.tidy()
	c.router.background.Go(c.lanes.close)
}

// gone tells whether the client has closed its side. Once it has, nothing more
// that it sent is forwarded, also what waited behind a held request.
func (c *Client) gone() bool {
	if session.Gone(c.conn) {
		c.left.Store(true)
	}
	return c.left.Load()
}

// decode reads a request's body; its structure was checked in Begin, its size
// is bounded here.
func decode(req session.Request, into kmsg.Request) error {
	into.SetVersion(req.Version)
	if err := into.ReadFrom(req.Body); err != nil {
		return session.Close(session.ReasonMalformed, err)
	}
	return weigh(req, into)
}

// ending ends the connection once what was begun before is answered.
func ending(why error) session.Answer {
	return func(context.Context) ([]byte, error) { return nil, why }
}

// reply answers with a ready response.
func reply(resp kmsg.Response) session.Answer {
	return func(context.Context) ([]byte, error) { return resp.AppendTo([]byte{}), nil }
}
