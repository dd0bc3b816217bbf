package control

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// driver drives one share. It keeps nothing that another driver could not find
// out again: a process may die between any two lines.
type driver struct {
	c      *Control
	group  spillway.FailoverGroup
	id     spillway.ShareID
	limits failover.Limits

	// Owned by run.
	share   failover.Share // as stored, or as decided on from there without a write
	stored  failover.Share
	version uint64 // of stored; 0: not read yet
	encoded []byte
	seen    coordination.Instant // when version was first seen
	state   struct {
		epoch spillway.Epoch
		state failover.State
		since coordination.Instant
		came  bool // this loop saw the share come into it
	}
	held    coordination.Instant // when FENCING of epoch heldFor was first seen
	heldFor spillway.Epoch
	heldNew bool // held counts from the first moment: the record before was seen too
	// urgent: the share stands still, and by the last look a moment decides when it does not.
	urgent bool
	marks  marking
	mute   map[spillway.SiteID]coordination.Instant // since when no mirror was seen alive there
	memo   memo
	told   failover.WaitInfoKey
	asked  failover.WaitInfoKey // what this loop last asked, without evidence
	// evidence is what the observers of sites that are down saw, at the last look.
	evidence []string
	cleaned  spillway.Epoch
	swept    spillway.Epoch
	warmed   spillway.Epoch
	booted   bool
	ending   ending

	looks   directLook
	besides sync.WaitGroup // what nothing waits for
}

// memo is what actions found out in one epoch and state; it is dropped with them.
type memo struct {
	epoch     spillway.Epoch
	state     failover.State
	degrades  int
	restoring bool
	began     coordination.Instant

	logEnds  failover.PartitionOffsets
	onlyAt   failover.PartitionOffsets
	fence    string
	allowed  spillway.SiteID      // where gateways may write
	looked   coordination.Instant // when that was found
	reserved failover.PartitionOffsets
	version  uint64 // of the reserved ends
}

func memoOf(s failover.Share, now coordination.Instant) memo {
	return memo{epoch: s.Epoch, state: s.State, degrades: s.Degrades, restoring: s.Restoring, began: now}
}

func (m memo) of(s failover.Share) bool {
	return m.epoch == s.Epoch && m.state == s.State && m.degrades == s.Degrades && m.restoring == s.Restoring
}

const (
	idleTick   = time.Second
	movingTick = 200 * time.Millisecond
	// marksTick is that of a share that stands still and whose producers wait for several
	// sites: whether a standby stands is seen only by looking at it, several times within
	// marksStall.
	marksTick  = 250 * time.Millisecond
	retryPause = 200 * time.Millisecond
	// actMax bounds one action; it is tried again if the state stays.
	actMax = 10 * time.Second
	// writeMax bounds one write of the record.
	writeMax = 3 * time.Second
)

func newDriver(c *Control, g spillway.FailoverGroup, id spillway.ShareID) *driver {
	return &driver{c: c, group: g, id: id, limits: c.limits(g), mute: map[spillway.SiteID]coordination.Instant{}}
}

func (d *driver) run(ctx context.Context) {
	defer d.besides.Wait()
	for ctx.Err() == nil {
		own, news := d.c.hub.waitFor(d.id)
		d.drive(ctx)
		timer := time.NewTimer(d.tick())
		select {
		case <-ctx.Done():
		case <-own:
		case <-news:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tick is how soon a driver looks again though nothing that concerns its share is new.
// Nothing rests on a wake: what time decides, and what leases say, is found by looking.
func (d *driver) tick() time.Duration {
	switch {
	case d.share.State != failover.Stable || d.urgent:
		return movingTick
	case d.group.Ack.Sites > 1:
		return marksTick
	}
	return idleTick
}

// drive takes the newest record and decides until there is nothing to decide.
func (d *driver) drive(ctx context.Context) {
	if e, ok := d.c.hub.record(d.id); ok && e.Version > d.version {
		d.take(e)
	}
	d.doubt(ctx)
	if !d.booted {
		d.boot(ctx)
		if !d.booted {
			return
		}
	}
	if d.version == 0 || !d.mine() {
		clear(d.mute) // it may come and go unseen now
		return
	}
	for range 16 { // more states than a move has
		again, err := d.step(ctx)
		if err != nil && ctx.Err() == nil {
			d.c.cfg.Events.actionFailed(d.id, string(d.share.State), err)
			d.show(ctx)
			d.tellSize(ctx, err)
			pause(ctx, retryPause)
			d.reread(ctx)
		}
		if !again || ctx.Err() != nil {
			return
		}
	}
}

// doubtAfter is how long a watch may lag behind this loop's own writes until the
// store is asked whether it went back.
const doubtAfter = 2 * time.Second

// doubt notices that the store was emptied or restored while this loop ran: its
// record is gone or older than what was read before. The loop begins anew then,
// and compares with what the sites have seen (C30).
func (d *driver) doubt(ctx context.Context) {
	e, ok := d.c.hub.record(d.id)
	if d.version == 0 || (ok && e.Version >= d.version) || d.seen.Longest(d.c.cfg.Clock.Now()) < doubtAfter {
		return
	}
	e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id))
	if errors.Is(err, coordination.ErrNotFound) || (err == nil && e.Version < d.version) {
		d.booted, d.version = false, 0
	}
}

// take notes a record and when its state was first seen here.
func (d *driver) take(e coordination.Entry) {
	share, err := failover.Decode(e.Value)
	if err != nil {
		d.c.cfg.Events.actionFailed(d.id, "read", err)
		return
	}
	now := d.c.cfg.Clock.Now()
	followed := d.version > 0
	d.stored, d.version, d.encoded, d.seen = share, e.Version, e.Value, now
	d.at(share, now, followed)
	holding := share.State != failover.Stable && share.State != failover.Draining && share.State != failover.Open
	if holding && d.heldFor != share.Epoch {
		d.heldFor, d.held, d.heldNew = share.Epoch, now, followed
	}
}

// at goes on from a record, which may be one that was decided on and is not stored.
// followed: the one before was seen too.
func (d *driver) at(share failover.Share, now coordination.Instant, followed bool) {
	d.share = share
	if d.state.epoch != share.Epoch || d.state.state != share.State {
		d.state.epoch, d.state.state, d.state.since, d.state.came = share.Epoch, share.State, now, followed
	}
	if !d.memo.of(share) {
		d.memo = memoOf(share, now)
	}
}

func (d *driver) reread(ctx context.Context) {
	if e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id)); err == nil && e.Version > d.version {
		d.take(e)
	}
}

// mine tells whether this loop should drive now. The target's loop comes first,
// the others only when nothing has moved for a while, so that they do not read
// the same things at once, nor write: each write that comes too late still takes
// its turn in the store while clients are held. Safety does not rest on it.
func (d *driver) mine() bool {
	if d.share.State == failover.Stable || d.share.Target == d.c.cfg.Site {
		return true
	}
	rank := 1
	for _, s := range d.group.Sites {
		if s == d.c.cfg.Site {
			break
		}
		if s != d.share.Target {
			rank++
		}
	}
	stood := d.seen.Longest(d.c.cfg.Clock.Now())
	if d.share.State == failover.Draining {
		stood -= d.limits.Group.GroupDrain // until then nothing need move
	}
	return stood >= time.Duration(rank)*d.c.cfg.TakeoverAfter
}

// step asks for one decision and carries it out.
func (d *driver) step(ctx context.Context) (again bool, err error) {
	view, err := d.view(ctx, false)
	if err != nil {
		return false, err
	}
	d.evidence = d.evidence[:0]
	for _, s := range view.Sites {
		if e := s.Judgement.Evidence; e != "" {
			d.evidence = append(d.evidence, e)
		}
	}
	d.urgent = view.Sites[d.share.Active].Judgement.Down || d.marks.short || d.share.Degraded
	next, actions, written := failover.Decide(d.share, view, d.limits)
	if d.share.State == failover.Fencing && next.State == failover.Fenced {
		// As far as was seen lately. Now it counts (F2).
		if view, err = d.view(ctx, true); err != nil {
			return false, err
		}
		next, actions, written = failover.Decide(d.share, view, d.limits)
	}
	if !written {
		d.at(next, d.c.cfg.Clock.Now(), true)
		return true, nil
	}
	if !next.Same(d.share) {
		before := d.share
		again, err := d.write(ctx, next)
		if before.State == failover.Stable && next.State != failover.Stable && err == nil && d.stored.Same(next) {
			d.begun(ctx, before, next, view)
		}
		if before.Adoption != next.Adoption && err == nil && d.stored.Same(next) {
			for _, a := range actions {
				d.tell(a)
			}
		}
		return again, err
	}
	d.warm(ctx)
	for _, a := range actions {
		switch a.Kind {
		case failover.Fence, failover.Allow, failover.ReadEnds:
			begun := time.Now()
			err := d.act(ctx, a)
			d.c.cfg.Events.actionDone(ActionInfo{
				Share: d.id, Epoch: d.share.Epoch, State: d.share.State, What: string(a.Kind), Site: a.Site, Started: begun, Ended: time.Now(), Err: err,
			})
			if left, holds := d.holds(); err != nil && holds && left <= 0 {
				// It is given up, and there is no time for a pause before that.
				d.c.cfg.Events.actionFailed(d.id, string(d.share.State), err)
				return true, nil
			}
			if err != nil {
				return false, err
			}
			again = true
		case failover.Wait, failover.Ask:
			d.tell(a)
		}
	}
	if d.share.State == failover.Stable {
		d.clean(ctx)
	}
	return again, d.ask(ctx, actions)
}

// holds tells whether clients are held by a switchover that may still be given up, and
// how long it may go on.
func (d *driver) holds() (left time.Duration, holds bool) {
	switch s := d.share; s.State {
	case failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp:
		holds = s.Kind == failover.Switchover && s.Abort == "" && d.heldFor == s.Epoch
	}
	return d.limits.HoldBudget() - d.heldTime(d.c.cfg.Clock.Now()), holds
}

// askedFor is how long a question stays in the record at least, so that loops that
// see the votes change at different times do not rewrite it in turns; evidenceFor is the
// same where its reason has not changed for this loop, but is put in other words: each
// probe of a dead site may fail in another way.
const (
	askedFor    = 3 * time.Second
	evidenceFor = time.Minute
)

// ask keeps in the record whether a person must decide, and why, for status and
// for the commands that wait.
func (d *driver) ask(ctx context.Context, actions []failover.Action) error {
	next := d.stored
	next.Asking = ""
	for _, a := range actions {
		if a.Kind == failover.Ask {
			next.Asking = a.Why
		}
	}
	begins := next.Asking != "" && d.stored.Asking == ""
	// Over, or for another reason; numbers alone make none.
	changes := d.stored.Asking != "" && reasonOf(d.stored, next.Asking) != reasonOf(d.stored, d.stored.Asking)
	reason := next.Asking
	for _, e := range d.evidence {
		reason = strings.ReplaceAll(reason, e, "")
	}
	key, most := reasonOf(d.stored, reason), askedFor
	if key == d.asked {
		most = evidenceFor
	}
	if d.share.State != d.stored.State || !begins && (!changes || d.seen.Longest(d.c.cfg.Clock.Now()) < most) {
		return nil
	}
	d.asked = key
	_, err := d.write(ctx, next)
	return err
}

func reasonOf(s failover.Share, why string) failover.WaitInfoKey {
	return failover.KeyOf(s, failover.Action{Kind: failover.Ask, Why: why})
}

// show stores a state that would have been passed in one write with the next, when
// that does not come about: people must see where a move stands.
func (d *driver) show(ctx context.Context) {
	if d.share.State == d.stored.State {
		return
	}
	if _, err := d.write(ctx, d.share); err != nil && ctx.Err() == nil {
		d.c.cfg.Events.actionFailed(d.id, "store "+string(d.share.State), err)
	}
}

// tellSize keeps in the record that it has become too large for what has to be written: it
// stands still until a person does something.
func (d *driver) tellSize(ctx context.Context, err error) {
	if !errors.Is(err, coordination.ErrTooLarge) || d.stored.Asking != "" {
		return
	}
	next := d.stored
	next.Asking = "the move cannot go on: " + err.Error() + "; give it up (spillway abort) if it has not opened, and take topics out of failover group " + d.id.Group + " into another one"
	if _, err := d.write(ctx, next); err != nil && ctx.Err() == nil {
		d.c.cfg.Events.actionFailed(d.id, "store why it stands still", err)
	}
}

// warmMax bounds what is done ahead while consumer groups drain.
const warmMax = 500 * time.Millisecond

// warm does once, before clients are held, what will be done while they are: it
// opens the connections to the leaders of the old site, reads its map, and finds the
// coordinators of what is open there.
func (d *driver) warm(ctx context.Context) {
	if d.share.State != failover.Draining || d.warmed == d.share.Epoch {
		return
	}
	d.warmed = d.share.Epoch
	ctx, cancel := context.WithTimeout(ctx, warmMax)
	defer cancel()
	var transactions sync.WaitGroup
	transactions.Go(func() { d.warmTransactions(ctx) })
	_, _ = d.c.logEnds(ctx, d.share.Active, d.group, false) // asked again when it counts
	transactions.Wait()
}

// tell reports a reason once, not again at every look.
func (d *driver) tell(a failover.Action) {
	key := failover.KeyOf(d.share, a)
	if key == d.told {
		return
	}
	d.told = key
	d.c.cfg.Events.waiting(WaitInfo{Share: d.id, State: d.share.State, Ask: a.Kind == failover.Ask, Why: a.Why})
}

// write stores the next record against the version that was read.
func (d *driver) write(ctx context.Context, next failover.Share) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	key, last := d.c.keys.Share(d.id), d.stored
	var version uint64
	var encoded []byte
	switch {
	case next.State == failover.Stable && last.State != failover.Stable:
		next, encoded, version, err = d.finish(ctx, next)
	case last.State == failover.Fenced && next.State == failover.Cutover && last.Kind == failover.Failover:
		// The reserved ends must not have risen since they were read (C5).
		encoded = next.EncodeBeside()
		err = d.c.cfg.Store.Txn(ctx, []coordination.Op{
			{Key: key, Value: encoded, Version: d.version},
			{Key: d.c.keys.Reserved(d.id), Version: d.memo.version, Check: true},
		})
		if err == nil {
			version, err = d.versionOf(ctx, encoded)
		}
	case next.Degraded != last.Degraded:
		encoded = next.EncodeBeside()
		version, err = d.writeDegrade(ctx, next, encoded)
	default:
		encoded = next.Encode()
		version, err = d.c.cfg.Store.Put(ctx, key, encoded, d.version)
	}
	if errors.Is(err, coordination.ErrConflict) {
		d.share, d.memo = last, memoOf(last, d.memo.began)
		before := d.version
		d.reread(ctx)
		return d.version != before || last.State == failover.Fenced, nil
	}
	if err != nil {
		return false, err
	}
	d.take(coordination.Entry{Key: key, Value: encoded, Version: version})
	d.announce(last, next)
	return true, nil
}

// announce tells of a write; of states that were passed in one, one after the other.
func (d *driver) announce(last, next failover.Share) {
	if last.Degraded != next.Degraded || last.Restoring != next.Restoring {
		why := next.DegradedWhy
		if !next.Degraded {
			why = "enough sites have everything that was acknowledged"
		}
		d.c.cfg.Events.acknowledging(AckInfo{Share: d.id, Degraded: next.Degraded, Restoring: next.Restoring, Why: why})
	}
	if last.State == next.State && last.Target == next.Target {
		return
	}
	from, passed := last.State, next.Passages
	if last.Epoch == next.Epoch || next.State == failover.Stable { // the same move
		passed = passed[min(len(last.Passages), len(passed)):]
	}
	for i, p := range passed {
		info := StateInfo{Share: d.id, From: from, To: p.State, Epoch: next.Epoch, Kind: next.Kind, Active: last.Active, Target: last.Target, Why: p.Why,
			PassageCount: len(next.Passages) - len(passed) + i + 1}
		if i == len(passed)-1 {
			info.Active = next.Active
		}
		if p.State == failover.Open && d.heldFor == next.Epoch {
			info.HeldMillis = d.held.Longest(d.c.cfg.Clock.Now()).Milliseconds()
		}
		from = p.State
		d.c.cfg.Events.stateChanged(info)
	}
}

// versionOf reads the version of the record that a transaction wrote. If
// somebody was faster, his record is taken instead.
func (d *driver) versionOf(ctx context.Context, encoded []byte) (uint64, error) {
	e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id))
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(e.Value, encoded) {
		return 0, coordination.ErrConflict
	}
	return e.Version, nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// newMask makes the mask of a term: 61 random bits.
func newMask() uint64 { return rand.Uint64() & (1<<61 - 1) }
