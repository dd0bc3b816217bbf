package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// view collects what Step needs. Reports only ever say more, so a watch that is
// behind is safe; the gateways' leases are read anew where a missing one would
// let the share go on too early (F2: last), and so are the reserved ends (C5).
func (d *driver) view(ctx context.Context, last bool) (failover.View, error) {
	h, now := d.c.hub, d.c.cfg.Clock.Now()
	v := failover.View{
		Now: time.Now().UTC(), InState: d.state.since.Shortest(now), NewMask: newMask(),
		LogEnds: d.memo.logEnds, OnlyAtTarget: d.memo.onlyAt, Fence: d.memo.fence, Allowed: d.allowed(now),
		Automation: h.automation(), FailoversLastHour: d.share.FailoversAfter(time.Now().Add(-time.Hour)),
	}
	v.SinceMove, v.ClockAhead = d.sinceMove(now)
	if d.heldFor == d.share.Epoch {
		v.Held = d.heldTime(now)
	}
	if !d.fences(d.share.Active) {
		v.Fence = "lease-only"
	}
	judged := h.judgements(d.group.Sites, d.c.cfg.Observers)
	gatewayReports, siteReports := h.reports(d.id, d.share.Epoch)
	v.Sites = h.siteViews(d.group, d.id, judged, siteReports)
	d.listen(&v, now)
	if v.Direct = d.direct(ctx, now); d.share.Adoption != nil {
		v.Adopting = h.adopting(d.id.Group)
	}
	v.MarksFor = d.marks.look(d.share, &v, d.limits, now)
	v.RestoringFor = d.memo.began.Shortest(now)
	if d.share.State == failover.Stable && !judged[d.share.Active].Down {
		return v, nil // nothing can follow from the gateways
	}
	if d.share.State == failover.Fenced || d.share.State == failover.Cutover || d.share.State == failover.CaughtUp {
		// No gateway serves any more: what they say, nothing follows from.
	} else if err := d.gateways(ctx, &v, gatewayReports, last); err != nil {
		return v, err
	}
	if d.share.State == failover.Fenced && d.share.Kind == failover.Failover {
		if err := d.readReserved(ctx); err != nil {
			return v, err
		}
		v.Reserved = d.memo.reserved
	}
	return v, nil
}

// listen fills in for how long no mirror has been alive at a site. A lease lapses when a
// mirror is started anew, which says nothing if it is soon there again.
func (d *driver) listen(v *failover.View, now coordination.Instant) {
	for id, site := range v.Sites {
		if site.Mirror {
			delete(d.mute, id)
			continue
		}
		since, ok := d.mute[id]
		if !ok {
			since = now
			d.mute[id] = now
		}
		site.Mute = since.Shortest(now)
		v.Sites[id] = site
	}
}

// marking remembers which standbys give durable marks, as far as the mirrors' leases
// tell: one that is alive and follows may still stand, because its site takes no
// writes.
type marking struct {
	epoch spillway.Epoch
	sites map[spillway.SiteID]progress
	known bool
	short bool
	since coordination.Instant
}

type progress struct {
	end   int64                // of the standby
	ahead int64                // of the active site when the standby last moved
	at    coordination.Instant // when that was
}

// marksStall is how long a standby may stand behind an active site that moved.
const marksStall = 3 * time.Second

// look fills in which standbys give marks, and returns how long enough of them, or
// too few, have.
func (m *marking) look(share failover.Share, v *failover.View, limits failover.Limits, now coordination.Instant) time.Duration {
	if m.epoch != share.Epoch || m.sites == nil {
		*m = marking{epoch: share.Epoch, sites: map[spillway.SiteID]progress{}}
	}
	ahead := int64(-1)
	if f := v.Sites[share.Active].Following; f != nil {
		ahead = f.EndSum
	}
	for id, site := range v.Sites {
		f := site.Following
		if id == share.Active || f == nil || site.Judgement.Down || f.Problem != "" || f.Epoch != share.Epoch || f.Source != share.Active {
			continue
		}
		p, ok := m.sites[id]
		if !ok || p.end != f.EndSum || f.EndSum >= ahead || p.ahead == ahead {
			p = progress{end: f.EndSum, ahead: ahead, at: now}
		}
		m.sites[id] = p
		site.Marks = p.at.Shortest(now) < marksStall
		v.Sites[id] = site
	}
	if _, short := failover.Shortfall(share, *v, limits); !m.known || short != m.short {
		m.known, m.short, m.since = true, short, now
	}
	return m.since.Shortest(now)
}

// readAnew is how old a read of the leases may be on which nothing rests but to
// wait on.
const readAnew = 250 * time.Millisecond

// heldTime is how long gateways hold: by this loop's clock if it saw the hold
// begin. One that came later has only the record, in which another machine wrote
// the time; where that one's clock is wrong, such a loop gives a move up too early
// or too late, once.
func (d *driver) heldTime(now coordination.Instant) time.Duration {
	held := d.held.Longest(now)
	if d.heldNew {
		return held
	}
	for _, p := range d.share.Passages {
		if p.State == failover.Fencing {
			held = max(held, time.Since(p.At))
		}
	}
	return held
}

// sinceMove is how long the share has stood still: by this loop's clock if it saw the
// move end. One that came later has only the record, in which another machine wrote
// the time: it counts if it says more than this loop has seen itself, and how far it
// lies ahead of this loop's clock is told.
func (d *driver) sinceMove(now coordination.Instant) (since, ahead time.Duration) {
	seen := d.state.since.Shortest(now)
	if d.state.came {
		return seen, 0
	}
	recorded := now.Time.Sub(d.share.Since)
	return max(seen, recorded), max(0, -recorded)
}

// allowedFor is how long a loop believes, while a share stands still, that its
// gateways may write; othersLook is how long those at other sites leave it to that one.
const (
	allowedFor = 10 * time.Second
	othersLook = 30 * time.Second
)

// allowed tells whether gateways may write where they have to next. While the share
// stands still, the loop at the active site looks now and then: a denial of a move
// that was given up may have reached the brokers late, or its loop may have died. Where
// that loop is not heard of, though the site may serve through other gateways, all look.
func (d *driver) allowed(now coordination.Instant) bool {
	site := d.share.Target
	if d.share.Abort != "" || site == "" {
		site = d.share.Active
	}
	known := d.memo.allowed == site
	if d.share.State == failover.Stable {
		switch last := d.memo.looked; {
		case site == d.c.cfg.Site:
			known = known && last.Longest(now) < allowedFor
		case d.c.hub.alive(d.c.keys.Ballot(site)):
			known = true
		default:
			if !known {
				last = d.memo.began // since then this loop has seen the share stand still
			}
			known = last.Longest(now) < othersLook
		}
	}
	return known || !d.fences(site)
}

// siteViews is what is known of the sites of a group. reports is nil while it stands still.
func (h *hub) siteViews(g spillway.FailoverGroup, id spillway.ShareID, judged map[spillway.SiteID]failover.Judgement, reports map[spillway.SiteID]failover.SiteReport) map[spillway.SiteID]failover.SiteView {
	mirrors, drained, shared := h.mirrors(), h.drained(), h.shared()
	views := map[spillway.SiteID]failover.SiteView{}
	for _, s := range g.Sites {
		sv := failover.SiteView{Judgement: judged[s], Shared: shared[s]}
		if m, ok := mirrors[s]; ok {
			sv.Mirror = true
			if f, ok := m.following(id); ok {
				sv.Following = &f
			}
		}
		if d, ok := drained[s]; ok {
			sv.Drained = &d
		}
		if r, ok := reports[s]; ok {
			sv.Report = &r
		}
		views[s] = sv
	}
	return views
}

// gateways adds every process start that may serve: those with a lease now, those
// seen before, though their key may be gone, and those that the record names.
// While clients are held, a read for each wake-up would be in the way of the one
// that counts; and while a site is down, one of each share would be in the way of
// the leases. Who a move waits for is settled in FENCING, by a read then.
func (d *driver) gateways(ctx context.Context, v *failover.View, reports map[spillway.GatewayID]failover.GatewayReport, last bool) error {
	h := d.c.hub
	leases, lately := h.lately(readAnew)
	if mayWait := d.share.State == failover.Fencing || d.share.State == failover.Stable; !mayWait || last || !lately {
		var err error
		if leases, err = h.gateways(ctx); err != nil {
			return err
		}
	}
	added := map[string]bool{}
	add := func(id spillway.GatewayID, boot string, leaving bool) {
		if added[string(id)+"/"+boot] {
			return
		}
		added[string(id)+"/"+boot] = true
		left := h.left(id, boot)
		g := failover.GatewayView{ID: id, Boot: boot, Leaving: leaving, Left: max(0, left), Over: left <= 0, OverFor: max(0, -left)}
		if r, ok := reports[id]; ok && r.Boot == boot {
			g.Report = &r
		}
		v.Gateways = append(v.Gateways, g)
	}
	for _, l := range leases {
		add(l.ID, l.Boot, l.Leaving)
	}
	for _, s := range h.starts() {
		add(s.ID, s.Boot, false)
	}
	for _, w := range d.share.WaitFor {
		add(w.ID, w.Boot, false)
	}
	v.Unseen = h.unseen()
	return nil
}

func (d *driver) readReserved(ctx context.Context) error {
	ends, version, err := readReserved(ctx, d.c.cfg.Store, d.c.keys.Reserved(d.id))
	if err == nil {
		d.memo.reserved, d.memo.version = ends, version
	}
	return err
}

// readReserved reads the reserved ends of a share; empty with version 0 if there are none.
func readReserved(ctx context.Context, store coordination.Store, key string) (ends failover.PartitionOffsets, version uint64, err error) {
	e, err := store.Get(ctx, key)
	if errors.Is(err, coordination.ErrNotFound) {
		return failover.PartitionOffsets{}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var r failover.Reserved
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return nil, 0, fmt.Errorf("reserved ends %s cannot be read: %w", key, err)
	}
	if r.Ends == nil {
		r.Ends = failover.PartitionOffsets{}
	}
	return r.Ends, e.Version, nil
}
