package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
)

// Cluster implements broker.Cluster.
type Cluster struct {
	// Set once, read by anyone.
	config Config
	admin  *admin
	life   context.Context // until Close
	end    context.CancelFunc

	besides sync.WaitGroup // what is asked aside from the callers

	mu struct {
		sync.Mutex
		closed       bool
		capabilities broker.Capabilities
		probed       bool
		probing      chan struct{} // closed when the questions under way are answered; nil: none are
		nodes        map[int32]broker.Node
		leaders      map[spillway.TopicPartition]leadership
		coordinators map[coordinatorKey]int32
		links        map[int32]*link // the cluster's own connections, by node
		bootstrap    int             // place among the candidates to try first
	}
}

type leadership struct{ node, epoch int32 }

type coordinatorKey struct {
	kind broker.CoordinatorKind
	key  string
}

// link is the cluster's own connection to one node. Who connects has the turn, so
// that callers share one attempt; who waits for it can give up, as the attempt may
// be another's, who has more time.
type link struct {
	turn chan struct{} // has room for one
	conn *conn.Conn
}

// Bounds for what a cluster may say about itself.
const (
	nodesMax     = 10_000
	hostBytesMax = 255
)

var _ broker.Cluster = (*Cluster)(nil)

// New checks the configuration. It does not connect: a site may be down when
// Spillway starts.
func New(config Config) (*Cluster, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("site %s: %w", config.Site, err)
	}
	c := &Cluster{config: config}
	c.life, c.end = context.WithCancel(context.Background())
	c.mu.capabilities = declared
	if config.Capabilities != nil {
		c.mu.capabilities, c.mu.probed = *config.Capabilities, true
	}
	c.mu.nodes = map[int32]broker.Node{}
	c.mu.links = map[int32]*link{}
	c.forget()
	c.admin = &admin{cluster: c}
	return c, nil
}

// forget drops what invariant A is about. The lock is held or not yet needed.
func (c *Cluster) forget() {
	c.mu.leaders = map[spillway.TopicPartition]leadership{}
	c.mu.coordinators = map[coordinatorKey]int32{}
}

// Site implements broker.Cluster.
func (c *Cluster) Site() spillway.SiteID { return c.config.Site }

// Admin implements broker.Cluster.
func (c *Cluster) Admin() broker.Admin { return c.admin }

// Close implements broker.Cluster.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	links := c.mu.links
	c.mu.links = nil
	c.mu.Unlock()
	c.end()
	c.besides.Wait()
	for _, l := range links {
		l.turn <- struct{}{}
		if l.conn != nil {
			l.conn.Close()
		}
		<-l.turn
	}
	return c.admin.close()
}

// Dial implements broker.Cluster.
func (c *Cluster) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	return c.dial(ctx, node, c.avoid)
}

// dial is Dial for who decides what it means that a node could not be reached.
func (c *Cluster) dial(ctx context.Context, node int32, gone func(node int32)) (*conn.Conn, error) {
	if node == broker.AnyNode {
		return c.dialAny(ctx)
	}
	n, err := c.node(ctx, node)
	if errors.Is(err, broker.ErrUnknownNode) {
		gone(node)
	}
	if err != nil {
		return nil, err
	}
	opened, err := c.open(ctx, node, address(n))
	if err != nil {
		gone(node)
	}
	return opened, err
}

// Address implements broker.Cluster.
func (c *Cluster) Address(node int32) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, known := c.mu.nodes[node]
	return address(n), known
}

func address(n broker.Node) string { return net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port))) }

func (c *Cluster) open(ctx context.Context, node int32, address string) (*conn.Conn, error) {
	return conn.Open(ctx, conn.Config{
		Site: c.config.Site, Node: node, Address: address, ClientID: c.config.ClientID,
		TLS: c.config.TLS, SASL: c.config.SASL, Dial: c.config.Dial,
		Namespace: c.config.Namespace, InFlightMax: c.config.InFlightMax, HandshakeTimeout: c.config.HandshakeTimeout,
	})
}

// candidate is where any node of the cluster may be reached.
type candidate struct {
	node    int32
	address string
}

// candidates are the bootstrap addresses, and then the nodes that are known: an address
// may lead to one node only, which hangs. The lock is held.
func (c *Cluster) candidates() []candidate {
	all := make([]candidate, 0, len(c.config.Bootstrap)+len(c.mu.nodes))
	for _, at := range c.config.Bootstrap {
		all = append(all, candidate{broker.AnyNode, at})
	}
	for _, id := range slices.Sorted(maps.Keys(c.mu.nodes)) {
		all = append(all, candidate{id, address(c.mu.nodes[id])})
	}
	return all
}

// dialAny tries the candidates, the one that answered last first.
func (c *Cluster) dialAny(ctx context.Context) (*conn.Conn, error) {
	c.mu.Lock()
	first, all := c.mu.bootstrap, c.candidates()
	c.mu.Unlock()
	faults := []error{broker.ErrAllUnreachable}
	for i := range all {
		at := (first + i) % len(all)
		opened, err := c.open(ctx, all[at].node, all[at].address)
		if err == nil {
			c.beginAt(at)
			return opened, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			// It took all the time, as one does that hangs: whoever asks next begins behind it.
			c.beginAt(at + 1)
			break
		}
	}
	return nil, errors.Join(faults...)
}

func (c *Cluster) beginAt(at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.bootstrap = at % len(c.candidates())
}

// node finds a node, asking the cluster once if it is not known.
func (c *Cluster) node(ctx context.Context, id int32) (broker.Node, error) {
	for fresh := false; ; fresh = true {
		c.mu.Lock()
		n, ok := c.mu.nodes[id]
		c.mu.Unlock()
		if ok {
			return n, nil
		}
		if fresh {
			return broker.Node{}, fmt.Errorf("site %s: node %d: %w", c.config.Site, id, broker.ErrUnknownNode)
		}
		if _, err := c.ask(ctx, onlyNodes()); err != nil {
			return broker.Node{}, err
		}
	}
}

// lost forgets everything that pointed to a node which could not be reached.
func (c *Cluster) lost(node int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp, l := range c.mu.leaders {
		if l.node == node {
			delete(c.mu.leaders, tp)
		}
	}
	for key, n := range c.mu.coordinators {
		if n == node {
			delete(c.mu.coordinators, key)
		}
	}
	delete(c.mu.nodes, node)
}

// own returns the cluster's own connection to a node, made when needed.
func (c *Cluster) own(ctx context.Context, node int32, gone func(node int32)) (*conn.Conn, error) {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("site %s: %w", c.config.Site, conn.ErrClosed)
	}
	l, ok := c.mu.links[node]
	if !ok {
		l = &link{turn: make(chan struct{}, 1)}
		c.mu.links[node] = l
	}
	c.mu.Unlock()

	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("site %s: wait for a connection to node %d: %w", c.config.Site, node, ctx.Err())
	}
	if l.conn != nil && l.conn.Err() == nil && !broker.Moved(c, l.conn) {
		return l.conn, nil
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	opened, err := c.dial(ctx, node, gone)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	closed := c.mu.closed
	c.mu.Unlock()
	if closed { // Close has passed this link already
		opened.Close()
		return nil, fmt.Errorf("site %s: %w", c.config.Site, conn.ErrClosed)
	}
	l.conn = opened
	return opened, nil
}

// requestMax bounds a request on a cluster's own connection; the broker answers
// each of them at once, or hangs.
const requestMax = 10 * time.Second

// hangMin is how long a node that answers nothing is waited for at least before it is
// taken to hang. Who asked may have had less time than any node needs.
const hangMin = 3 * time.Second

// do sends a request on the cluster's own connection, in at most the given version. A node
// that does not answer is avoided (invariant A).
func (c *Cluster) do(ctx context.Context, node int32, req kmsg.Request, highest int16) (kmsg.Response, error) {
	return c.request(ctx, node, req, highest, c.avoid)
}

// forgetNothing is for requests after which the caller has the cluster asked where things are,
// so that nobody else has to wait until that is known again.
func forgetNothing(int32) {}

// request is do for who decides what it means that a node does not answer.
func (c *Cluster) request(ctx context.Context, node int32, req kmsg.Request, highest int16, gone func(node int32)) (kmsg.Response, error) {
	if err := ctx.Err(); err != nil { // nobody would wait for the answer
		return nil, fmt.Errorf("site %s: %s: %w", c.config.Site, kmsg.NameForKey(req.Key()), err)
	}
	link, err := c.own(ctx, node, gone)
	if err != nil {
		return nil, err
	}
	offered := link.MaxVersion(req.Key())
	if offered < 0 {
		return nil, fmt.Errorf("site %s: %s: %w", c.config.Site, kmsg.NameForKey(req.Key()), broker.ErrNotSupported)
	}
	forget := gone
	gone = func(node int32) {
		if !broker.Moved(c, link) { // else it was left for the address that is known by now
			forget(node)
		}
	}
	req.SetVersion(min(highest, offered, req.MaxVersion()))
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	sent := time.Now()
	pending := link.Send(ctx, req.Key(), req.GetVersion(), true, req.AppendTo(nil))
	body, err := pending.Wait(ctx)
	switch {
	case err == nil:
	case link.Err() != nil:
		gone(node)
		return nil, err
	case ctx.Err() != nil:
		c.watch(link, pending, sent.Add(hangMin), func() { gone(node) })
		return nil, err
	default:
		return nil, err
	}
	resp := req.ResponseKind()
	if err := conn.Decode(resp, body); err != nil {
		return nil, fmt.Errorf("site %s: %s v%d of node %d: %w", c.config.Site, kmsg.NameForKey(req.Key()), req.GetVersion(), node, err)
	}
	return resp, nil
}

// watch closes a connection on which a request has no answer by then: a node that hangs
// would hang the next request too. Others use the connection, so the time of the one who
// asked counts only where it was long enough.
func (c *Cluster) watch(link *conn.Conn, pending *conn.Pending, by time.Time, gone func()) {
	leave := func() {
		link.Close()
		gone()
	}
	left := time.Until(by)
	if left <= 0 {
		leave()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return
	}
	c.besides.Go(func() {
		late := time.NewTimer(left)
		defer late.Stop()
		select {
		case <-pending.Done():
		case <-c.life.Done():
		case <-late.C:
			leave()
		}
	})
}

// avoid makes the next request go elsewhere, where there is an elsewhere.
func (c *Cluster) avoid(node int32) {
	if node != broker.AnyNode {
		c.lost(node)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.bootstrap = (c.mu.bootstrap + 1) % len(c.candidates())
}

// any is for requests that every node answers: an open connection if there is
// one, else whichever can be reached.
func (c *Cluster) any(ctx context.Context, req kmsg.Request, highest int16) (kmsg.Response, error) {
	return c.do(ctx, broker.AnyNode, req, highest)
}
