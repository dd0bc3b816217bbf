package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
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
}

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

// lanes are the upstream connections of one client connection.
type lanes struct {
	router *Router

	mu struct {
		sync.Mutex
		closed bool
		byKey  map[laneKey]*Lane
	}
}

// dialMax bounds how long a request waits for an upstream connection.
const dialMax = 3 * time.Second

// Lane returns the client connection's upstream connection of a kind to a node
// of a site, dialling it if there is none or the last one failed. Do not call
// it for one key from two goroutines at once.
func (ls *lanes) Lane(ctx context.Context, kind LaneKind, site spillway.SiteID, node int32) (*Lane, error) {
	k := laneKey{kind, site, node}
	ls.mu.Lock()
	l := ls.mu.byKey[k]
	ls.mu.Unlock()
	if l != nil && l.alive() {
		return l, nil
	}
	cluster := ls.router.sites[site]
	if cluster == nil {
		return nil, fmt.Errorf("site %s is not configured at this gateway", site)
	}
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	c, err := cluster.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	old := l
	l = &Lane{Kind: kind, Site: site, Node: node, conn: c}
	if !ls.put(k, l) {
		go c.Close()
		return nil, conn.ErrClosed
	}
	if old != nil {
		ls.router.settleSilent(old, false)
		go old.conn.Close() // has failed; only its goroutines are waited for
	}
	return l, nil
}

// put returns false when all connections were closed.
func (ls *lanes) put(k laneKey, l *Lane) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.mu.closed {
		return false
	}
	ls.mu.byKey[k] = l
	return true
}

// forget leaves a connection to the caller, who closes it.
func (ls *lanes) forget(l *Lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if k := (laneKey{l.Kind, l.Site, l.Node}); ls.mu.byKey[k] == l {
		delete(ls.mu.byKey, k)
	}
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
