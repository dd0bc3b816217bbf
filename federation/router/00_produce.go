package router

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/federation/authorization"
	"spillway/federation/quota"
	"spillway/federation/session"
	"spillway/lb"
)

// Produce (0). v3 transactional id, format 2; v5 log start; v8 record errors;
// v9 flexible; v10 current leader (KIP-951); v12 transactions of a second kind;
// v13 topic ids.
//
// Every batch is walked: its producer id is masked for the term, or that of a
// transaction made the site's own; its CRC patched, its offset in the answer made
// virtual. Left out: formats 0 and 1 (no producer ids), transactions of the second
// kind, current leaders in answers (the layout is in Metadata), the log start, and
// messages of the site other than about single records.
var produceAPI = api{
	key: 0, min: 3, max: 13, needs: 7, begin: (*Client).beginProduce,
	treatment: translated, about: "Each batch gets the producer id of the epoch, answers get virtual offsets. Only format 2; transactions of version 1. `ApiVersions` names versions from 0 on, as Kafka 4 does (KAFKA-18659); those below 3 are refused. Where the principal used more than its quota, the throttle time says for how long the connection is not read.",
}

// produceUpstreamMax: the site is asked by topic name, and adds no partition to a
// transaction by itself.
const produceUpstreamMax = 11

// produceTimeoutMax bounds the timeout that a request may ask for.
const produceTimeoutMax = time.Minute

// produce is one Produce request on its way.
type produce struct {
	client     *Client
	afterWrite func(func(error))
	pause      func() int32 // for the quota
	begun      time.Time
	came       time.Time // the first of it, from the client
	until      time.Time // of any hold
	timeout    time.Duration
	acks       int16
	// transactional is the id of the request, and transactions the share that it is of.
	transactional string
	transactions  *Share
	inTransaction bool // and some batch is of it; set where rights are looked at
	resp          *kmsg.ProduceResponse
	throttling    sync.Mutex // guards resp.ThrottleMillis and slowed
	slowed        time.Duration
	all           []*part // as they stand in the request
	done          chan struct{}
	open          atomic.Int32 // parts without a result
}

// part is one batch of a request.
type part struct {
	op      *produce
	tp      spillway.TopicPartition
	share   *Share
	out     *kmsg.ProduceResponseTopicPartition // written once, before finish
	records []byte                              // nil when they are written
	size    int                                 // of records
	header  batch.Header                        // as the client sent it
	code    int16                               // found by the checks

	// Set by the checks.
	asked  spillway.TopicPartition // as the client sent it; tp, but where it was spread
	home   *Share                  // of asked
	spread *spread                 // of an unordered group; nil: ordered
	hadID  bool                    // it came with a producer id, which was taken off
	barred lb.Set                  // siblings at whose sites the client may not write
	// undecided: nobody could tell whether the client may write it; see decided.
	undecided bool

	// The pick of the spread whose end it has not been told; −1: none.
	pick  atomic.Int32
	why   string      // the reason of a pick that was not sent yet
	tried lb.Set      // siblings that could not be reached
	late  *time.Timer // ends the pick of a site that does not answer; set when it is sent
	// Set when it is forwarded.
	term     Term
	leased   uint64 // term of the gateway's lease in which it was let in
	producer int64  // of a transaction: the site's own id, in term
	lane     *Lane
	inside   bool            // counted in the share: a move waits for it
	promised bool            // acknowledged, but the answer is not written; set before finish
	durable  bool            // ack.sites have it, or one more than them
	end      spillway.Offset // where it ends, if AckPolicy.OnLag is OnLagBlock; set before finish
	constant spillway.Offset
	sent     time.Time
	// generation is the layout in which it was let in, while it is counted there.
	generation int64
	counted    bool
	refusals   int // by brokers that do not lead; counted by the answers

	// Guarded by the lock of the connection's flows.
	turn   int64 // in its flow, from 1 on
	behind bool  // the client is told to send an earlier one again
	untold bool  // refused, and the answer is not written

	waited bool // for a missing sequence; set before it is sent
}

func (p *part) idempotent() bool { return p.header.ProducerID >= 0 }

// carried tells whether its producer goes on after a move: its id is one of the virtual
// cluster, masked for the term, and the trail has its batches. A transaction ends before
// a move, and its producer begins anew (transactions.go).
func (p *part) carried() bool { return p.idempotent() && !p.header.Transactional() }

func (p *part) contact() contactKey { return contactKey{p.header.ProducerID, p.tp} }

func (c *Client) beginProduce(ctx context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrProduceRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	op, parts := c.newProduce(ctx, sreq, req)
	if len(parts) > 0 {
		c.await(ctx, req.Acks == 0)
	}
	op.admit(ctx, parts)
	return op.answer, nil
}

// answer waits for all parts. A request without an answer (acks 0) that could
// not be served closes the connection, as Kafka does (C29).
func (op *produce) answer(ctx context.Context) ([]byte, error) {
	select {
	case <-op.done:
	case <-ctx.Done():
		op.client.router.background.Go(func() { <-op.done; op.keepPromises(ctx) })
		return nil, ctx.Err()
	}
	op.keepPromises(ctx)
	op.tellSlowed()
	op.throttle(op.pause())
	told := op.client.produces.tell(op.all)
	op.afterWrite(func(err error) {
		if err == nil { // else the client never knows
			told()
		}
	})
	if op.acks != 0 {
		return op.resp.AppendTo([]byte{}), nil
	}
	for _, t := range op.resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, session.Close(session.ReasonRefused, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	}
	return nil, nil
}

// newProduce checks a request and answers the parts that cannot be served. It
// returns the others.
func (c *Client) newProduce(ctx context.Context, sreq session.Request, req *kmsg.ProduceRequest) (op *produce, parts []*part) {
	sreq.Body = nil // AfterWrite keeps the rest
	op = &produce{
		client: c, afterWrite: sreq.AfterWrite, begun: time.Now(), came: sreq.CameAt(), acks: req.Acks, done: make(chan struct{}),
		timeout: min(max(time.Duration(req.TimeoutMillis)*time.Millisecond, time.Millisecond), produceTimeoutMax),
		resp:    req.ResponseKind().(*kmsg.ProduceResponse),
	}
	op.pause = func() int32 { return c.pause(sreq, quota.Produce) }
	op.until = op.begun.Add(min(c.router.config.HoldMax, op.timeout))
	if req.TransactionID != nil {
		op.transactional = *req.TransactionID
		op.transactions, _ = c.router.TransactionShare(op.transactional)
	}
	seen := make(map[spillway.TopicPartition]bool)
	invalid := op.checkRequest(req)
	op.resp.Topics = make([]kmsg.ProduceResponseTopic, len(req.Topics))
	naming := c.naming()
	for i, t := range req.Topics {
		out := &op.resp.Topics[i]
		*out = kmsg.NewProduceResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		name, known := naming.of(ctx, req.Version >= 13, t.Topic, t.TopicID)
		code := int16(0)
		if !known {
			code = kerr.UnknownTopicID.Code
		}
		may := c.guardByID(req.Version >= 13, authorization.Write, name)
		out.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))
		for j, in := range t.Partitions {
			p := &part{op: op, out: &out.Partitions[j], records: in.Records, size: len(in.Records), tp: spillway.TopicPartition{Topic: name, Partition: in.Partition}}
			p.header.ProducerID = -1 // until it was read
			p.asked = p.tp
			p.pick.Store(-1)
			*p.out = kmsg.NewProduceResponseTopicPartition()
			p.out.Partition, p.out.BaseOffset = in.Partition, -1
			if p.code = cmp.Or(invalid, code); p.code == 0 {
				p.code, p.barred = may.write(in.Partition)
			}
			p.decideLater()
			op.all = append(op.all, p)
		}
	}
	op.open.Store(int32(len(op.all)))
	if len(op.all) == 0 {
		close(op.done)
	}
	for _, p := range op.all {
		if p.code == 0 {
			p.code = p.check(seen)
		}
		if p.code != 0 {
			p.refuse(p.code, "invalid")
			continue
		}
		parts = append(parts, p)
	}
	return op, parts
}

func (op *produce) checkRequest(req *kmsg.ProduceRequest) int16 {
	switch {
	case req.Acks < -1 || req.Acks > 1:
		return kerr.InvalidRequiredAcks.Code
	case req.TransactionID != nil && op.transactions == nil:
		return kerr.TransactionalIDAuthorizationFailed.Code
	case req.TransactionID != nil && op.client.checked() && ofTransaction(req):
		op.inTransaction = true
		return op.transactionCode()
	}
	return 0
}

func (op *produce) transactionCode() int16 {
	return codeOf(op.client.may(authorization.Write, authorization.TransactionalID, op.transactional, op.transactions),
		kerr.TransactionalIDAuthorizationFailed, kerr.NotLeaderForPartition)
}

// decideLater lets a part wait for its share where nobody can tell what the client may do at the
// site that served it, as that is away: the next one will say. Shares of unordered groups stay
// where they are.
func (p *part) decideLater() {
	if p.code != kerr.NotLeaderForPartition.Code { // so far, that of who cannot be decided about
		return
	}
	share, ok := p.op.client.router.ShareOf(p.tp)
	if !ok || share.Group.Siblings.Of != "" {
		return
	}
	if _, serving := share.Serving(); !serving {
		p.code, p.undecided = 0, true
	}
}

// decided refuses those of the parts that the client may not write at the site that serves
// them by now.
func (op *produce) decided(parts []*part) []*part {
	return slices.DeleteFunc(parts, func(p *part) bool {
		if !p.undecided {
			return false
		}
		if _, serving := p.share.Serving(); !serving {
			return false
		}
		p.undecided = false
		code := int16(0)
		if op.inTransaction {
			code = op.transactionCode()
		}
		if code == 0 {
			may := op.client.guardByID(op.resp.Version >= 13, authorization.Write, p.tp.Topic)
			code = may.of(p.tp.Partition)
		}
		if code != 0 {
			p.refuse(code, "invalid")
		}
		return code != 0
	})
}

// ofTransaction tells whether any batch is of a transaction. Else brokers do not ask for the
// right to the transactional id.
func ofTransaction(req *kmsg.ProduceRequest) bool {
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			if h, _, err := batch.Parse(p.Records); err == nil && h.Transactional() {
				return true
			}
		}
	}
	return false
}

// check finds the share and looks at the batch; 0 if all is well.
func (p *part) check(seen map[spillway.TopicPartition]bool) int16 {
	r := p.op.client.router
	var ok bool
	if p.share, ok = r.ShareOf(p.tp); !ok || p.tp.Partition < 0 {
		return kerr.UnknownTopicOrPartition.Code
	}
	if seen[p.tp] {
		return kerr.InvalidRecord.Code // twice in one request: its order would be anybody's guess
	}
	seen[p.tp] = true
	p.op.client.concern(p.share)
	p.home, p.spread = p.share, r.spreads[p.share.Group.Siblings.Of]
	if h := p.share.Group.HoldMax; h > 0 {
		p.op.until = minTime(p.op.until, p.op.begun.Add(h))
	}
	if mine, _ := p.leads(); !mine {
		return kerr.NotLeaderForPartition.Code
	}
	h, rest, err := batch.Parse(p.records)
	switch {
	case errors.Is(err, batch.ErrMagic):
		return kerr.UnsupportedForMessageFormat.Code
	case err != nil:
		return kerr.CorruptMessage.Code
	case len(rest) > 0 || h.Control():
		return kerr.InvalidRecord.Code
	case h.Transactional() && p.op.transactions == nil:
		return kerr.TransactionalIDAuthorizationFailed.Code // else no right to the id would be asked for (CVE-2018-17196)
	case h.Transactional() && p.op.transactions != p.share:
		return kerr.TopicAuthorizationFailed.Code // of another failover group (C33)
	case h.ProducerID < -1 || h.ProducerID >= 0 && (h.BaseSequence < 0 || h.ProducerEpoch < 0):
		return kerr.InvalidRecord.Code
	case h.Transactional() && (h.ProducerID < 0 || h.BaseSequence < 0 || h.ProducerEpoch < 0):
		return kerr.InvalidRecord.Code
	case h.ProducerID >= 0 && !h.Transactional() && !spillway.IsClientProducerID(h.ProducerID):
		return kerr.InvalidProducerIDMapping.Code // not one of ours: it could collide with anybody's (C25)
	}
	p.header = h
	if h.Transactional() {
		p.op.client.transacts.Store(true)
	}
	if p.spread != nil {
		p.takeOffID()
	}
	return 0
}

// leads tells whether this gateway leads the partition that the client sent the part
// to, and may write it.
func (p *part) leads() (mine, ready bool) {
	return p.op.client.router.layout.Leads(p.home.ID, p.asked)
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// refuse answers a part with an error of the gateway's own. Where the client is
// to send it again, so must it those that came behind it and are not written; and
// none that it sends later is taken for the first that there is.
func (p *part) refuse(code int16, reason string) {
	p.op.client.router.events.refused(reason)
	if code != kerr.NotLeaderForPartition.Code {
		p.op.client.produces.drop(p)
		p.finish(code)
		return
	}
	with := p.op.client.produces.refuse(p)
	p.sentBack()
	p.finish(code)
	for _, q := range with {
		q.failed()
		q.refuse(code, "behind-refused")
	}
}

// sentBack notes that the client is told to send a part again.
func (p *part) sentBack() {
	if p.carried() {
		p.op.client.router.contacts.refuse(p.contact(), p.header.ProducerEpoch, p.header.BaseSequence)
	}
}

// finish answers a part; its other results are in out already.
func (p *part) finish(code int16) {
	p.ended(lb.Unknown)
	p.out.ErrorCode = code
	if code != 0 {
		p.out.BaseOffset = -1
	}
	if p.op.open.Add(-1) == 0 {
		close(p.op.done)
	}
}
