package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/layout"
)

// Transactions are those of the site that serves the failover group: its coordinator
// keeps their state, its markers end them. The gateway forwards what is asked about
// them, in version 1 of the protocol (see 18_api_versions.go), and keeps nothing that
// another gateway would need.
//
//	A  a client knows its producer id under the epoch in which the site gave it
//	   (spillway.TransactionalProducerID). An id of another epoch is never forwarded:
//	   at the site that serves now somebody else may have it (C33)
//	B  what is refused because of A gets the answer after which all client libraries
//	   abort and ask for an id anew by themselves (docs/decisions/0027); what a move has
//	   aborted is an abort that succeeded
//	C  partitions and groups of a transaction are of its id's failover group
//	D  a move waits for what is on its way to the site (groupCall.counted), and while groups
//	   drain no transaction begins: its client asks again, and is not kept from giving up
//	   its partitions

// TransactionShare finds the share within which a producer's transactions are.
func (r *Router) TransactionShare(id string) (*Share, bool) {
	g, ok := r.topology.GroupOfTransactionalID(id)
	if !ok {
		return nil, false
	}
	s, ok := r.shares[spillway.ShareID{Group: g.Name}]
	return s, ok
}

// Why a producer id is not one of the site that serves.
var (
	errOtherEpoch    = errors.New("the producer id is of another epoch")
	errOtherProducer = errors.New("the site's coordinator has another producer under the transactional id")
	errNoRights      = errors.New("the gateway may not ask the site about the transactional id")
)

// producerAt is the site's own producer id behind the one that a client knows. What this
// gateway has not seen, the site's coordinator tells: another gateway may have asked it.
// Ids of terms before oldest are of another epoch.
func (r *Router) producerAt(ctx context.Context, t Term, oldest spillway.Epoch, id string, producer int64) (int64, error) {
	epoch, low, ok := spillway.EpochOfProducerID(producer)
	switch {
	case ok && epoch > t.Epoch:
		return -1, errMoving // this gateway is behind
	case !ok || epoch < oldest:
		return -1, errOtherEpoch
	}
	if at, known := r.transactions.producer(id, epoch); known && spillway.SameProducerID(low, at) {
		return at, nil
	}
	if r.transactions.refusedLately(id, producer) {
		return -1, errOtherProducer
	}
	ctx, cancel := context.WithTimeout(ctx, groupPatience)
	defer cancel()
	found, err := r.sites[t.Site].Admin().DescribeTransaction(ctx, id)
	switch {
	case errors.Is(err, broker.ErrUnknownTransactionalID), err == nil && !spillway.SameProducerID(low, found.ProducerID):
		r.transactions.refused(id, producer)
		return -1, errOtherProducer
	case err != nil:
		r.tellUnknown(t.Site, err)
		if errors.Is(err, broker.ErrNotAuthorized) {
			return -1, errNoRights
		}
		return -1, err
	}
	if epoch == t.Epoch {
		r.transactions.learn(id, epoch, found.ProducerID)
	}
	return found.ProducerID, nil
}

// tellUnknown tells why a site said nothing about a transaction, once in a while: clients
// ask again and again.
func (r *Router) tellUnknown(site spillway.SiteID, err error) {
	if r.transactions.tells() {
		r.events.transactionUnknown(site, err)
	}
}

// transactionCall is one request about a transaction.
type transactionCall struct {
	id       string // transactional
	share    *Share
	producer int64 // as the client knows it; < 0: none
	// producerEpoch is that of the client's request.
	producerEpoch int16
	begins        bool // it may begin a transaction
	// continued: ids of terms that the one in force only continues are good too, as they
	// are those of the same coordinator.
	continued bool
	// upstream is the request for the site; false: its map does not know the numbers yet.
	upstream func(t Term, producer int64) (kmsg.Request, bool)
	// group is whose coordinator is asked; empty: the transactional id's.
	group string
	// take gets the answer, with the term in which it was given.
	take func(t Term, resp kmsg.Response)
}

// transact puts a request about a transaction to the coordinator of the site, and holds
// it while the share moves. Errors: errOtherEpoch and errOtherProducer; errMoving and
// any other when the hold is over.
func (c *Client) transact(ctx context.Context, call transactionCall) (err error) {
	begun := time.Now()
	c.transacts.Store(true)
	c.whileHeld(ctx, call.share, c.holdUntil(call.share), func() attempt {
		switch err = c.transactOnce(ctx, call); {
		case errors.Is(err, errOtherEpoch), errors.Is(err, errOtherProducer), errors.Is(err, errNoRights):
			return done
		case errors.Is(err, errDraining) && time.Since(begun) >= drainingHold:
			return done
		}
		return attemptOf(err)
	})
	return err
}

// errDraining: the request would begin a transaction while groups drain.
var errDraining = fmt.Errorf("groups drain: %w", errMoving)

// drainingHold is how long such a request is held. A client may send its heartbeats behind
// it on the same connection, and does not pause before it has had an answer to them.
const drainingHold = 200 * time.Millisecond

func (c *Client) transactOnce(ctx context.Context, call transactionCall) error {
	r := c.router
	t, serving := call.share.Serving()
	if !serving {
		return errMoving
	}
	producer := int64(-1)
	if call.producer >= 0 {
		oldest := t.Epoch
		if call.continued {
			oldest = t.Base
		}
		var err error
		if producer, err = r.producerAt(ctx, t, oldest, call.id, call.producer); err != nil {
			return err
		}
	}
	req, known := call.upstream(t, producer)
	if !known {
		return errNumbersUnknown
	}
	undo := func() {}
	if call.begins {
		// Noted first and looked at then: who reports that nothing is open sees one
		// of the two (D).
		var was bool
		if was, undo = r.transactions.begin(call.id, t.Epoch); !was && draining(call.share) {
			undo()
			r.ReportDrained(call.share)
			return errDraining
		}
	}
	if call.producer >= 0 && call.share.Adopting() {
		r.transactions.came(call.id, producer, call.producerEpoch)
	}
	to := groupCall{share: call.share, group: call.id, kind: broker.TransactionCoordinator, req: req, counted: true, epoch: t.Epoch}
	if call.group != "" {
		to.group, to.kind = call.group, broker.GroupCoordinator
	}
	got, err := c.coordinate(ctx, to)
	if err != nil {
		if errors.Is(err, errNotSent) {
			undo()
		}
		return err
	}
	if call.begins && !begun(got) {
		undo()
	}
	call.take(t, got)
	r.ReportDrained(call.share)
	return nil
}

// begun tells whether a coordinator has added anything to a transaction.
func begun(resp kmsg.Response) bool {
	switch resp := resp.(type) {
	case *kmsg.AddOffsetsToTxnResponse:
		return resp.ErrorCode == 0
	case *kmsg.AddPartitionsToTxnResponse:
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 {
					return true
				}
			}
		}
		return false
	}
	return true
}

// manners is what a library makes of the errors with which a producer id of an older
// epoch is refused (B): docs/decisions/0027 has the table.
type manners struct {
	coordinator int16 // to AddPartitionsToTxn, AddOffsetsToTxn, and EndTxn to commit
	produce     int16
	abort       int16 // to EndTxn to abort; 0: it has succeeded
	// later: AddOffsetsToTxn succeeds, and TxnOffsetCommit behind it is refused.
	later bool
}

// Most libraries abort after these two and get a new id. librdkafka takes
// INVALID_PRODUCER_EPOCH for final, which is better for others (franz-go gets the new id at
// once); sarama and Java from 4.0 on INVALID_PRODUCER_ID_MAPPING.
var anyManners = manners{coordinator: kerr.UnknownProducerID.Code, produce: kerr.InvalidTxnState.Code}

// mannersOf finds them by the name in ApiVersions (KIP-511). Java's UNKNOWN_PRODUCER_ID is an
// OutOfOrderSequenceException by class, which applications take for final, as its
// documentation does, so Java before 4.0 gets the other one. So does Kafka Streams of all
// versions, known by how it names its producers: it makes another producer.
func mannersOf(name, version, clientID string) *manners {
	m := anyManners
	switch name {
	case "apache-kafka-java":
		m.produce = kerr.InvalidProducerEpoch.Code
		if strings.HasPrefix(version, "2.") || strings.HasPrefix(version, "3.") || strings.Contains(clientID, "-StreamThread-") {
			m.coordinator = kerr.InvalidProducerIDMapping.Code
		}
	case "kgo", "franz-go", "sarama":
		m.produce = kerr.InvalidProducerEpoch.Code
	default:
		// It gets the new id after a refused abort, which then succeeds, or after refused
		// partitions. Where the offsets of a transaction are refused first it sends no
		// abort, and would begin with the same id again and again.
		if isRdkafka(name, version) {
			m.abort, m.later = kerr.UnknownProducerID.Code, true
		}
	}
	return &m
}

func (c *Client) mannered() manners {
	if m := c.manners.Load(); m != nil {
		return *m
	}
	return anyManners
}

// transactionError is what a client is told that asked about a transaction.
func (c *Client) transactionError(err error) int16 {
	c.router.events.refused("transaction")
	switch {
	case errors.Is(err, errOtherEpoch):
		return c.mannered().coordinator
	case errors.Is(err, errOtherProducer):
		return kerr.InvalidProducerIDMapping.Code
	case errors.Is(err, errNoRights): // all clients show it, and ask no more
		return kerr.TransactionalIDAuthorizationFailed.Code
	case errors.Is(err, errMoving):
		return kerr.CoordinatorLoadInProgress.Code
	default:
		return kerr.CoordinatorNotAvailable.Code
	}
}

// transactions is what this gateway remembers of transactional ids: the site's producer
// ids, which any gateway can ask for, and which transactions are open here, for which a
// planned move waits a little. What is forgotten costs a question or an abort.
type transactions struct {
	mu struct {
		sync.Mutex
		byID   map[string]*transactional
		forgot time.Time // when room was looked for last
		told   time.Time // when a fault was told of last
	}
}

type transactional struct {
	seen     time.Time
	epoch    spillway.Epoch // in which the site gave the producer id
	producer int64
	told     int16         // newest epoch of that id with which somebody came by this gateway; −1: not known
	timeout  time.Duration // of its transactions
	open     time.Time     // when the open one began; zero: none is
	openIn   spillway.Epoch
	// refused is an id, as a client knows it, that was another producer's at refusedAt.
	refused   int64
	refusedAt time.Time
}

// Bounds for what is remembered of transactional ids.
const (
	transactionalMax     = 100_000
	transactionalIDMax   = 512         // bytes of one
	transactionalMemory  = time.Minute // of one without an open transaction, where room is needed
	forgetPause          = time.Second
	refusedMemory        = time.Second
	tellPause            = 10 * time.Second
	transactionTimeout   = time.Minute // of one that did not say so here, as is Kafka's default
	transactionTimeoutMx = 15 * time.Minute
)

func newTransactions() *transactions {
	x := &transactions{}
	x.mu.byID = make(map[string]*transactional)
	return x
}

// of is the entry of an id, with the lock held; nil where there is no room.
func (x *transactions) of(id string) *transactional {
	e := x.mu.byID[id]
	if e == nil {
		if len(id) > transactionalIDMax || len(x.mu.byID) >= transactionalMax && !x.forget() {
			return nil
		}
		e = &transactional{producer: -1, told: -1, timeout: transactionTimeout}
		x.mu.byID[id] = e
	}
	e.seen = time.Now()
	return e
}

// forget makes room; false if there is none. Producers that come while there is none do not
// have all looked through again at once.
func (x *transactions) forget() bool {
	if time.Since(x.mu.forgot) < forgetPause {
		return false
	}
	x.mu.forgot = time.Now()
	for id, e := range x.mu.byID {
		if time.Since(e.seen) > transactionalMemory && !e.isOpen() {
			delete(x.mu.byID, id)
		}
	}
	return len(x.mu.byID) < transactionalMax
}

// openIs: of an older epoch are those that a move has ended.
func (e *transactional) openIs(epoch spillway.Epoch) bool { return e.isOpen() && e.openIn == epoch }

// tells: a fault may be told of.
func (x *transactions) tells() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	tells := time.Since(x.mu.told) >= tellPause
	if tells {
		x.mu.told = time.Now()
	}
	return tells
}

// isOpen tells whether a transaction was begun in an epoch, and nobody here knows its end.
func (x *transactions) isOpen(id string, epoch spillway.Epoch) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.mu.byID[id]
	return e != nil && e.openIs(epoch)
}

// isOpen: one whose time is over is ended by the site.
func (e *transactional) isOpen() bool { return !e.open.IsZero() && time.Since(e.open) < e.timeout }

func (x *transactions) producer(id string, epoch spillway.Epoch) (int64, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.mu.byID[id]
	if e == nil || e.epoch != epoch || e.producer < 0 {
		return -1, false
	}
	e.seen = time.Now()
	return e.producer, true
}

// refusedLately spares the coordinator the question for each batch of a producer that was
// fenced and did not notice.
func (x *transactions) refusedLately(id string, producer int64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.mu.byID[id]
	return e != nil && e.refused == producer && time.Since(e.refusedAt) < refusedMemory
}

func (x *transactions) refused(id string, producer int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.of(id); e != nil {
		e.refused, e.refusedAt = producer, time.Now()
	}
}

func (x *transactions) learn(id string, epoch spillway.Epoch, producer int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.of(id); e != nil {
		if e.epoch != epoch || e.producer != producer {
			e.told = -1
		}
		e.epoch, e.producer = epoch, producer
	}
}

// came notes with which epoch of its id a producer came by this gateway.
func (x *transactions) came(id string, producer int64, told int16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.mu.byID[id]; e != nil && e.producer == producer {
		e.told = max(e.told, told)
	}
}

// initialized notes that a producer begins anew: what was open is aborted.
func (x *transactions) initialized(id string, epoch spillway.Epoch, producer int64, told int16, timeout time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.of(id); e != nil {
		e.epoch, e.producer, e.told, e.open = epoch, producer, told, time.Time{}
		e.timeout = min(max(timeout, time.Second), transactionTimeoutMx)
	}
}

// begin notes that a transaction is open in an epoch, and tells whether it was before.
// undo takes that back.
func (x *transactions) begin(id string, epoch spillway.Epoch) (was bool, undo func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.of(id)
	if e == nil {
		return false, func() {}
	}
	if e.openIs(epoch) {
		return true, func() {}
	}
	now := time.Now()
	e.open, e.openIn = now, epoch
	return false, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if e.open.Equal(now) {
			e.open = time.Time{}
		}
	}
}

func (x *transactions) ended(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.mu.byID[id]; e != nil {
		e.open = time.Time{}
	}
}

// settledAll tells whether no transaction is open that began in an epoch, of the ids that
// the caller names.
func (x *transactions) settledAll(epoch spillway.Epoch, of func(id string) bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, e := range x.mu.byID {
		if e.openIs(epoch) && of(id) {
			return false
		}
	}
	return true
}

// Bounds of what is told of those that came by this gateway, while a share is adopting. A
// member that has done nothing for longer than throughFor may have gone to the brokers since.
const (
	throughFor = time.Minute
	throughMax = 500
	// transactionalMore is more than passes until a control loop has seen what a producer did
	// last.
	transactionalMore = 5 * time.Minute
)

// transactionalFor is for how long transactional producers are told of: until control loops
// count one that has done nothing since as gone, by looks of which the first was late, or of a
// loop that was started anew meanwhile. Else one that pauses would look like one that goes past
// the gateways. Who comes by the brokers gets a newer epoch of the id there, so it may be long.
func (r *Router) transactionalFor() time.Duration {
	return 2*r.config.DirectQuiet + transactionalMore
}

// TransactionalProducers are, by share that is adopting, the ids that the site that serves it has
// given to transactional producers which came by this gateway lately, ascending, throughMax of a
// share at most, each with the newest epoch of it.
func (r *Router) TransactionalProducers() map[*Share][]layout.Through {
	type came struct {
		id    string
		epoch spillway.Epoch
		layout.Through
	}
	var all []came
	x, lately := r.transactions, r.transactionalFor()
	x.mu.Lock()
	for id, e := range x.mu.byID {
		if e.producer >= 0 && e.told >= 0 && time.Since(e.seen) <= lately {
			all = append(all, came{id, e.epoch, layout.Through{Producer: e.producer, Epoch: e.told}})
		}
	}
	x.mu.Unlock() // whose they are is found without holding up producers
	through := make(map[*Share][]layout.Through)
	for _, c := range all {
		s, known := r.TransactionShare(c.id)
		if !known || !s.Adopting() {
			continue
		}
		if t, serving := s.Serving(); serving && c.epoch >= t.Base {
			through[s] = append(through[s], c.Through)
		}
	}
	for s, ids := range through {
		slices.SortFunc(ids, func(a, b layout.Through) int { return cmp.Compare(a.Producer, b.Producer) })
		through[s] = ids[:min(len(ids), throughMax)]
	}
	return through
}
