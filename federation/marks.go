package federation

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/router"
)

// Bounds of a mark stream.
const (
	markLineBytesMax = 64 << 10
	markSilenceMax   = 5 * time.Second // a stream says each second that it lives
	markRetryEvery   = 500 * time.Millisecond
)

// mark is one line of a mirror's stream: everything below End is acknowledged
// at the site, in the epoch's numbering. Without a topic it is a heartbeat. A
// later append session may say less than an older one: records were lost since.
type mark struct {
	Site      spillway.SiteID `json:"site"`
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Epoch     spillway.Epoch  `json:"epoch"`
	Session   int64           `json:"session"`
	End       spillway.Offset `json:"end"`
	Compared  bool            `json:"compared"` // in this session the source has said that it has the same
	Map       int64           `json:"map"`      // position in the site's map by which it tells all below End; 0: not told

	// lost is the append session in which the site that serves has lost records that this one
	// has, 0 if none: see lose.
	lost int64
}

// newer tells whether the line replaces an older one of its site. Within an
// append session ends only rise, so a lower one is late, and what was compared once stays so. A
// mirror that did not know yet where its map tells what lies below says the same again with it.
func (line mark) newer(old mark) bool {
	return cmp.Or(cmp.Compare(line.Epoch, old.Epoch), cmp.Compare(line.Session, old.Session), cmp.Compare(line.End, old.End), compareBool(line.Compared, old.Compared), cmp.Compare(line.Map, old.Map)) > 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// marks follows the mark streams of all mirrors. It implements router.Marks. A
// mark stays true when its stream ends: what is at a site is there, until its
// mirror says otherwise.
type marks struct {
	gateway *Gateway
	client  *http.Client
	ctx     context.Context
	cancel  context.CancelFunc
	streams sync.WaitGroup

	mu struct {
		sync.Mutex
		open   map[string]context.CancelFunc // by address
		newest map[spillway.TopicPartition]*siteMarks
	}
}

type siteMarks struct {
	bySite  map[spillway.SiteID]mark
	changed chan struct{}
}

func newMarks(g *Gateway) *marks {
	m := &marks{gateway: g, client: &http.Client{Transport: &http.Transport{DialContext: g.config.Dial, DisableCompression: true}}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.open = make(map[string]context.CancelFunc)
	m.mu.newest = make(map[spillway.TopicPartition]*siteMarks)
	return m
}

func (m *marks) close() {
	m.cancel()
	m.streams.Wait()
	m.client.CloseIdleConnections()
}

// see subscribes to the mirrors that the store names.
func (m *marks) see(entries []coordination.Entry) {
	wanted := make(map[string]spillway.SiteID)
	for _, e := range entries {
		var l failover.MirrorLease
		if err := json.Unmarshal(e.Value, &l); err != nil {
			m.gateway.problem("read "+e.Key, err)
			continue
		}
		if _, known := m.gateway.config.Topology.Site(l.Site); known && l.Marks != "" {
			wanted[l.Marks] = l.Site
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for address, cancel := range m.mu.open {
		if _, ok := wanted[address]; !ok {
			cancel()
			delete(m.mu.open, address)
		}
	}
	for address, site := range wanted {
		if m.mu.open[address] == nil && m.ctx.Err() == nil {
			ctx, cancel := context.WithCancel(m.ctx)
			m.mu.open[address] = cancel
			m.streams.Go(func() { m.follow(ctx, address, site) })
		}
	}
}

func (m *marks) follow(ctx context.Context, address string, site spillway.SiteID) {
	for ctx.Err() == nil {
		if err := m.read(ctx, address, site); err != nil && ctx.Err() == nil {
			m.gateway.problem("follow the marks of site "+string(site)+" at "+address, err)
		}
		select {
		case <-time.After(markRetryEvery):
		case <-ctx.Done():
		}
	}
}

func (m *marks) read(ctx context.Context, address string, site spillway.SiteID) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(markSilenceMax, cancel)
	defer silence.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, markLineBytesMax)
	for lines.Scan() {
		silence.Reset(markSilenceMax)
		var line mark
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return err
		}
		if line.Site != site {
			return fmt.Errorf("the stream of site %s speaks for %q", site, line.Site)
		}
		if line.Topic != "" {
			m.take(line)
		}
	}
	return lines.Err()
}

func (m *marks) take(line mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(spillway.TopicPartition{Topic: line.Topic, Partition: line.Partition})
	old := s.bySite[line.Site]
	if !line.newer(old) {
		return
	}
	if line.Session <= old.lost {
		line.lost = old.lost
	}
	s.bySite[line.Site] = line
	close(s.changed)
	s.changed = make(chan struct{})
}

// of a partition. The caller holds mu. Partitions come from mirrors and from
// produces that a site took, so their number is bounded by what exists.
func (m *marks) of(tp spillway.TopicPartition) *siteMarks {
	s := m.mu.newest[tp]
	if s == nil {
		s = &siteMarks{bySite: make(map[spillway.SiteID]mark), changed: make(chan struct{})}
		m.mu.newest[tp] = s
	}
	return s
}

// Mark implements router.Marks: the (sites−1)-th largest mark of the standbys,
// −1 if fewer follow in this epoch (C18, C19).
func (m *marks) Mark(t router.Term, tp spillway.TopicPartition, sites int) spillway.Offset {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(tp).mark(t, sites)
}

// has tells whether all below end, written in the term, is at sites sites. A
// mark of a later epoch counts too if that epoch keeps what the term wrote: the
// flows that bring a target to the cutover mark in the numbering of the epoch
// that is about to open.
func (s *siteMarks) has(record failover.Share, t router.Term, tp spillway.TopicPartition, end spillway.Offset, sites int) bool {
	n := 1 // the site of the term
	for site, line := range s.bySite {
		if site != t.Site && line.End >= end && line.Epoch >= t.Epoch && record.Keeps(t.Epoch, line.Epoch, tp, end) {
			n++
		}
	}
	return n >= sites
}

func (s *siteMarks) mark(t router.Term, sites int) spillway.Offset {
	var ends []spillway.Offset
	for site, line := range s.bySite {
		if site != t.Site && line.Epoch == t.Epoch {
			ends = append(ends, line.End)
		}
	}
	if len(ends) < sites-1 {
		return -1
	}
	if sites == 2 {
		return slices.Max(ends)
	}
	slices.Sort(ends)
	return ends[len(ends)-(sites-1)]
}

// siteMark is what a site that follows has said last, if it was in the term's own epoch.
func (m *marks) siteMark(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) (mark, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.mu.newest[tp]
	if s == nil {
		return mark{}, false
	}
	line, ok := s.bySite[site]
	return line, ok && line.Epoch == t.Epoch
}

// lose notes that the site that serves has lost records that another one has, which its mark
// of an append session speaks of. That stands until there is a newer one, whoever asks, and
// whatever is known of the partition otherwise.
func (m *marks) lose(site spillway.SiteID, tp spillway.TopicPartition, session int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(tp)
	if line := s.bySite[site]; line.Session <= session {
		line.lost = session
		s.bySite[site] = line
	}
}

// waitSite returns when a site's mark is at end or above, or ctx ends.
func (m *marks) waitSite(ctx context.Context, t router.Term, site spillway.SiteID, tp spillway.TopicPartition, end spillway.Offset) {
	for {
		m.mu.Lock()
		s := m.mu.newest[tp]
		if s == nil || s.bySite[site].Epoch == t.Epoch && s.bySite[site].End >= end {
			m.mu.Unlock()
			return
		}
		changed := s.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Wait implements router.Marks.
func (m *marks) Wait(ctx context.Context, t router.Term, tp spillway.TopicPartition, end spillway.Offset, sites int) error {
	share, ok := m.gateway.router.ShareOf(tp)
	if !ok {
		return fmt.Errorf("%s is in no failover group", tp)
	}
	for {
		moved := share.Changed()
		record := share.Record()
		m.mu.Lock()
		s := m.of(tp)
		enough, have, changed := s.has(record, t, tp, end, sites), s.mark(t, sites), s.changed
		m.mu.Unlock()
		switch {
		case enough:
			return nil
		case record.Loses(t.Epoch):
			return fmt.Errorf("%s is durable at %d sites up to %d, not %d: %w", tp, sites, have, end, router.ErrLost)
		}
		select {
		case <-changed:
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%s is durable at %d sites up to %d, not %d: %w", tp, sites, have, end, ctx.Err())
		}
	}
}
