package conn

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
)

// ErrClosed is what unanswered requests get when Close was called.
var ErrClosed = errors.New("connection was closed")

// ErrVersion means that the broker offers no version of a request that this
// side can speak.
var ErrVersion = errors.New("no common version")

// Conn is one connection. All methods may be called by any goroutine.
type Conn struct {
	// Set once, read by anyone.
	config   Config
	versions map[int16]versionRange
	features map[string]int16
	slots    chan struct{} // one token per request in flight
	queue    chan *Pending // to write; never full, as slots bound it
	sent     chan *Pending // written or being written, waiting for its answer; never full
	closed   chan struct{} // the connection has failed or was closed
	done     chan struct{} // both goroutines have ended

	transport net.Conn

	mu struct {
		sync.Mutex
		cause  error // why the connection ended; nil while it lives
		muted  time.Time
		expect int // see Expect
	}
}

type versionRange struct{ min, max int16 }

// Open connects, authenticates and negotiates versions.
func Open(ctx context.Context, config Config) (*Conn, error) {
	config = config.withDefaults()
	c := &Conn{
		config: config,
		slots:  make(chan struct{}, config.InFlightMax),
		queue:  make(chan *Pending, config.InFlightMax),
		sent:   make(chan *Pending, config.InFlightMax),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
	}
	ctx, cancel := context.WithTimeout(ctx, config.HandshakeTimeout)
	defer cancel()
	if err := c.open(ctx); err != nil {
		return nil, c.fault("connect to "+config.Address, err)
	}
	readDone := make(chan struct{})
	go c.read(readDone)
	go c.write(readDone)
	return c, nil
}

func (c *Conn) open(ctx context.Context) (err error) {
	transport, err := c.config.Dial(ctx, "tcp", c.config.Address)
	if err != nil {
		return err
	}
	// Ending ctx must end reads and writes of the handshake too.
	stop := context.AfterFunc(ctx, func() { transport.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			transport.Close()
			err = errors.Join(err, ctx.Err())
		}
	}()
	if c.config.TLS != nil {
		settings := c.config.TLS.Clone()
		if settings.ServerName == "" {
			if settings.ServerName, _, err = net.SplitHostPort(c.config.Address); err != nil {
				return err
			}
		}
		secured := tls.Client(transport, settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		transport = secured
	}
	c.transport = transport
	return c.greet()
}

// Config returns what the connection was opened with, defaults filled in.
func (c *Conn) Config() Config { return c.config }

// MaxVersion is the highest version of a request that the broker offers, −1 if
// it does not offer the request at all.
func (c *Conn) MaxVersion(key int16) int16 {
	if r, ok := c.versions[key]; ok {
		return r.max
	}
	return -1
}

// Versions is the range that the broker offers.
func (c *Conn) Versions(key int16) (lowest, highest int16, ok bool) {
	r, ok := c.versions[key]
	return r.min, r.max, ok
}

// GroupVersion is the feature of KIP-848: 3.9 offers its requests and refuses them, so what
// counts is that it is finalized.
const GroupVersion = "group.version"

// Feature is the level at which the cluster has finalized a feature (KIP-584),
// 0 if it has not.
func (c *Conn) Feature(name string) int16 { return c.features[name] }

// Closed is closed when the connection has failed or Close was called.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Err tells why the connection ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.cause
}

// Expect says how large answers may well be, in bytes: their memory is taken in one piece.
// It holds for all that follow.
func (c *Conn) Expect(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.expect = bytes
}

func (c *Conn) trusted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(frameBytesTrusted, c.mu.expect)
}

// MuteMax bounds how long a broker may have a connection wait.
const MuteMax = 5 * time.Minute

// Mute notes that an answer asked for a pause (throttle_time_ms): the broker reads
// nothing more of the connection before that is over (KIP-219). Send does not care: a
// time-out of what is sent all the same is the caller's.
func (c *Conn) Mute(pause time.Duration) {
	if pause <= 0 {
		return
	}
	until := time.Now().Add(min(pause, MuteMax))
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.mu.muted) {
		c.mu.muted = until
	}
}

// MutedUntil is when the broker reads again; in the past if it does.
func (c *Conn) MutedUntil() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.muted
}

// Unmuted waits until the broker reads again, ctx ends, or the connection.
func (c *Conn) Unmuted(ctx context.Context) error {
	left := time.Until(c.MutedUntil())
	if left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.closed:
		return c.fault("wait for the end of a throttle time", c.Err())
	case <-ctx.Done():
		return c.fault("wait for the end of a throttle time", ctx.Err())
	}
}

// Close ends the connection and waits for its goroutines. Requests without an
// answer get ErrClosed. It may be called more than once.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

func (c *Conn) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cause != nil {
		return
	}
	c.mu.cause = cause
	close(c.closed)
	c.transport.Close()
}

// Do sends a request in the highest version that both sides know and decodes
// the answer. It overwrites the request's version. Errors inside the answer
// are the caller's to read.
func (c *Conn) Do(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	r, ok := c.versions[req.Key()]
	version := min(r.max, req.MaxVersion())
	if !ok || version < r.min {
		return nil, c.fault(kmsg.NameForKey(req.Key()), fmt.Errorf("%w: the broker offers %d to %d, Spillway up to %d", ErrVersion, r.min, r.max, req.MaxVersion()))
	}
	req.SetVersion(version)
	return c.DoVersion(ctx, req)
}

// DoVersion is Do with the version that the request has.
func (c *Conn) DoVersion(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	resp := req.ResponseKind()
	produce, isProduce := req.(*kmsg.ProduceRequest)
	answered := !isProduce || produce.Acks != 0
	body, err := c.Send(ctx, req.Key(), req.GetVersion(), answered, req.AppendTo(nil)).Wait(ctx)
	if err != nil || !answered {
		return resp, err
	}
	if err := Decode(resp, body); err != nil {
		return nil, c.fault(describe(req.Key(), req.GetVersion()), err)
	}
	return resp, nil
}

// Decode checks the structure of an answer's body and decodes it; the answer's
// version must be set, as kmsg.Request.ResponseKind does.
func Decode(resp kmsg.Response, body []byte) error {
	if err := wire.CheckResponse(resp.Key(), resp.GetVersion(), body); err != nil {
		return err
	}
	return resp.ReadFrom(body)
}

// Fault is what went wrong on a connection. Its text has the site, the node or its address,
// and the request, so that a line of a log stands alone: it is not for clients.
type Fault struct {
	where, what string
	err         error
}

func (f *Fault) Error() string { return f.where + ": " + f.what + ": " + f.err.Error() }

func (f *Fault) Unwrap() error { return f.err }

func (c *Conn) fault(what string, err error) error {
	where := fmt.Sprintf("site %s", c.config.Site)
	if c.config.Node >= 0 {
		where += fmt.Sprintf(" node %d", c.config.Node)
	} else {
		where += " at " + c.config.Address
	}
	return &Fault{where, what, err}
}

func describe(key, version int16) string {
	return fmt.Sprintf("%s v%d", kmsg.NameForKey(key), version)
}

// write sends what is queued. It is the last to end: it waits for the reader
// and then gives every request without an answer the reason.
func (c *Conn) write(readDone <-chan struct{}) {
	defer close(c.done)
	c.fail(c.writeAll())
	<-readDone
	for {
		select {
		case p := <-c.sent:
			p.finish(nil, c.Err())
		case p := <-c.queue:
			p.finish(nil, c.Err())
		default:
			return
		}
	}
}

func (c *Conn) writeAll() error {
	w := newWriter(c.transport)
	for correlation := int32(0); ; {
		var p *Pending
		select {
		case p = <-c.queue:
		case <-c.closed:
			return ErrClosed
		}
		var silent []*Pending
		for n := 0; p != nil; n++ { // one system call for all that wait
			p.correlation = correlation
			correlation++
			w.add(p, c.config.ClientID)
			if p.answered {
				c.sent <- p
			} else {
				silent = append(silent, p)
			}
			if p = nil; n < batchMax {
				select {
				case p = <-c.queue:
				default:
				}
			}
		}
		err := w.flush()
		for _, p := range silent {
			p.finish(nil, err)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// frameBytesTrusted is how large an answer may be for its memory to be taken in
// one piece. Of a larger one 64 KiB have to come first.
const frameBytesTrusted = 4 << 20

// room for the next frame, nil if it is not known how large it is or may be.
func room(r *bufio.Reader, trusted func() int) []byte {
	prefix, err := r.Peek(4)
	if err != nil {
		return nil // as the reading of the frame will find
	}
	if n := int32(binary.BigEndian.Uint32(prefix)); n > 0 && int64(n) <= int64(trusted()) {
		return make([]byte, 0, max(n, 4))
	}
	return nil
}

// batchMax bounds how many requests one write gathers.
const batchMax = 64

// read takes answers in the order of the requests (invariant A).
func (c *Conn) read(readDone chan<- struct{}) {
	defer close(readDone)
	c.fail(c.readAll())
}

func (c *Conn) readAll() error {
	r := bufio.NewReaderSize(c.transport, 64<<10)
	for {
		frame, err := wire.ReadFrame(r, room(r, c.trusted), c.config.FrameBytesMax)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		var p *Pending
		select {
		case p = <-c.sent:
		default:
			return fmt.Errorf("%w: an answer to no request", wire.ErrMalformed)
		}
		correlation, body, err := wire.ParseResponse(p.key, p.version, frame)
		if err == nil && correlation != p.correlation {
			err = fmt.Errorf("%w: answer to request %d where %d was next", wire.ErrMalformed, correlation, p.correlation)
		}
		if err == nil {
			body, err = c.config.Namespace.Response(p.key, p.version, body)
		}
		if err != nil {
			p.finish(nil, err)
			return err
		}
		p.finish(body, nil)
	}
}
