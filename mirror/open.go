package mirror

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// open gives each partition a new append session: it claims the session in the
// map, which voids what older workers still write there, reads the end of the
// target's log back, and says in the map how far the two agree. Partitions
// whose claim lost a race, or that the site serves by now, come back in lost. The floor is
// asked here too: another mirror of this site may have stopped the epoch while this one had
// no lease (C8).
func (m *Mirror) open(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, parts []*partition) (opened, lost []*partition, err error) {
	if len(parts) == 0 {
		return nil, nil, nil
	}
	if err := m.readMap(ctx); err != nil {
		return nil, nil, err
	}
	previous := make([]offsetmap.Session, len(parts))
	for i, p := range parts {
		if om := m.reader.Map(p.TopicPartition); om != nil {
			previous[i] = om.Session()
		}
	}
	// Asked behind the sessions: a claim that follows those of a later epoch would void them.
	if floor := m.reader.Floor(id); epoch < floor {
		return nil, nil, fmt.Errorf("share %s, epoch %d at site %s: %w: %d", id, epoch, m.site, ErrFenced, floor)
	}
	claims := make([]maptopic.Entry, len(parts))
	for i, p := range parts {
		if previous[i].Session != p.cutIn {
			p.cutVirtual = noBound
		}
		if p.session, err = m.nextSession(previous[i], p.forceNewID); err != nil {
			return nil, nil, err
		}
		claims[i] = maptopic.SessionEntry(p.TopicPartition, p.session)
		if previous[i].Worker != m.config.Worker {
			m.marks.withdraw(p.TopicPartition) // of a session before that one
		}
	}
	if err := m.saveAndRead(ctx, claims); err != nil {
		return nil, nil, err
	}
	m.config.Crash("afterClaim")
	// Asked before the ends: of a topic that is created anew in between, the id tells later.
	ids, err := m.topicIDs(ctx, parts)
	if err != nil {
		return nil, nil, err
	}
	tps := make([]spillway.TopicPartition, len(parts))
	for i, p := range parts {
		tps[i] = p.TopicPartition
	}
	ends, err := m.local.Admin().LogEnds(ctx, tps)
	if err != nil {
		return nil, nil, err
	}
	starts, err := m.local.Admin().LogStarts(ctx, tps)
	if err != nil {
		return nil, nil, err
	}
	told, faults := make([][]maptopic.Entry, len(parts)), make([]error, len(parts))
	var reading sync.WaitGroup
	slots := make(chan struct{}, verifiedAtOnce)
	for i, p := range parts {
		om := m.reader.Map(p.TopicPartition)
		pending, writer := unverified(om, previous[i])
		view, logs := om.View(), om.Logs()
		held := om.Session() // last: while it is this one's, nobody changes what was read before
		if _, open := view.Open(); open || !held.Same(p.session) {
			lost = append(lost, p) // behind the start of an epoch nothing would be found that was mirrored
			continue
		}
		p.cutIn = held.Session
		p.resumes = previous[i].Opened && previous[i].Worker == m.config.Worker
		if p.anew = logs.IsNew(ids[p.Topic]); p.anew {
			p.resumes = false
		}
		p.session.Logs = logs.With(ids[p.Topic])
		opened = append(opened, p)
		slots <- struct{}{}
		reading.Go(func() {
			defer func() { <-slots }()
			told[i], faults[i] = m.verify(ctx, view, epoch, p, writer, pending, starts[p.TopicPartition], ends[p.TopicPartition])
		})
	}
	reading.Wait()
	if err := some(faults); err != nil {
		return nil, nil, err
	}
	entries := slices.Concat(told...)
	if err := m.saveAndRead(ctx, entries); err != nil {
		return nil, nil, err
	}
	m.config.Crash("afterOpen")
	counts := opened[:0]
	for _, p := range opened {
		if held := m.reader.Map(p.TopicPartition).Session(); !held.Opened || !held.Same(p.session) {
			lost = append(lost, p) // an epoch has started meanwhile, or another one has claimed it
			continue
		}
		counts = append(counts, p)
		p.forceNewID, p.cutVirtual = false, noBound
		m.events.sessionOpened(SessionInfo{p.TopicPartition, m.site, p.session.Session, p.local, p.virtual})
	}
	return counts, lost, nil
}

// some is the first fault, and how many there are: each of thousands of partitions tells it.
func some(faults []error) (err error) {
	n := 0
	for _, fault := range faults {
		if fault != nil {
			err = cmp.Or(err, fault)
			n++
		}
	}
	if n > 1 {
		err = fmt.Errorf("%w, and %d more faults", err, n-1)
	}
	return err
}

// verifiedAtOnce bounds the logs that are read back at the same time.
const verifiedAtOnce = 16

// unverified is what an opening looks for in the log, and the session that wrote it. It is
// read with the claim in the map, as the view is: until then another mirror may open a
// session and leave out what was pending, and of what is found the map shows only what is
// pending when this session opens. The previous session is that before the claim.
func unverified(om *offsetmap.Map, previous offsetmap.Session) (pending *offsetmap.Chunk, writer offsetmap.Session) {
	if pending, writer = om.Pending(); pending == nil {
		return nil, previous
	}
	return pending, writer
}

// nextSession continues the producer id with the next producer epoch, so that
// the broker refuses the older session's writers; where epochs run out, or the
// id was misused, it takes a new id (C25).
func (m *Mirror) nextSession(previous offsetmap.Session, forceNewID bool) (offsetmap.Session, error) {
	next := offsetmap.Session{
		Session: previous.Session + 1, Worker: m.config.Worker,
		ProducerID: previous.ProducerID, ProducerEpoch: previous.ProducerEpoch + 1,
		Epoch: previous.Epoch, Virtual: -1,
	}
	if forceNewID || !spillway.IsMirrorProducerID(previous.ProducerID) || previous.ProducerEpoch == math.MaxInt16 {
		var random [8]byte
		if _, err := rand.Read(random[:]); err != nil {
			return next, fmt.Errorf("random producer id: %w", err)
		}
		next.ProducerID, next.ProducerEpoch = spillway.MirrorProducerID(binary.BigEndian.Uint64(random[:])), 0
	}
	return next, nil
}

// verify reads the target's log from the verified end of a view on and sets the partition
// to where it may go on. The writer is the session that saved what is pending. It returns
// what the map has to be told.
func (m *Mirror) verify(ctx context.Context, view *offsetmap.View, epoch spillway.Epoch, p *partition, writer offsetmap.Session, pending *offsetmap.Chunk, logStart, logEnd spillway.LocalOffset) ([]maptopic.Entry, error) {
	return m.agree(view, epoch, p, writer, pending, logStart, logEnd, func(from spillway.LocalOffset, see func(batch.Header)) error {
		return sitelog.Scan(ctx, m.local, p.TopicPartition, from, logEnd, func(b sitelog.Batch) error {
			see(b.Header)
			return nil
		})
	})
}

// agree is verify, with the map and the log that scan shows from an offset on.
func (m *Mirror) agree(view *offsetmap.View, epoch spillway.Epoch, p *partition, writer offsetmap.Session, pending *offsetmap.Chunk, logStart, logEnd spillway.LocalOffset,
	scan func(from spillway.LocalOffset, see func(batch.Header)) error) ([]maptopic.Entry, error) {
	virtual, local := view.End()
	fresh := view.Empty() && !view.Begun()
	if fresh {
		virtual = -1
	}
	gap := func(kind string, from, to spillway.LocalOffset, vFrom, vTo spillway.Offset) maptopic.Entry {
		return m.gap(maptopic.Gap{Kind: kind, Topic: p.Topic, Partition: p.Partition, Epoch: epoch, From: vFrom, To: vTo, LocalFrom: from, LocalTo: to})
	}
	var entries []maptopic.Entry
	left := logEnd // of what the map knows
	if p.anew {
		left = 0 // what is there came with a sequence that a new log takes for a first one
	}
	switch {
	case left < local:
		v, visible := view.ToVirtual(left)
		if !visible {
			v = min(v, virtual)
		}
		entries = append(entries, gap(maptopic.GapTruncated, left, local, v, virtual))
		virtual, local, pending = v, left, nil
	case fresh && logEnd > logStart:
		entries = append(entries, gap(maptopic.GapExisting, logStart, logEnd, -1, -1))
		local = logEnd
	case fresh:
		local = logEnd
	}
	v := newVerifier(local, virtual, pending, writer, p.session)
	v.retained(min(logStart, logEnd))
	if v.at < logEnd {
		if err := scan(v.at, v.see); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
	opened := p.session
	opened.Epoch = max(p.session.Epoch, newest(p.terms))
	opened.Opened, opened.Local, opened.Virtual = true, v.straight.Local, v.straight.Virtual
	p.virtual, p.local, p.sequence, p.source, p.compared = v.verdict.virtual, max(v.verdict.end, logEnd), 0, -1, false
	p.ahead = offsetmap.Range{}
	if overhang := givenUp(p.terms, p.TopicPartition, max(p.session.Epoch, v.lastEpoch(view))); overhang < min(p.virtual, p.cutVirtual) {
		// This site was not heard when a later epoch opened, and has more than
		// those that were. Virtual offsets from there on are burnt, or belong to
		// others (promises B, D).
		for _, r := range v.from(view, overhang) {
			entries = append(entries, m.gap(maptopic.Gap{Kind: maptopic.GapOverhang, Topic: p.Topic, Partition: p.Partition, Epoch: r.Epoch,
				From: r.Virtual, To: r.VirtualEnd(), LocalFrom: r.Local, LocalTo: r.LocalEnd(),
				Detail: fmt.Sprintf("site %s was not heard when a later epoch opened", m.site)}))
		}
		opened.Virtual, p.virtual = min(opened.Virtual, overhang), overhang
		v.dropFrom(overhang)
	}
	if p.cutVirtual < p.virtual {
		// The source lost records, or never had these: virtual offsets from
		// here on will mean others. What this site has is kept, hidden.
		l, _ := view.ToLocal(p.cutVirtual)
		entries = append(entries, gap(p.cutKind, l, p.local, p.cutVirtual, p.virtual))
		opened.Virtual, p.virtual = min(opened.Virtual, p.cutVirtual), p.cutVirtual
		v.dropFrom(p.cutVirtual)
		if p.cutVirtual < m.reader.Began(p.TopicPartition) {
			entries = append(entries, m.startVoid(p, epoch))
		}
	}
	p.session = opened
	// Before what would keep the next opening from finding it: a mirror may die in between.
	for _, h := range v.hidden {
		entries = append(entries, m.hiddenEntries(p, epoch, h)...)
	}
	entries = append(entries, maptopic.SessionEntry(p.TopicPartition, opened))
	for _, c := range v.pieces {
		entries = append(entries, maptopic.ChunkEntry(p.TopicPartition, c))
	}
	if p.local != opened.Local || p.virtual != opened.Virtual {
		entries = append(entries, maptopic.VerifiedEntry(p.TopicPartition, offsetmap.Verified{Session: opened.Session, Local: p.local, Virtual: p.virtual}))
	}
	p.savedLocal, p.savedVirtual = p.local, p.virtual
	return entries, nil
}

// hiddenEntries tells the gap log and the listeners what lies at the target
// that nobody planned. Markers are nobody's loss.
func (m *Mirror) hiddenEntries(p *partition, epoch spillway.Epoch, h hidden) []maptopic.Entry {
	kind := maptopic.GapForeign
	switch h.kind {
	case hiddenMarkers:
		return nil
	case hiddenStale:
		kind = maptopic.GapStaleWorker
	}
	m.events.foreignWriter(ForeignInfo{p.TopicPartition, m.site, h.from, h.to, h.kind == hiddenStale})
	return []maptopic.Entry{m.gap(maptopic.Gap{Kind: kind, Topic: p.Topic, Partition: p.Partition, Epoch: epoch,
		From: p.virtual, To: p.virtual, LocalFrom: h.from, LocalTo: h.to})}
}

// gap makes an entry of the gap log. Its id is made of what it says, so that
// the same gap found twice stays one.
func (m *Mirror) gap(g maptopic.Gap) maptopic.Entry {
	g.Site = m.site
	g.At = m.config.Now().UTC().Truncate(time.Millisecond)
	g.ID = fmt.Sprintf("%s-%d-%s-%d-%d-%d-%d", g.Topic, g.Partition, g.Kind, g.From, g.To, g.LocalFrom, g.LocalTo)
	if g.Kind == maptopic.GapStart {
		g.ID = maptopic.StartID(spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition})
	}
	m.events.gapLogged(g)
	return maptopic.GapEntry(g)
}

// LogGap adds an entry to the gap log of this site that others found; its id makes
// it unique. What is there already in the same words is not written again.
func (m *Mirror) LogGap(ctx context.Context, g maptopic.Gap) error {
	if err := m.readMap(ctx); err != nil {
		return err
	}
	g.Site = m.site
	if there, ok := m.reader.Gap(g.ID); ok && there.Detail == g.Detail {
		return nil
	}
	if _, err := m.writer.Save(ctx, maptopic.GapEntry(g)); err != nil {
		return err
	}
	m.events.gapLogged(g)
	return nil
}

// claimLease waits for the lease of a partition and hands it on with it.
func (f *flow) claimLease(ctx context.Context, p *partition) {
	claim := f.m.config.Claim
	if f.crew != nil {
		claim = f.crew.claim
	}
	for {
		lease, err := claim(ctx, p.TopicPartition)
		if err == nil {
			p.lease = lease
			break
		}
		if sitelog.Pause(ctx, time.Second) != nil {
			return
		}
	}
	select {
	case f.claimed <- p:
	case <-ctx.Done():
		letGo(p.lease)
	}
}

// byTopicPartition sorts partitions for requests and reports.
func byTopicPartition(parts []*partition) {
	slices.SortFunc(parts, func(a, b *partition) int { return a.TopicPartition.Compare(b.TopicPartition) })
}
