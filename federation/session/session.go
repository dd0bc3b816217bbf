package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"spillway/broker/wire"
)

// Request is one request of a client.
type Request struct {
	wire.RequestHeader
	Body []byte // what follows the header; belongs to the handler
	slot *slot  // nil in tests of handlers
}

// Reserve makes room for an answer of up to want bytes, as far as the budget of
// the process allows, and tells for how many. Call it before anything is
// allocated, and only in the Answer; what it made room for before is given back.
func (r Request) Reserve(want int64) (room int64) {
	if r.slot == nil {
		return want
	}
	r.Hold(0)
	room = r.slot.session.budget.room(want)
	r.Hold(room)
	return room
}

// CameAt is when the first of the request was read from the connection: its client
// had begun to send it by then.
func (r Request) CameAt() time.Time {
	if r.slot == nil {
		return time.Now()
	}
	return r.slot.came
}

// AfterWrite has a func called as soon as the answer has been written, or with why
// it was not. Call it in the Answer, at most once.
func (r Request) AfterWrite(f func(err error)) {
	if r.slot != nil {
		r.slot.afterWrite = f
	}
}

// Rest has more written behind the body that the Answer returns, without copying it. Who
// hands it over changes nothing of it any more, and has told by Hold what it keeps in
// memory, which may be more than is written. Call it in the Answer, at most once.
func (r Request) Rest(pieces [][]byte) {
	if r.slot != nil {
		r.slot.rest = pieces
	}
}

// Weigh counts bytes that a request costs beyond its frame while it is served.
func (r Request) Weigh(bytes int64) {
	if r.slot != nil {
		r.slot.size += bytes
		r.slot.session.count(bytes)
	}
}

// Hold tells how many bytes the answer really holds. They count until it was
// written, so that a slow reader uses up its own room and not the memory of the
// process.
func (r Request) Hold(bytes int64) {
	if r.slot != nil {
		r.slot.session.count(bytes - r.slot.held)
		r.slot.held = bytes
	}
}

// Answer waits for what a request led to and returns the body of the answer,
// without the response header. Nil without an error: the request has no answer
// (Produce with acks 0). Answers of one connection are called one after the
// other, so an Answer may also do the whole work, as a broker does.
type Answer func(ctx context.Context) ([]byte, error)

// Handler serves one connection. Begin is called in the order of the requests
// and may block, which holds everything that the client sends afterwards. An
// error of Begin or Answer closes the connection; give it a reason with Close. An
// Answer that returns both a body and an error has the body written before.
type Handler interface {
	Begin(ctx context.Context, req Request) (Answer, error)
	// Silent tells that nobody waits for an answer (Produce with acks 0). Such a
	// request is begun also when its client closed the connection right behind
	// it, as Kafka does: it never comes again.
	Silent(req Request) bool
	// Close is called once, after the last Answer returned.
	Close()
}

// Gate is a Handler that lets a client in once it has said who it is. Until then the
// connection has AdmitMax and AdmitBytesMax, and one request at a time.
type Gate interface {
	Admitted() bool
}

// Limits bounds one connection.
type Limits struct {
	FrameBytesMax    int           // of one request; default 16 MiB
	InFlightMax      int           // requests without an answer; default 64
	InFlightBytesMax int64         // of their frames and answers, one frame and one answer more at most; default 32 MiB
	GreetMax         time.Duration // for the first request, or 16 KiB of it, to arrive once it has begun; default 10 s
	IdleMax          time.Duration // without a request; default 10 min
	FrameMax         time.Duration // for one frame to arrive once it has begun; default 30 s
	WriteMax         time.Duration // for one answer to be taken; default 30 s
	LingerMax        time.Duration // for requests in flight when the session drains; default 10 s
	AdmitMax         time.Duration // in all, until a Gate has let the client in; default 10 s
	AdmitBytesMax    int           // of one request until then; default 16 KiB
}

// WithDefaults is l with what is not set.
func (l Limits) WithDefaults() Limits {
	setInt(&l.FrameBytesMax, wire.FrameBytesDefault)
	setInt(&l.InFlightMax, 64)
	setInt(&l.InFlightBytesMax, 32<<20)
	setInt(&l.GreetMax, 10*time.Second)
	setInt(&l.IdleMax, 10*time.Minute)
	setInt(&l.FrameMax, 30*time.Second)
	setInt(&l.WriteMax, 30*time.Second)
	setInt(&l.LingerMax, 10*time.Second)
	setInt(&l.AdmitMax, 10*time.Second)
	setInt(&l.AdmitBytesMax, 16<<10)
	return l
}

func setInt[T ~int | ~int64](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Events tell what happened. A nil func is skipped; a slow one slows the
// connection, so listeners only count or enqueue.
type Events struct {
	ConnectionOpened func()
	ConnectionClosed func(Reason)
	// Admitted: the Gate let the client in.
	Admitted func()
	// RequestServed: took is from the frame's arrival to its answer's write.
	RequestServed func(key, version int16, took time.Duration)
	// BytesHeld: so many bytes more, or less, are held for clients.
	BytesHeld func(more int64)
}

// Session is one connection.
type Session struct {
	// Set once, read by anyone.
	conn    net.Conn
	handler Handler
	limits  Limits
	budget  *Budget
	events  Events
	drain   chan struct{}

	requests chan *slot    // read, not yet begun
	order    chan *slot    // begun, not yet answered, oldest first
	slots    chan struct{} // one token per unanswered request
	window   window
	mute     atomic.Pointer[mute] // set by write, kept by read
	buffered atomic.Bool          // read has more than the frame that it read last

	once struct {
		drain sync.Once
	}
	mu struct {
		sync.Mutex
		cause error // why the connection ends; the first one counts
	}
	cancel context.CancelFunc

	// Owned by read.
	greeted bool      // a request has come
	largest int64     // frame that has come: for one that is no larger there is room at once
	greetBy time.Time // for the first one; zero before it begins, and once much of it has come
	gate    Gate      // nil once it let the client in
	admitBy time.Time // zero then
	unaware unaware
	left    bool // the client had gone when a mute ended
}

type slot struct {
	session *Session
	req     Request
	size    int64     // of the frame
	held    int64     // by the answer
	came    time.Time // the first byte of the frame
	read    time.Time // the last
	left    bool      // its client was seen to have gone before it was read
	answer  Answer

	// Set by the answer.
	rest       [][]byte // behind its body
	afterWrite func(error)
	pause      time.Duration
	lifted     func() bool
}

// New makes a session; Run serves it. budget may be nil.
func New(c net.Conn, h Handler, l Limits, budget *Budget, e Events) *Session {
	l = l.WithDefaults()
	s := &Session{
		conn: c, handler: h, limits: l, budget: budget, events: e,
		drain:    make(chan struct{}),
		requests: make(chan *slot, l.InFlightMax),
		order:    make(chan *slot, l.InFlightMax),
		slots:    make(chan struct{}, l.InFlightMax),
		window:   window{max: l.InFlightBytesMax, room: make(chan struct{}, 1)},
	}
	if gate, ok := h.(Gate); ok && !gate.Admitted() {
		s.gate, s.admitBy = gate, time.Now().Add(l.AdmitMax)
	}
	return s
}

// Drain makes the session stop reading, answer what is in flight, and end.
func (s *Session) Drain() {
	s.once.drain.Do(func() {
		close(s.drain)
		s.conn.SetReadDeadline(time.Unix(1, 0))
	})
}

// Run serves the connection until it ends, and says why it did.
func (s *Session) Run(ctx context.Context) Reason {
	if s.events.ConnectionOpened != nil {
		s.events.ConnectionOpened()
	}
	process := ctx
	ctx, s.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.fail(Close(ReasonShutdown, ctx.Err())); s.conn.Close() })
	var wg sync.WaitGroup
	wg.Go(func() { s.dispatch(ctx, process) })
	wg.Go(func() { s.write(ctx) })
	s.fail(s.read(ctx))
	close(s.requests)
	if s.draining() {
		linger := time.AfterFunc(s.limits.LingerMax, s.cancel)
		defer linger.Stop()
	} else {
		s.cancel()
	}
	wg.Wait()
	stop()
	s.cancel()
	s.conn.Close()
	s.handler.Close()
	s.mu.Lock()
	reason := ReasonOf(s.mu.cause)
	s.mu.Unlock()
	if s.events.ConnectionClosed != nil {
		s.events.ConnectionClosed(reason)
	}
	return reason
}

// fail ends the connection. The first cause is the reason.
func (s *Session) fail(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cause == nil {
		s.mu.cause = cause
	}
}

// failed tells that the connection ends for another cause than its client's
// having closed it.
func (s *Session) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.cause != nil && ReasonOf(s.mu.cause) != ReasonClient
}

func (s *Session) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// readBytes is what a connection costs that says little. A frame is allocated when so
// much of it has come, or all of it.
const readBytes = 16 << 10

// read takes frames until the stream ends. Its error is never nil.
func (s *Session) read(ctx context.Context) error {
	r := bufio.NewReaderSize(s.conn, readBytes)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.drain:
			return Close(ReasonDrained, nil)
		}
		if err := s.admission(ctx); err != nil {
			return err
		}
		if err := s.window.wait(ctx, s.budget, func() bool { return Gone(s.conn) }); err != nil {
			return err
		}
		frame, came, err := s.frame(ctx, r)
		if err != nil {
			return err
		}
		h, body, err := wire.ParseRequest(frame)
		if err != nil {
			return Close(ReasonHeader, err)
		}
		s.greeted = true
		s.buffered.Store(r.Buffered() > 0)
		sl := &slot{session: s, size: int64(len(frame)), came: came, read: time.Now(), left: s.left}
		sl.req = Request{RequestHeader: h, Body: body, slot: sl}
		s.requests <- sl // never full: slots bound it
	}
}

// admitPause is how often a connection that is not let in is looked at while it waits.
const admitPause = 100 * time.Millisecond

// admission waits, until the client is let in, for the answer to each request: so nothing
// is read for a client that the answer before may have let in, or sent away.
func (s *Session) admission(ctx context.Context) error {
	if s.gate == nil {
		return nil
	}
	look := time.NewTicker(admitPause)
	defer look.Stop()
	for s.window.used.Load() > 0 {
		select {
		case <-s.window.room:
		case now := <-look.C: // what it asked for is work that is then not done
			switch {
			case !now.Before(s.admitBy):
				return Close(ReasonNoLogin, nil)
			case Gone(s.conn):
				return Close(ReasonClient, nil)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.drain:
			return Close(ReasonDrained, nil)
		}
	}
	if s.gate.Admitted() {
		s.gate, s.admitBy = nil, time.Time{}
		if s.events.Admitted != nil {
			s.events.Admitted()
		}
	}
	return nil
}

// bytesMax of the next frame.
func (s *Session) bytesMax() int {
	if s.gate != nil {
		return min(s.limits.AdmitBytesMax, s.limits.FrameBytesMax)
	}
	return s.limits.FrameBytesMax
}

// frame reads a frame, and counts it before it is allocated. It tells when the frame began.
func (s *Session) frame(ctx context.Context, r *bufio.Reader) (frame []byte, came time.Time, err error) {
	s.deadline(s.limits.IdleMax)
	if _, err := r.Peek(1); err != nil {
		return nil, came, s.readFault(err, ReasonIdle, ReasonClient)
	}
	came = time.Now()
	if err := s.muted(ctx, came); err != nil {
		return nil, came, err
	}
	if !s.greeted { // clients may be silent before: some dial long before they ask
		s.greetBy = came.Add(s.limits.GreetMax)
	}
	s.deadline(s.limits.FrameMax)
	prefix, err := r.Peek(4)
	if err != nil {
		return nil, came, s.readFault(err, ReasonSlowFrame, ReasonTruncated)
	}
	size := int64(int32(binary.BigEndian.Uint32(prefix)))
	if size < 0 || size > int64(s.bytesMax()) {
		size = 0 // ReadFrame says what is wrong with it
	}
	if _, err := r.Peek(int(min(4+size, readBytes))); err != nil {
		return nil, came, s.readFault(err, ReasonSlowFrame, ReasonTruncated)
	}
	s.greetBy = time.Time{} // how long the rest takes may be the budget's fault
	if size > frameBytesFree {
		if err := s.budget.wait(ctx, size, func() bool { return Gone(s.conn) }); err != nil {
			return nil, came, err
		}
	}
	if size > frameBytesFree || !s.greeted {
		s.deadline(s.limits.FrameMax)
	}
	s.count(size)
	var room []byte
	if size <= s.largest {
		room = make([]byte, 0, size)
	}
	if frame, err = wire.ReadFrame(r, room, s.bytesMax()); err != nil {
		s.count(-size)
		return nil, came, s.readFault(err, ReasonSlowFrame, ReasonTruncated)
	}
	s.largest = max(s.largest, size)
	return frame, came, nil
}

// deadline sets the read deadline unless Drain has set its own.
func (s *Session) deadline(d time.Duration) {
	until := time.Now().Add(d)
	if !s.greetBy.IsZero() && until.After(s.greetBy) {
		until = s.greetBy
	}
	if !s.admitBy.IsZero() && until.After(s.admitBy) {
		until = s.admitBy
	}
	s.conn.SetReadDeadline(until)
	if s.draining() {
		s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (s *Session) readFault(err error, late, ended Reason) error {
	var frame *wire.FrameError
	switch {
	case errors.As(err, &frame):
		return Close(Reason("frame-"+frame.Reason), err)
	case s.draining():
		return Close(ReasonDrained, nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		if !s.greetBy.IsZero() && !time.Now().Before(s.greetBy) {
			late = ReasonNoGreeting
		}
		if !s.admitBy.IsZero() && !time.Now().Before(s.admitBy) {
			late = ReasonNoLogin
		}
		return Close(late, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Close(ended, err)
	}
	return Close(ReasonClient, err)
}

// dispatch begins requests in their order; those of a client that has gone
// only where they are silent, and while the process lives.
func (s *Session) dispatch(ctx, process context.Context) {
	defer close(s.order)
	for sl := range s.requests {
		begin := ctx
		silent := s.handler.Silent(sl.req)
		if silent && !s.failed() {
			begin = process
		}
		if begin.Err() != nil || sl.left && !silent { // it lay there, and may have been sent again elsewhere
			s.done(sl)
			continue
		}
		answer, err := s.handler.Begin(begin, sl.req)
		if err != nil {
			s.done(sl)
			s.end(err)
			continue
		}
		sl.answer, sl.req.Body = answer, nil
		s.order <- sl // never full: slots bound it
	}
}

// write answers requests in their order (invariant A).
func (s *Session) write(ctx context.Context) {
	for sl := range s.order {
		body, err := sl.answer(ctx)
		var last error
		if body != nil {
			last, err = err, nil
		}
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		unread := sl.pause > 0 && s.liesUnread()
		if err == nil {
			s.told(sl, unread) // also before, or what the client sends at once would be read
		}
		if err == nil && body != nil {
			err = s.put(sl, body)
		}
		if err == nil {
			err = last
		}
		if sl.afterWrite != nil {
			sl.afterWrite(err)
		}
		if err == nil {
			s.told(sl, unread)
		}
		s.done(sl)
		if err != nil {
			s.end(err)
			continue
		}
		if s.events.RequestServed != nil {
			s.events.RequestServed(sl.req.Key, sl.req.Version, time.Since(sl.read))
		}
	}
}

func (s *Session) put(sl *slot, body []byte) error {
	head := wire.AppendResponseHeader(make([]byte, 4, 16), sl.req.Key, sl.req.Version, sl.req.CorrelationID)
	pieces := append(net.Buffers{head, body}, sl.rest...)
	size := len(head) - 4 + len(body)
	for _, piece := range sl.rest {
		size += len(piece)
	}
	if len(sl.rest) == 0 {
		sl.req.Hold(int64(size))
	} else { // the pieces are parts of what was held for them
		sl.req.Hold(max(int64(size), sl.held))
	}
	head[0], head[1], head[2], head[3] = byte(size>>24), byte(size>>16), byte(size>>8), byte(size)
	s.conn.SetWriteDeadline(time.Now().Add(s.limits.WriteMax))
	if _, err := pieces.WriteTo(s.conn); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Close(ReasonSlowReader, err)
		}
		return Close(ReasonClient, err)
	}
	return nil
}

// end closes the connection from the inside: nothing more is read or written.
func (s *Session) end(err error) {
	s.fail(err)
	s.cancel()
	s.conn.Close()
}

// count changes what the connection makes the process hold.
func (s *Session) count(more int64) {
	s.window.add(more, s.budget)
	if s.events.BytesHeld != nil && more != 0 {
		s.events.BytesHeld(more)
	}
}

func (s *Session) done(sl *slot) {
	<-s.slots // before who waits for room is woken: it counts them too
	s.count(-sl.size - sl.held)
}
