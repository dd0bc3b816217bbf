package router

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
)

// LaneKind keeps requests that wait long apart from those that do not: a
// broker serves one request per connection at a time (C22).
type LaneKind int

// Kinds of upstream connections.
const (
	ProduceLane LaneKind = iota
	FetchLane
	GroupLane
	OtherLane // short questions: ListOffsets and the like
)

// Lane is one upstream connection that belongs to one client connection.
type Lane struct {
	Kind LaneKind
	Site spillway.SiteID
	Node int32
	conn *conn.Conn
	// answered is when its broker has answered last, where several share it: see unanswered.
	answered atomic.Pointer[time.Time]
}

func (l *Lane) answers(at time.Time) { l.answered.Store(&at) }

// alive tells whether the connection has not failed yet.
func (l *Lane) alive() bool {
	select {
	case <-l.conn.Closed():
		return false
	default:
		return true
	}
}

// barrier returns when the broker has done everything sent before: it serves
// the requests of one connection in order.
func (l *Lane) barrier(ctx context.Context) error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 0
	_, err := l.conn.DoVersion(ctx, req)
	return err
}

type laneKey struct {
	kind LaneKind
	site spillway.SiteID
	node int32
}

// lanes are the upstream connections of one client connection, or the gateway's own.
type lanes struct {
	router *Router

	mu struct {
		sync.Mutex
		closed   bool
		byKey    map[laneKey]*Lane
		dials    map[laneKey]*dial         // under way
		slow     map[laneKey]time.Time     // see reach
		patience map[laneKey]time.Duration // see patient
	}
}

func newLanes(r *Router) *lanes {
	ls := &lanes{router: r}
	ls.mu.byKey = make(map[laneKey]*Lane)
	return ls
}

// dial is an upstream connection that is being made. It goes on when those who wait for it
// have no more time: who comes next finds it further.
type dial struct {
	done chan struct{}
	lane *Lane // this and err are set before done is closed
	err  error
}

// dialMax bounds how long an upstream connection may take to be made, and a look-up at a
// site of where something is.
const dialMax = 3 * time.Second

// Lane returns the client connection's upstream connection of a kind to a node of a site.
// If there is none or the last one failed it is dialled, once for all who wait for it.
func (ls *lanes) Lane(ctx context.Context, kind LaneKind, site spillway.SiteID, node int32) (*Lane, error) {
	l, d, err := ls.find(laneKey{kind, site, node})
	if l != nil || err != nil {
		return l, err
	}
	select {
	case <-d.done:
		return d.lane, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a connection to node %d of site %s: %w", node, site, ctx.Err())
	}
}

// find returns the connection, or the dial of one.
func (ls *lanes) find(k laneKey) (*Lane, *dial, error) {
	cluster := ls.router.sites[k.site]
	if cluster == nil {
		return nil, nil, fmt.Errorf("site %s is not configured at this gateway", k.site)
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.mu.byKey[k]; l != nil && l.alive() && !(k.kind == GroupLane && broker.Moved(cluster, l.conn)) {
		return l, nil, nil
	}
	if ls.mu.closed {
		return nil, nil, conn.ErrClosed
	}
	d := ls.mu.dials[k]
	if d == nil {
		d = &dial{done: make(chan struct{})}
		if ls.mu.dials == nil {
			ls.mu.dials = make(map[laneKey]*dial)
		}
		ls.mu.dials[k] = d
		ls.router.background.Go(func() { ls.dial(cluster, k, d) })
	}
	return nil, d, nil
}

func (ls *lanes) dial(cluster broker.Cluster, k laneKey, d *dial) {
	ctx, cancel := context.WithTimeout(ls.router.ctx, dialMax)
	defer cancel()
	c, err := cluster.Dial(ctx, k.node)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	defer close(d.done)
	delete(ls.mu.dials, k)
	if err == nil && ls.mu.closed {
		go c.Close()
		err = conn.ErrClosed
	}
	if d.err = err; err != nil {
		return
	}
	d.lane = &Lane{Kind: k.kind, Site: k.site, Node: k.node, conn: c}
	if old := ls.mu.byKey[k]; old != nil {
		ls.router.settleSilent(old, false)
		go old.conn.Close() // has failed, or its node is elsewhere; only its goroutines are waited for
	}
	ls.mu.byKey[k] = d.lane
}

// ask puts a question and waits for the answer.
func (ls *lanes) ask(ctx context.Context, l *Lane, req kmsg.Request) (kmsg.Response, error) {
	resp, err := l.conn.DoVersion(ctx, req)
	if err != nil {
		ls.giveUp(l, nil)
	}
	return resp, err
}

// giveUp ends a connection on which an answer did not come in time: it may come much later,
// and would hold up the next request. first is done before.
func (ls *lanes) giveUp(l *Lane, first func()) {
	ls.mu.Lock()
	if k := (laneKey{l.Kind, l.Site, l.Node}); ls.mu.byKey[k] == l {
		delete(ls.mu.byKey, k)
	}
	ls.mu.Unlock()
	ls.router.background.Go(func() {
		if first != nil {
			first()
		}
		_ = l.conn.Close()
	})
}

// close closes all connections, after those of kind ProduceLane have carried
// out what was sent: their produces must not become unsure because a client left.
func (ls *lanes) close() {
	ls.mu.Lock()
	ls.mu.closed = true
	byKey := ls.mu.byKey
	ls.mu.byKey = nil
	ls.mu.Unlock()
	for k, l := range byKey {
		if k.kind == ProduceLane {
			ctx, cancel := context.WithTimeout(context.Background(), ls.router.config.ProduceMax)
			ls.router.settleSilent(l, l.barrier(ctx) == nil)
			cancel()
		}
		l.conn.Close()
	}
}
