package router

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/wire"
	"spillway/federation/authorization"
	"spillway/federation/quota"
	"spillway/federation/records"
	"spillway/federation/session"
	"spillway/mirror/offsetmap"
)

// Fetch (1). v4 isolation level; v5 log start; v7 sessions (KIP-227); v9 leader
// epoch; v11 racks; v12 flexible, diverging epoch; v13 topic ids; v15 replica
// state; v16 node endpoints (KIP-951); v17 directory ids.
//
// Every batch is walked: base offset and leader epoch become virtual, what
// belongs to no range is left out, holes end in an empty batch (package
// records). Left out: sessions (the client is told that there is none and sends
// every partition each time), diverging epochs, current leaders. Preferred replicas are
// told where a group's standbys are read (standby.go).
var fetchAPI = api{
	key: 1, min: 4, max: 17, needs: 4, begin: (*Client).beginFetch,
	treatment: translated, about: "Virtual offsets and leader epochs in every batch; what belongs to no range is left out. Without sessions: every partition is named each time. Where standbys are read, a rack that is a site's name is answered with the node there (KIP-392). Where the principal used more than its quota, no records and a throttle time.",
}

// fetchUpstreamMax: the site is asked by topic name.
const fetchUpstreamMax = 12

// Bounds of one fetch, whatever the client asks for.
const (
	fetchWaitMax  = 30 * time.Second
	fetchBytesMax = 32 << 20 // of one answer; a single larger batch still passes
	// fetchBytesFree is what a fetch may always ask for: so little that those
	// that wait for records need not be counted, and enough to go on with where
	// the budget of the process is used up.
	fetchBytesFree = 64 << 10
	fetchPauseMin  = 20 * time.Millisecond
	markPause      = 50 * time.Millisecond // waiting for the mark of one partition, before all are looked at again
	fetchSeveral   = 25 * time.Millisecond // wait at each node of a site when a request needs several

	fetchPartitionsMax = 10_000 // whose high watermarks a connection remembers
)

// fetch is one Fetch request on its way.
type fetch struct {
	client   *Client
	sreq     session.Request
	req      *kmsg.FetchRequest
	resp     *kmsg.FetchResponse
	deadline time.Time
	parts    []*fetchPart
	missing  bool         // not all leaders could be reached in this try
	room     int64        // bytes that the sites may be asked for in this try
	got      atomic.Int64 // bytes that they sent in it
	found    atomic.Int64 // of records
}

// fetchPart is one partition of a request.
type fetchPart struct {
	tp     spillway.TopicPartition
	share  *Share
	in     kmsg.FetchRequestTopicPartition
	out    *kmsg.FetchResponseTopicPartition
	done   bool // out holds the answer
	served bool // a site has said something about it
	wanted spillway.Offset
	// eligible: the client stands at a site of a group whose standbys are read, and near is
	// what its connection remembers of that.
	eligible bool
	near     *near
	ready    bool // its site is ready for it
	told     bool // a site has said how far it is, and nothing is kept back

	// Of the newest try.
	term Term
	site spillway.SiteID // that is asked
	// standing: the site follows, and has everything below mark. waits: it has not yet what
	// is wanted, and is not asked.
	standing, waits bool
	mark            spillway.Offset
	session         int64 // of the mark
	// least is the end of what the standby's log must have. left: it could not answer.
	least spillway.LocalOffset
	left  bool
	view  *offsetmap.View
	local spillway.LocalOffset
	limit spillway.Offset                   // nothing from here on may be handed out
	early *kmsg.FetchResponseTopicPartition // of the site; it came before any of it may be handed out
}

func (c *Client) beginFetch(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrFetchRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp, free := c.fetch(ctx, sreq, req)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		pieces := wire.FetchPieces(resp)
		sreq.Rest(pieces[1:])
		if !free {
			size := 0
			for _, p := range pieces {
				size += len(p)
			}
			c.account.Charge(quota.Fetch, int64(size), time.Now())
		}
		return pieces[0], nil
	}, nil
}

// fetch makes an answer. It is free where it has no records for what is owed.
func (c *Client) fetch(ctx context.Context, sreq session.Request, req *kmsg.FetchRequest) (resp *kmsg.FetchResponse, free bool) {
	f := &fetch{
		client: c, sreq: sreq, req: req, resp: req.ResponseKind().(*kmsg.FetchResponse),
		deadline: time.Now().Add(min(max(time.Duration(req.MaxWaitMillis)*time.Millisecond, 0), fetchWaitMax)),
	}
	if req.SessionID != 0 && req.SessionEpoch > 0 {
		f.resp.ErrorCode = kerr.FetchSessionIDNotFound.Code // of a gateway or a broker that kept one
		return f.resp, false
	}
	f.lay(ctx)
	if req.IsolationLevel < 0 || req.IsolationLevel > 1 { // brokers fail, with an error that looks like a fault of theirs
		f.resp.ErrorCode = kerr.InvalidRequest.Code
		for _, p := range f.parts {
			p.fail(kerr.InvalidRequest.Code)
		}
		return f.resp, false
	}
	if c.owesFetches() {
		return f.resp, true
	}
	req.MaxBytes = c.quotaBytes(req.MaxBytes)
	f.makeRoom(2 * c.fetched) // more is likely there where the last fetch found much
	for f.try(ctx) && ctx.Err() == nil && time.Now().Before(f.deadline) {
	}
	f.remember()
	f.settle()
	c.fetched = f.found.Load()
	for _, p := range f.parts {
		if _, known := c.highWatermarks[p.tp]; p.served && (known || len(c.highWatermarks) < fetchPartitionsMax) {
			c.highWatermarks[p.tp] = p.out.HighWatermark
		}
	}
	return f.resp, false
}

// makeRoom sets how much the sites may be asked for: what the client asks for,
// and no more than is likely there and the budget has. Nothing larger is
// allocated than that, but for a single larger batch.
func (f *fetch) makeRoom(likely int64) {
	want := min(max(likely, int64(f.req.MinBytes), fetchBytesFree), max(int64(f.req.MaxBytes), 1), fetchBytesMax)
	f.room = want
	if want <= fetchBytesFree {
		f.sreq.Hold(0)
		return
	}
	if f.room = max(f.sreq.Reserve(want), fetchBytesFree); f.room < want {
		f.client.router.events.fetchLimited()
	}
}

// waits is how long the sites may wait for records. Room that was made for many
// is not kept for waiting: they are asked for what they have, and if that is
// nothing, again for a little, and may wait.
func (f *fetch) waits() time.Duration {
	if f.room > fetchBytesFree && f.req.MinBytes <= 1 {
		return 0
	}
	return max(0, time.Until(f.deadline))
}

// lay makes the empty answer and answers what cannot be served.
func (f *fetch) lay(ctx context.Context) {
	r, naming := f.client.router, f.client.naming()
	f.resp.Topics = make([]kmsg.FetchResponseTopic, len(f.req.Topics))
	for i, t := range f.req.Topics {
		out := &f.resp.Topics[i]
		*out = kmsg.NewFetchResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		name, known := naming.of(ctx, f.req.Version >= 13, t.Topic, t.TopicID)
		may := f.client.guardByID(f.req.Version >= 13, authorization.Read, name)
		out.Partitions = make([]kmsg.FetchResponseTopicPartition, len(t.Partitions))
		for j, in := range t.Partitions {
			p := &fetchPart{tp: spillway.TopicPartition{Topic: name, Partition: in.Partition}, in: in, out: &out.Partitions[j],
				wanted: spillway.Offset(in.FetchOffset)}
			*p.out = kmsg.NewFetchResponseTopicPartition()
			p.out.Partition = in.Partition
			p.nothing(f.client)
			p.share, _ = r.ShareOf(p.tp)
			switch {
			case !known:
				p.fail(kerr.UnknownTopicID.Code)
			case may.of(in.Partition) != 0:
				p.refuse(may.code)
			case p.share == nil || p.tp.Partition < 0:
				p.fail(kerr.UnknownTopicOrPartition.Code)
			default:
				p.eligible = r.standbys != nil && p.share.Group.ReadsAt(spillway.SiteID(f.req.Rack))
			}
			f.parts = append(f.parts, p)
		}
	}
}

// nothing makes the answer empty: with the high watermark that the client saw
// last, as a reader that computes its lag would jump otherwise.
func (p *fetchPart) nothing(c *Client) {
	p.out.RecordBatches, p.out.AbortedTransactions = []byte{}, nil
	p.out.HighWatermark = max(c.highWatermarks[p.tp], p.in.FetchOffset)
	p.out.LastStableOffset, p.out.LogStartOffset = p.out.HighWatermark, -1
}

// refuse answers a partition that the client may not read with what a broker says of it.
func (p *fetchPart) refuse(code int16) {
	if code != kerr.UnknownTopicID.Code { // which looks as where there is none
		p.out.HighWatermark, p.out.LastStableOffset = -1, -1
	}
	p.fail(code)
}

func (p *fetchPart) fail(code int16) { p.out.ErrorCode, p.done = code, true }

// try asks the sites once for all partitions that are served now. It returns
// false when there is something to answer. A partition that is refused keeps no other
// from its records, as at a broker: its client may name it in every request. The sites
// are asked for what they have then.
func (f *fetch) try(ctx context.Context) bool {
	changes := changesOf(f.parts)
	byLane := f.leaders(ctx, changes, f.plan(ctx))
	refused := f.answered()
	if refused && len(byLane) == 0 {
		return false
	}
	early := f.early()
	if len(byLane) == 0 && len(early) == 0 {
		f.pause(ctx, changes)
		return true
	}
	began, wait := time.Now(), f.keep(early)
	switch {
	case refused:
		wait = 0
	case f.waiting():
		wait = min(wait, markPause)
	}
	well := f.ask(ctx, changes, byLane, wait)
	if f.answered() {
		return false
	}
	if early = f.early(); len(early) > 0 {
		f.await(ctx, early)
		return !f.answered()
	}
	f.makeRoom(0)
	if !well || wait > 0 && time.Since(began) < fetchPauseMin { // also a site that does not wait is not asked without end
		f.pause(ctx, changes)
	}
	return f.req.MinBytes > 0 // else nothing is an answer too
}

// waiting tells whether a partition waits for its standby: the others are asked for no longer
// than a moment then.
func (f *fetch) waiting() bool {
	return slices.ContainsFunc(f.parts, func(p *fetchPart) bool { return p.waits })
}

// early are the partitions whose records came before they may be handed out.
func (f *fetch) early() (early []*fetchPart) {
	for _, p := range f.parts {
		if p.early != nil {
			early = append(early, p)
		}
	}
	return early
}

// keep counts what came early, and makes room beside it for the other partitions. It
// tells how long the sites may wait for these.
func (f *fetch) keep(early []*fetchPart) (wait time.Duration) {
	var kept int64
	for _, p := range early {
		kept += int64(len(p.early.RecordBatches))
	}
	f.got.Store(kept)
	f.found.Store(kept)
	if len(early) == 0 {
		return f.waits()
	}
	f.room = 0
	if kept < min(int64(f.req.MaxBytes), fetchBytesMax) {
		f.room = max(f.sreq.Reserve(kept+fetchBytesFree), fetchBytesFree) - kept
	}
	return 0
}

// await waits for a moment until something of what came early may be handed out. A
// partition that waits must hold up no other: all are looked at again then, whether
// its mark has risen or not, and the sites are asked for the rest.
func (f *fetch) await(ctx context.Context, early []*fetchPart) {
	pause, cancel := context.WithTimeout(ctx, min(markPause, time.Until(f.deadline)))
	defer cancel()
	p := early[0]
	p.awaitVisible(pause, f.client.router) // if it does not, another one may go
	for _, p := range early {
		p.serve(f, p.early)
	}
	if !f.answered() { // whatever did not wait above: nobody asks without end
		f.pause(pause, nil)
	}
}

// pause waits a moment: nothing here tells when the reason has gone.
func (f *fetch) pause(ctx context.Context, changes changes) {
	ctx, cancel := untilChanged(ctx, changes, f.parts)
	defer cancel()
	timer := time.NewTimer(max(0, min(fetchPauseMin, time.Until(f.deadline))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// answered tells whether any partition has an answer worth sending now. How
// many bytes are enough was the site's decision.
func (f *fetch) answered() bool {
	for _, p := range f.parts {
		if p.done && (p.out.ErrorCode != 0 || p.out.PreferredReadReplica >= 0) || len(p.out.RecordBatches) > 0 {
			return true
		}
	}
	return len(f.parts) == 0
}

// plan looks up where each partition is served, and returns those that are to be
// asked for. A partition whose share moves stays out and keeps its empty answer.
func (f *fetch) plan(ctx context.Context) (asked []*fetchPart) {
	r := f.client.router
	f.leave()
	for _, p := range f.parts {
		if p.done || len(p.out.RecordBatches) > 0 {
			continue
		}
		t, serving := p.share.Serving()
		if serving = serving && r.lease.Held(); serving && p.early != nil && t.Epoch == p.term.Epoch {
			continue
		}
		p.term, p.early = t, nil
		p.site, p.standing, p.waits, p.ready = t.Site, false, false, false
		if !serving {
			continue
		}
		if p.eligible {
			f.nearest(p)
		}
		if p.done || p.waits {
			continue
		}
		if p.standing {
			asked = append(asked, p)
			continue
		}
		if p.view = r.viewOf(p.share, p.term, p.tp); p.view == nil {
			if _, exists := r.topics.find(ctx, p.tp.Topic); !exists && r.topics.heard(p.term.Site) {
				p.fail(kerr.UnknownTopicOrPartition.Code)
			}
			continue // the site's map will tell soon
		}
		if !p.locate(f) {
			continue
		}
		asked = append(asked, p)
	}
	return asked
}

// locate finds the local offset to ask for. False: the answer is there without
// asking, because the fetch begins inside a hole or outside of the log.
func (p *fetchPart) locate(f *fetch) bool {
	var at spillway.Offset
	p.local, at = p.view.ToLocal(p.wanted)
	if at == p.wanted {
		return true
	}
	if _, _, hole := p.view.Hole(p.wanted); hole || p.burnt() {
		return true // asked all the same: the answer brings the watermarks
	}
	f.outOfRange(p)
	return false
}

// burnt tells whether a failover gave the offset up, though nothing lies below
// it: readers go on at the epoch's start (promise D).
func (p *fetchPart) burnt() bool {
	record := p.share.Record()
	if p.wanted >= p.share.Group.OffsetBase && p.wanted < record.Burnt.Get(p.tp) {
		return true
	}
	for _, t := range record.Terms {
		if from := max(t.Verified.Get(p.tp), p.share.Group.OffsetBase); p.wanted >= from && p.wanted < t.Start.Get(p.tp) {
			return true
		}
	}
	return false
}

// aborted lists the aborted transactions whose records the client is shown, under the
// producer ids that stand in the batches. One that begins in what is hidden is hidden with
// its marker: to a client that was told of it, all that the producer wrote later would be
// of it too.
func (p *fetchPart) aborted(in []kmsg.FetchResponseTopicPartitionAbortedTransaction) {
	if in == nil { // null and none are not the same
		return
	}
	p.out.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, 0, len(in))
	for _, t := range in {
		first, visible := p.view.ToVirtual(spillway.LocalOffset(t.FirstOffset))
		if !visible {
			continue
		}
		out := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
		out.ProducerID, out.FirstOffset = t.ProducerID, int64(first)
		p.out.AbortedTransactions = append(p.out.AbortedTransactions, out)
	}
}

// settle drops what must not be handed out any more: the share has moved while
// the site answered, or the lease is over (C10).
func (f *fetch) settle() {
	held := f.client.router.lease.Held()
	for _, p := range f.parts {
		if len(p.out.RecordBatches) == 0 {
			continue
		}
		if !held || !p.share.Holds(p.term) {
			p.nothing(f.client)
		} else if p.eligible {
			f.client.router.events.read(p.share.ID, f.readInfo(p))
		}
	}
}

// serve turns the site's answer for one partition into the client's. The answer is
// kept if there are records, but none of them may be handed out yet: they are not
// durable, or their offsets not reserved (C5, C19).
func (p *fetchPart) serve(f *fetch, in *kmsg.FetchResponseTopicPartition) {
	r := f.client.router
	p.early = nil
	if p.standing && in.ErrorCode != 0 {
		p.left = true
		return
	}
	if p.standing && !p.again(r) {
		return // looked up anew
	}
	switch in.ErrorCode {
	case 0:
	case kerr.OffsetOutOfRange.Code:
		f.outOfRange(p)
		return
	case kerr.UnknownTopicOrPartition.Code, kerr.TopicAuthorizationFailed.Code, kerr.CorruptMessage.Code:
		p.fail(in.ErrorCode)
		return
	default:
		return // the site's own business (leader moves); asked again
	}
	// The map may have grown while the site waited for data.
	if v := r.viewOf(p.share, p.term, p.tp); v != nil && !p.standing {
		p.view = v
	}
	end, _ := p.view.ToVirtual(spillway.LocalOffset(in.HighWatermark))
	limit := p.visible(r, end)
	a, err := records.Serve(in.RecordBatches, p.view, p.wanted, limit)
	if err != nil {
		if p.standing {
			p.left = true // the active site may have it whole
		} else {
			p.fail(kerr.CorruptMessage.Code)
		}
		return
	}
	if p.standing && len(a.Records) == 0 && !p.has(f, in) {
		p.left = true
		return
	}
	p.limit, p.served = limit, true
	start, _ := p.view.ToVirtual(spillway.LocalOffset(max(in.LogStartOffset, 0)))
	stable, _ := p.view.ToVirtual(spillway.LocalOffset(in.LastStableOffset))
	p.out.HighWatermark = int64(max(min(end, limit), a.Next))
	p.out.LastStableOffset = min(p.out.HighWatermark, int64(max(min(stable, limit), a.Next)))
	p.out.LogStartOffset = int64(start)
	p.out.RecordBatches, p.out.AbortedTransactions = a.Records, nil
	if p.out.RecordBatches == nil {
		p.out.RecordBatches = []byte{}
	}
	p.aborted(in.AbortedTransactions)
	if none := len(a.Records) == 0; none && len(in.RecordBatches) > 0 && (limit < end || p.standing && p.wanted >= limit) {
		p.early = in
	}
	p.told = p.early == nil
}
