package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// hub watches the store and keeps what it saw. All of it is a hint, but for the
// gateways' leases, which are read again where it matters.
type hub struct {
	store coordination.Store
	keys  failover.Keys
	clock coordination.Clock
	lost  func(error)

	ttl, margin time.Duration

	reading inquiry[[]layout.GatewayLease]
	rounds  rounds // of reading

	mu      sync.Mutex
	content map[string][]coordination.Entry // by prefix
	digest  digest
	beats   map[string]beat // mirrors and votes, by key
	waiter  *coordination.Waiter
	changed chan struct{} // closed at the next change
	// news is closed when there is something new that may concern every share, and own
	// when what is stored of one has changed; of those that somebody waits for.
	news chan struct{}
	own  map[spillway.ShareID]chan struct{}
	// looked is when the gateways' leases were last read, and since when they have
	// been read without a gap; zero before the first time.
	looked, since coordination.Instant
	newest        coordination.Instant  // when the newest of those reads was begun
	leases        []layout.GatewayLease // of gateways, as they were read then
}

// beat is when the value of a key was last seen to change. A key that was seen
// once only may be the last word of a process that died long ago.
type beat struct {
	version uint64
	at      coordination.Instant
	moved   bool
}

func newHub(store coordination.Store, keys failover.Keys, clock coordination.Clock, ttl, margin time.Duration) *hub {
	return &hub{store: store, keys: keys, clock: clock, ttl: ttl, margin: margin, lost: func(error) {},
		content: map[string][]coordination.Entry{}, digest: newDigest(keys), beats: map[string]beat{},
		waiter: coordination.NewWaiter(ttl, margin, clock), changed: make(chan struct{}), news: make(chan struct{}), own: map[spillway.ShareID]chan struct{}{}}
}

func (h *hub) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, prefix := range []string{h.keys.Shares(), h.keys.Moves(), h.keys.Gateways(), h.keys.Mirrors(), h.keys.Ballots(), h.keys.Automation(), h.keys.DrainedAll(), h.keys.Layout()} {
		wg.Go(func() {
			_ = h.store.Watch(ctx, prefix, func(entries []coordination.Entry, err error) { // ends with ctx
				if err != nil {
					h.lost(err)
					return
				}
				h.take(prefix, entries)
			})
		})
	}
	wg.Go(func() { h.readGateways(ctx) })
	wg.Wait()
}

// readGateways reads the leases about once a second: only reads tell that a
// lease is over (C2 of package coordination).
func (h *hub) readGateways(ctx context.Context) {
	ticker := time.NewTicker(h.ttl / 4)
	defer ticker.Stop()
	for {
		if _, err := h.gateways(ctx); err != nil && ctx.Err() == nil {
			h.lost(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (h *hub) take(prefix string, entries []coordination.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, read := h.content[prefix]
	h.content[prefix] = entries
	if prefix == h.keys.Gateways() {
		for _, e := range entries {
			h.waiter.Expect(e.Key, bootOf(e.Value)) // its key may be gone before the next read
		}
	}
	if prefix == h.keys.Mirrors() || prefix == h.keys.Ballots() || prefix == h.keys.Gateways() {
		now := h.clock.Now()
		for _, e := range entries {
			b, known := h.beats[e.Key]
			if b.version != e.Version {
				h.beats[e.Key] = beat{version: e.Version, at: now, moved: known || read} // a new key moved too
			}
		}
	}
	concerns := h.digest.take(prefix, entries)
	close(h.changed)
	h.changed = make(chan struct{})
	if concerns.all || !read {
		close(h.news)
		h.news = make(chan struct{})
	}
	for _, id := range concerns.shares {
		if c, ok := h.own[id]; ok {
			close(c)
			delete(h.own, id)
		}
	}
}

// wait returns a channel that is closed at the next change.
func (h *hub) wait() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// waitFor returns channels that are closed when what is stored of a share changes, and when
// something does that may concern every share. Leases that say the same again are none
// of both: with a thousand shares each renewal anywhere would wake a thousand loops.
func (h *hub) waitFor(id spillway.ShareID) (own, news <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.own[id]
	if !ok {
		c = make(chan struct{})
		h.own[id] = c
	}
	return c, h.news
}

// record is that of a share.
func (h *hub) record(id spillway.ShareID) (coordination.Entry, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.digest.records[h.keys.Share(id)]
	return e.Entry, ok
}

func (h *hub) entries(prefix string) []coordination.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.content[prefix]
}

// hasRead tells whether everything under the prefixes has been read once.
func (h *hub) hasRead(prefixes ...string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, prefix := range prefixes {
		if _, ok := h.content[prefix]; !ok {
			return false
		}
	}
	return true
}

func (h *hub) entry(prefix, key string) (coordination.Entry, bool) {
	for _, e := range h.entries(prefix) {
		if e.Key == key {
			return e, true
		}
	}
	return coordination.Entry{}, false
}

// alive tells whether a rewritten key was rewritten lately.
func (h *hub) alive(key string) bool { return h.within(key, h.ttl) }

func (h *hub) within(key string, d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lives(key, d)
}

// lives is within for who holds mu.
func (h *hub) lives(key string, d time.Duration) bool {
	b, ok := h.beats[key]
	return ok && b.moved && b.at.Longest(h.clock.Now()) < d
}

// allMoved tells whether every key that is rewritten was seen to change.
func (h *hub) allMoved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.beats {
		if !b.moved {
			return false
		}
	}
	return len(h.beats) > 0
}

func bootOf(value []byte) string {
	var l struct {
		Boot string `json:"boot"`
	}
	if json.Unmarshal(value, &l) != nil {
		return ""
	}
	return l.Boot
}

// gateways reads the leases of all gateways, linearizably: once for all who ask at one time.
func (h *hub) gateways(ctx context.Context) ([]layout.GatewayLease, error) {
	return h.reading.ask(ctx, &h.rounds, h.readLeases)
}

func (h *hub) readLeases(ctx context.Context) ([]layout.GatewayLease, error) {
	started := h.clock.Now()
	entries, err := h.store.List(ctx, h.keys.Gateways())
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.newest.Time.After(started.Time) {
		return decodeGateways(entries), nil // overtaken: what is known is newer
	}
	h.newest = started
	now := h.clock.Now()
	h.waiter.Observe(started, h.keys.Gateways(), entries, bootOf)
	h.waiter.Forget(forgetAfter)
	if h.looked.Time.IsZero() || h.looked.Longest(now) > h.ttl {
		h.since = now // what came and went in a gap was not seen
	}
	h.looked, h.leases = now, decodeGateways(entries)
	return h.leases, nil
}

// lately returns the leases of the gateways as last read, if that was a moment ago.
func (h *hub) lately(within time.Duration) ([]layout.GatewayLease, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.looked.Time.IsZero() || h.looked.Longest(h.clock.Now()) > within {
		return nil, false
	}
	return h.leases, true
}

// forgetAfter is how long a process start that is over is remembered.
const forgetAfter = time.Hour

// unseen is how long a gateway that this hub never saw may still hold its lease:
// somebody may have deleted the key before the first look (C30).
func (h *hub) unseen() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := h.ttl + h.margin
	if h.looked.Time.IsZero() {
		return wait
	}
	return max(0, wait-h.since.Shortest(h.clock.Now()))
}

func decodeGateways(entries []coordination.Entry) []layout.GatewayLease {
	var leases []layout.GatewayLease
	for _, e := range entries {
		var l layout.GatewayLease
		if err := json.Unmarshal(e.Value, &l); err == nil && l.ID != "" {
			leases = append(leases, l)
		}
	}
	return leases
}

// left is how long a gateway's process start may still hold its lease; negative:
// for how long that has been over.
func (h *hub) left(id spillway.GatewayID, boot string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := h.keys.Gateway(id)
	h.waiter.Expect(key, boot)
	return h.waiter.Left(key, boot)
}

// starts lists every process start of a gateway that was seen, also those whose
// key is gone: it may have been deleted while the gateway serves (C30).
func (h *hub) starts() []failover.WaitGateway {
	h.mu.Lock()
	defer h.mu.Unlock()
	var starts []failover.WaitGateway
	for _, key := range h.waiter.Keys(h.keys.Gateways()) {
		for _, boot := range h.waiter.Owners(key) {
			starts = append(starts, failover.WaitGateway{ID: spillway.GatewayID(strings.TrimPrefix(key, h.keys.Gateways())), Boot: boot})
		}
	}
	return starts
}

// judgements adds up the votes that are alive.
func (h *hub) judgements(sites []spillway.SiteID, observers []spillway.SiteID) map[spillway.SiteID]failover.Judgement {
	var votes []failover.Vote
	h.mu.Lock()
	for key, b := range h.digest.ballots {
		if h.lives(key, h.ttl) {
			votes = append(votes, b.value.Votes...)
		}
	}
	h.mu.Unlock()
	judged := map[spillway.SiteID]failover.Judgement{}
	for _, s := range sites {
		judged[s] = failover.Judge(votes, s, observers)
	}
	return judged
}

// adopting tells whether a live control loop has a configuration that says so of a group.
func (h *hub) adopting(group string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, b := range h.digest.ballots {
		if b.ok && h.lives(key, h.ttl) && slices.Contains(b.value.Adopting, group) {
			return true
		}
	}
	return false
}

// mirrorView is what is heard of the mirrors of one site.
type mirrorView struct {
	// lead is the lease of the process that leads there, or of the first of those that wait.
	lead   failover.MirrorLease
	others []failover.MirrorLease // of the whole cluster, lead among them
}

// following is what the site says of a share, with what its other processes carry.
func (m mirrorView) following(id spillway.ShareID) (failover.Following, bool) {
	return m.lead.FollowingBeside(id.String(), m.others...)
}

// mirrors lists the sites of which a mirror lease is alive.
func (h *hub) mirrors() map[spillway.SiteID]mirrorView {
	h.mu.Lock()
	defer h.mu.Unlock()
	live := map[spillway.SiteID]mirrorView{}
	var all []failover.MirrorLease
	for _, key := range h.digest.mirrorKeys {
		if m := h.digest.mirrors[key]; m.ok && h.lives(key, h.ttl) {
			all = append(all, m.value)
			if other, ok := live[m.value.Site]; !ok || other.lead.Waits && !m.value.Waits {
				live[m.value.Site] = mirrorView{lead: m.value}
			}
		}
	}
	for site, m := range live {
		m.others = all
		live[site] = m
	}
	return live
}

// sharedFor is for how long a mirror process that is not heard any more may still have a
// part of what its site writes: twice as long as it takes until the others put it out.
const sharedFor = 10 * time.Second

// shared are the sites of which several mirror processes were heard lately: more than one
// may still be at work there, also if only one is alive.
func (h *hub) shared() map[spillway.SiteID]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	count, shared := map[spillway.SiteID]int{}, map[spillway.SiteID]bool{}
	for key, m := range h.digest.mirrors {
		if m.ok && h.lives(key, sharedFor) {
			count[m.value.Site]++
			shared[m.value.Site] = count[m.value.Site] > 1
		}
	}
	return shared
}

// reports collects what gateways and sites said about one epoch of a share.
func (h *hub) reports(id spillway.ShareID, epoch spillway.Epoch) (map[spillway.GatewayID]failover.GatewayReport, map[spillway.SiteID]failover.SiteReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gateways, sites := map[spillway.GatewayID]failover.GatewayReport{}, map[spillway.SiteID]failover.SiteReport{}
	for _, r := range h.digest.reports[id] {
		switch {
		case r.value.epoch != epoch || !r.ok:
		case r.value.gateway != nil:
			gateways[r.value.gateway.Gateway] = *r.value.gateway
		case r.value.site != nil:
			sites[r.value.site.Site] = *r.value.site
		}
	}
	return gateways, sites
}

// reportsOf lists the keys of all reports about a share, with their epochs.
func (h *hub) reportsOf(id spillway.ShareID) map[spillway.Epoch][]coordination.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	byEpoch := map[spillway.Epoch][]coordination.Entry{}
	for key, r := range h.digest.reports[id] {
		byEpoch[r.value.epoch] = append(byEpoch[r.value.epoch], coordination.Entry{Key: key, Version: r.version})
	}
	return byEpoch
}

// drained are the sites that are marked so.
func (h *hub) drained() map[spillway.SiteID]failover.Drained {
	h.mu.Lock()
	defer h.mu.Unlock()
	marks := map[spillway.SiteID]failover.Drained{}
	for key, d := range h.digest.drained { // unreadable: drained all the same
		marks[spillway.SiteID(strings.TrimPrefix(key, h.keys.DrainedAll()))] = d.value
	}
	return marks
}

func (h *hub) automation() failover.Automation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.digest.automation[h.keys.Automation()].value // unreadable: not paused, as if absent
}
