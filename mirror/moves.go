package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// Stop ends the flow into this site for good: no flow of an epoch below the
// given one runs here again (C8). It closes what this site had served, reads the
// ends of the logs back and returns the verified virtual ends: of what counts,
// also where this site was not heard in an earlier failover. It may be repeated.
func (m *Mirror) Stop(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) (map[spillway.TopicPartition]spillway.Offset, error) {
	s, err := m.share(id)
	if err != nil {
		return nil, err
	}
	s.moving.Lock()
	defer s.moving.Unlock()
	if err := m.raise(ctx, s, epoch); err != nil {
		return nil, err
	}
	s.halt()
	w, err := m.exclusive(ctx, s, epoch)
	if err != nil {
		return nil, err
	}
	defer w.end()
	return m.verifiedEnds(w, s, epoch)
}

// verifiedEnds opens a new append session for every partition of the share that
// this site does not serve. That voids what a mirror without the lease may
// still write into the map, and reads the end of each log back.
func (m *Mirror) verifiedEnds(ctx context.Context, s *share, epoch spillway.Epoch) (map[spillway.TopicPartition]spillway.Offset, error) {
	tps, err := s.assignment.partitionsAt(ctx, m.local)
	if err != nil {
		return nil, err
	}
	return m.readBack(ctx, s, epoch, tps)
}

// readBack is verifiedEnds for some partitions.
func (m *Mirror) readBack(ctx context.Context, s *share, epoch spillway.Epoch, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.Offset, error) {
	ends := make(map[spillway.TopicPartition]spillway.Offset, len(tps))
	for len(ends) < len(tps) {
		if err := m.closeOver(ctx, s.assignment); err != nil { // nobody has what a move began that was given up
			return nil, err
		}
		var parts []*partition
		for _, tp := range tps {
			start, open := m.reader.View(tp).Open()
			if _, known := ends[tp]; known {
				continue
			} else if !open {
				parts = append(parts, &partition{TopicPartition: tp, terms: s.assignment.Terms, cutVirtual: noBound})
				continue
			}
			logEnds, err := m.local.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
			if err != nil {
				return nil, err
			}
			ends[tp] = start.Virtual + spillway.Offset(logEnds[tp]-start.Local)
		}
		opened, _, err := m.open(ctx, s.id, epoch, parts) // the rest in the next round
		if err != nil {
			return nil, fmt.Errorf("verify the ends of share %s at site %s: %w", s.id, m.site, err)
		}
		for _, p := range opened {
			ends[p.TopicPartition] = max(p.virtual, 0)
		}
	}
	return ends, nil
}

// CatchUp brings the share's partitions exactly to a bound, each from the site
// that is named for it, and stops there. Partitions named for this site itself
// have what they need. It returns the verified virtual ends. It may be repeated.
//
// A flow that runs already from the site that is named is bounded: clients are
// held, and to stop it, connect anew, and read the logs back is the most of a
// hold. Where that does not do, a flow is made for the purpose. A partition that
// an earlier attempt of the move has opened had all before it was.
func (m *Mirror) CatchUp(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, from map[spillway.TopicPartition]spillway.SiteID, until map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error) {
	s, err := m.share(id)
	if err != nil {
		return nil, err
	}
	s.moving.Lock()
	defer s.moving.Unlock()
	bounds := make(map[spillway.SiteID]map[spillway.TopicPartition]spillway.Offset)
	for tp, site := range from {
		bound, ok := until[tp]
		if !ok || site == m.site || site == "" {
			continue
		}
		if bounds[site] == nil {
			bounds[site] = make(map[spillway.TopicPartition]spillway.Offset)
		}
		bounds[site][tp] = bound
	}
	if f := s.flow; f != nil && len(bounds) == 1 && bounds[f.source.site] != nil {
		ends, err := m.boundFlow(ctx, s, f, epoch, bounds[f.source.site])
		if err != nil || ends != nil {
			return ends, err
		}
	}
	if err := m.raise(ctx, s, epoch); err != nil {
		return nil, err
	}
	s.halt()
	w, err := m.exclusive(ctx, s, epoch)
	if err != nil {
		return nil, err
	}
	defer w.end()
	ctx = w
	for site := range bounds {
		maps.DeleteFunc(bounds[site], func(tp spillway.TopicPartition, _ spillway.Offset) bool {
			o, open := m.reader.View(tp).Open()
			return open && o.Epoch == epoch
		})
		if len(bounds[site]) == 0 {
			delete(bounds, site)
		}
	}
	var flows []*flow
	defer func() {
		for _, f := range flows {
			f.stop()
		}
	}()
	a := s.assignment
	a.Epoch = epoch
	for _, site := range slices.Sorted(maps.Keys(bounds)) {
		src, err := m.source(site)
		if err != nil {
			return nil, err
		}
		f := newFlow(m, a, src, bounds[site])
		flows = append(flows, f)
		m.goroutines.Go(func() { f.run(m.ctx) })
	}
	for _, f := range flows {
		select {
		case <-f.ending.reached:
		case <-ctx.Done():
			return nil, fmt.Errorf("catch up share %s from site %s: %w; %s", id, f.source.site, ctx.Err(), f.missing())
		case <-m.ctx.Done():
			return nil, errors.New("the mirror was closed")
		}
	}
	for _, f := range flows {
		f.stop()
	}
	return m.verifiedEnds(ctx, s, epoch)
}

// boundFlow lets the flow of a share end at its bounds. It returns the verified ends
// of all partitions that this site has, or nil if the flow is not there in time, or
// what was at its bound has been lost. The flow has ended then, unless there is an
// error.
func (m *Mirror) boundFlow(ctx context.Context, s *share, f *flow, epoch spillway.Epoch, bounds map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error) {
	f.endAt(epoch, bounds)
	// While the last records travel:
	var here []spillway.TopicPartition
	var errHere error
	var wg sync.WaitGroup
	wg.Go(func() { here, errHere = s.assignment.partitionsAt(ctx, m.local) })
	err := m.raise(ctx, s, epoch)
	if wg.Wait(); errors.Join(err, errHere) != nil {
		return nil, errors.Join(err, errHere)
	}
	w, err := m.exclusive(ctx, s, epoch)
	if err != nil {
		return nil, err
	}
	defer w.end()
	ctx = w
	late := time.NewTimer(m.config.BoundPatience)
	defer late.Stop()
	select {
	case <-f.ending.reached:
	case <-f.done:
	case <-late.C:
	case <-ctx.Done():
		return nil, fmt.Errorf("catch up share %s from site %s: %w; %s", s.id, f.source.site, ctx.Err(), f.missing())
	}
	s.halt()
	select {
	case <-f.ending.reached:
	default:
		return nil, nil
	}
	ends, err := m.standing(w, s, f, here)
	if err != nil {
		return nil, err
	}
	// Others have written there, or it is this site's alone: what that is has to be
	// found before the epoch starts behind it (promise F).
	rest := slices.DeleteFunc(here, func(tp spillway.TopicPartition) bool { _, stands := ends[tp]; return stands })
	if len(rest) > 0 {
		back, err := m.readBack(ctx, s, epoch, rest)
		if err != nil {
			return nil, err
		}
		maps.Copy(ends, back)
	}
	for tp, bound := range bounds {
		if ends[tp] < bound {
			return nil, nil
		}
	}
	return ends, nil
}

// standing returns the ends of those partitions of a flow that has ended where log and
// map are as it left them: its session is the newest of the map at a position
// behind the floor of the epoch, so nobody who was not stopped by that floor has
// opened one since, and the log ends where the last answer to the flow said. Only
// such logs need not be read back.
func (m *Mirror) standing(ctx exclusive, s *share, f *flow, here []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.Offset, error) {
	if err := m.reader.WaitFor(ctx, max(s.floorAt, f.mu.verifiedAt)); err != nil {
		return nil, err
	}
	tps := slices.DeleteFunc(slices.Clone(here), func(tp spillway.TopicPartition) bool { return f.parts[tp] == nil })
	logEnds, err := m.local.Admin().LogEnds(ctx, tps)
	if err != nil {
		return nil, err
	}
	now := m.config.Now()
	ends := make(map[spillway.TopicPartition]spillway.Offset, len(tps))
	for _, tp := range tps {
		if p := f.parts[tp]; ctx.held(p, now) && p.stands(m.reader.Map(tp), logEnds[tp]) {
			ends[tp] = p.virtual
		}
	}
	return ends, nil
}

// stands tells whether the map and the end of the log are what the append session
// of the partition made them.
func (p *partition) stands(om *offsetmap.Map, logEnd spillway.LocalOffset) bool {
	if om == nil || p.virtual < 0 || logEnd != p.local {
		return false
	}
	held, view := om.Session(), om.View()
	virtual, local := view.End()
	_, open := view.Open()
	pending, _ := om.Pending()
	return held.Session == p.session.Session && held.Worker == p.session.Worker && held.Opened && !open &&
		virtual == p.virtual && local == p.local && pending == nil
}

// OpenEpoch starts an epoch at this site: from its log ends on, its partitions
// give the virtual offsets from start on. It returns the position in the map
// topic that a gateway must have read before it serves the share here. It may
// be repeated: an epoch starts once. It is that of a switchover, which can be given up, so
// it does not start where others go on to write, or where records are gone.
func (m *Mirror) OpenEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (mapPosition int64, err error) {
	return m.openEpoch(ctx, id, epoch, mask, start, false)
}

// OpenLossyEpoch is OpenEpoch for a failover. Nobody is served until the epoch has started,
// so it starts though others go on to write, and the gap log tells what they wrote (promise H).
func (m *Mirror) OpenLossyEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (mapPosition int64, err error) {
	return m.openEpoch(ctx, id, epoch, mask, start, true)
}

func (m *Mirror) openEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset, lossy bool) (mapPosition int64, err error) {
	s, err := m.share(id)
	if err != nil {
		return -1, err
	}
	s.moving.Lock()
	defer s.moving.Unlock()
	if err := m.raise(ctx, s, epoch); err != nil {
		return -1, err
	}
	s.halt()
	w, err := m.exclusive(ctx, s, epoch)
	if err != nil {
		return -1, err
	}
	defer w.end()
	ctx = w
	var todo []spillway.TopicPartition
	for tp := range start {
		if !m.hasBegun(tp, epoch) {
			todo = append(todo, tp)
		}
	}
	if len(todo) == 0 {
		return m.reader.Position(), nil
	}
	slices.SortFunc(todo, spillway.TopicPartition.Compare)
	logEnds, err := m.knownEnds(ctx, s, epoch, todo, lossy)
	if errors.Is(err, broker.ErrUnknownTopic) {
		// The reserved ends may name a partition that was made just before its site
		// was lost. It has to start above them here too (promise D).
		if _, err := m.ensureTopics(ctx, s.assignment, nil, todo); err != nil {
			return -1, err
		}
		logEnds, err = m.knownEnds(ctx, s, epoch, todo, lossy)
	}
	if err != nil {
		return -1, fmt.Errorf("open epoch %d of share %s at site %s: %w", epoch, id, m.site, err)
	}
	entries := make([]maptopic.Entry, 0, len(todo))
	for _, tp := range todo {
		virtual, local := m.reader.View(tp).End()
		had := max(virtual, 0)
		if o, open := m.reader.View(tp).Open(); open {
			had = 0 // the map knows where that one began
			virtual = o.Virtual + spillway.Offset(logEnds[tp]-o.Local)
		}
		if start[tp] < virtual {
			return -1, fmt.Errorf("open epoch %d of %s at site %s: it would start at virtual offset %d, but the site already has records up to %d (promise D)", epoch, tp, m.site, start[tp], virtual)
		}
		e := offsetmap.EpochStart{Epoch: epoch, Virtual: start[tp], Local: logEnds[tp], Mask: mask, Had: had, Worker: m.config.Worker}
		if om := m.reader.Map(tp); om != nil {
			e.Session = om.Session().Session
		}
		if _, open := m.reader.View(tp).Open(); !open && local < logEnds[tp] {
			// Told before the start, which hides it: a mirror may die in between.
			m.events.foreignWriter(ForeignInfo{tp, m.site, local, logEnds[tp], false})
			entries = append(entries, m.gap(maptopic.Gap{Kind: maptopic.GapForeign, Topic: tp.Topic, Partition: tp.Partition, Epoch: epoch, From: had, To: had, LocalFrom: local, LocalTo: logEnds[tp],
				Detail: "others went on to write while the epoch was started, so this was not read back"}))
		}
		entries = append(entries, maptopic.StartEntry(tp, e))
	}
	if mapPosition, err = m.writer.SaveWhile(ctx, w.lost, entries...); err != nil {
		return -1, err
	}
	if err := m.reader.WaitFor(ctx, mapPosition); err != nil {
		return -1, err
	}
	for _, tp := range todo {
		if !m.hasBegun(tp, epoch) {
			return -1, fmt.Errorf("open epoch %d of %s at site %s: %w: a mirror has opened the partition in a later one", epoch, tp, m.site, ErrFenced)
		}
	}
	return mapPosition, nil
}

// knownTries is how often logs are read back in which others go on to write.
const knownTries = 5

// knownEnds are the stable ends of logs of which the map knows everything. The epoch hides
// nothing that way but what the gap log tells of. Where others go on to write, a lossy epoch
// gets ends behind what the map knows, and the gap log has to be told of what lies between.
func (m *Mirror) knownEnds(ctx context.Context, s *share, epoch spillway.Epoch, tps []spillway.TopicPartition, lossy bool) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	for tries := 0; ; tries++ {
		ends, err := m.stableEnds(ctx, epoch, tps)
		if err != nil {
			return nil, err
		}
		var longer, shorter []spillway.TopicPartition
		for _, tp := range tps {
			view := m.reader.View(tp)
			if _, open := view.Open(); open {
				continue
			}
			switch _, local := view.End(); {
			case ends[tp] < local:
				shorter = append(shorter, tp)
			case ends[tp] > local:
				longer = append(longer, tp)
			}
		}
		switch unknown := slices.Concat(shorter, longer); {
		case len(unknown) == 0:
			return ends, nil
		case len(shorter) > 0 && !lossy:
			// Not read back: the map would take the loss for known, and the next try open.
			_, local := m.reader.View(shorter[0]).End()
			return nil, fmt.Errorf("the log of %s ends at %d, and the map knows of records up to %d: it was cut short, or the topic deleted, since it had caught up", shorter[0], ends[shorter[0]], local)
		case tries < knownTries:
			if _, err := m.readBack(ctx, s, epoch, unknown); err != nil {
				return nil, err
			}
		case lossy && len(shorter) == 0:
			return ends, nil
		default:
			return nil, fmt.Errorf("others go on to write to %s, past the gateways: find and stop them", unknown[0])
		}
	}
}

// hasBegun tells whether an epoch, or a later one, has started at this site.
func (m *Mirror) hasBegun(tp spillway.TopicPartition, epoch spillway.Epoch) bool {
	epochs := m.reader.View(tp).Epochs()
	return len(epochs) > 0 && epochs[len(epochs)-1].Epoch >= epoch
}

// Arm proves that this site, which still serves, can follow the site that is about
// to open the given epoch (C31): its own map takes a write, which is the floor of
// that epoch, and the other site's map is read up to now. Nothing is stopped or
// closed, since the move may still be given up. It may be repeated.
func (m *Mirror) Arm(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, next spillway.SiteID) error {
	s, err := m.share(id)
	if err != nil {
		return err
	}
	s.moving.Lock()
	defer s.moving.Unlock()
	src, err := m.source(next)
	if err != nil {
		return err
	}
	var errHere, errThere error
	var wg sync.WaitGroup
	wg.Go(func() { errHere = m.raise(ctx, s, epoch) })
	wg.Go(func() { errThere = src.ready(ctx, m.config.IdentitySources) })
	wg.Wait()
	switch {
	case errHere != nil:
		return fmt.Errorf("write the map of site %s: %w", m.site, errHere)
	case errThere != nil:
		return fmt.Errorf("read the map of site %s: %w", next, errThere)
	}
	return nil
}

// closeEpochs ends the open range of each partition at the virtual offset in
// ends.
func (m *Mirror) closeEpochs(ctx context.Context, ends map[spillway.TopicPartition]spillway.Offset) error {
	todo := slices.SortedFunc(maps.Keys(ends), spillway.TopicPartition.Compare)
	logEnds, err := m.local.Admin().LogEnds(ctx, todo)
	if err != nil {
		return err
	}
	// A mirror that opens a partition ends its epoch, and writes behind it: what it wrote
	// is not among those ends if the map, read now, has the epoch open still.
	if err := m.reader.CaughtUp(ctx); err != nil {
		return err
	}
	var entries []maptopic.Entry
	for _, tp := range todo {
		o, open := m.reader.View(tp).Open()
		if !open {
			continue
		}
		entries = append(entries, m.endEntries(tp, o, ends[tp], logEnds[tp])...)
	}
	return m.saveAndRead(ctx, entries)
}

// endEntries end the open range of a partition at a virtual offset. What lies behind it is
// told before the end, behind which nobody would look for it: a mirror may die in between.
func (m *Mirror) endEntries(tp spillway.TopicPartition, o offsetmap.EpochStart, end spillway.Offset, logEnd spillway.LocalOffset) (entries []maptopic.Entry) {
	// The site may have come back shorter than it was (C27).
	local := min(max(o.Local, o.Local+spillway.LocalOffset(end-o.Virtual)), logEnd)
	virtual := o.Virtual + spillway.Offset(local-o.Local)
	if local < logEnd {
		entries = append(entries, m.gap(maptopic.Gap{Kind: maptopic.GapUnreplicated, Topic: tp.Topic, Partition: tp.Partition, Epoch: o.Epoch,
			From: virtual, To: virtual + spillway.Offset(logEnd-local), LocalFrom: local, LocalTo: logEnd}))
	}
	return append(entries, maptopic.EndEntry(tp, offsetmap.EpochEnd{Epoch: o.Epoch, Virtual: virtual, Local: local, LogEnd: logEnd}))
}
