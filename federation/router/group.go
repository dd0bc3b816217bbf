package router

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/failover"
)

// groupPatience is how long a site's coordinator may take for what does not
// wait for other members.
const groupPatience = 10 * time.Second

// groupCall is one request of a consumer group.
type groupCall struct {
	share *Share
	group string
	// kind of coordinator; that of a transactional id has it for group.
	kind broker.CoordinatorKind
	req  kmsg.Request
	// patience for the site's answer; default groupPatience.
	patience time.Duration
	// yields: the request gives up its place at the site's coordinator when
	// the groups of the share drain, and waits here (experiments L, rule 4).
	yields bool
	// untold takes an answer that the caller does not get, as its client has gone or
	// the share moves; nil if nothing has to be done about it.
	untold func(kmsg.Response)
	// counted: the move away from the site waits for its answer, so that the
	// last commit is in before commits are copied (C28).
	counted bool
	// epoch is the only one in which it may be put; 0: any.
	epoch spillway.Epoch
}

// errMoving means that the share is not served, or not any more.
var errMoving = errors.New("the share moves")

// errNotSent: as errMoving or another fault, and the site has not heard of the request.
var errNotSent = errors.New("not sent")

// coordinate puts a request to the group's coordinator at the site that serves
// the share, in the client's version or the site's highest. Errors: errMoving;
// any other means that the coordinator cannot be reached now.
func (c *Client) coordinate(ctx context.Context, call groupCall) (kmsg.Response, error) {
	r := c.router
	c.concern(call.share)
	changed := call.share.Changed()
	leased := r.lease.Term()
	t, serving := call.share.Serving()
	if !serving || leased == 0 || call.yields && draining(call.share) || call.epoch > 0 && t.Epoch != call.epoch {
		return nil, errors.Join(errNotSent, errMoving)
	}
	if call.patience == 0 {
		call.patience = groupPatience
	}
	ctx, cancel := context.WithTimeout(ctx, call.patience)
	defer cancel()
	// A site that is dead must not outlast the move away from it.
	searching, found := context.WithTimeout(ctx, 2*dialMax)
	go c.watch(searching, found, call, t, changed)
	lane, err := c.groupLane(searching, t.Site, call.kind, call.group)
	found()
	if err != nil && moved(call, t) {
		err = errMoving
	}
	if err != nil {
		return nil, errors.Join(errNotSent, err)
	}
	if call.counted {
		if !call.share.enter(t, lane) {
			return nil, errors.Join(errNotSent, errMoving)
		}
	} else {
		go c.watch(ctx, cancel, call, t, changed)
	}
	version := call.req.GetVersion()
	call.req.SetVersion(min(version, lane.conn.MaxVersion(call.req.Key())))
	resp := call.req.ResponseKind()
	pending := lane.conn.Send(ctx, call.req.Key(), call.req.GetVersion(), true, call.req.AppendTo(nil))
	call.req.SetVersion(version)
	err = answered(ctx, pending, resp)
	if call.counted { // at once: nothing that follows is on its way to the site
		// A transaction may still be ended there, by markers in the log.
		call.share.leave(lane, err != nil && call.kind == broker.TransactionCoordinator, false)
	}
	if err != nil {
		c.lanes.giveUp(lane, func() {
			if call.untold != nil {
				r.late(pending, resp, call.untold)
			}
		})
		if moved(call, t) {
			return nil, errMoving
		}
		return nil, err
	}
	if !call.counted && moved(call, t) || r.lease.Term() != leased {
		if call.untold != nil {
			call.untold(resp)
		}
		return nil, errMoving
	}
	resp.SetVersion(version)
	return resp, nil
}

// answered waits for an answer and decodes it.
func answered(ctx context.Context, pending *conn.Pending, resp kmsg.Response) error {
	body, err := pending.Wait(ctx)
	if err != nil {
		return err
	}
	if err := conn.Decode(resp, body); err != nil {
		return err
	}
	if asks, ok := resp.(kmsg.ThrottleResponse); ok {
		millis, _ := asks.Throttle()
		resp.(kmsg.SetThrottleResponse).SetThrottle(throttled(millis))
	}
	return nil
}

// asideMax bounds what is done aside for members that leave or whose client does not know of
// them, asideOfShareMax that for one share, asideOfClientMax what one connection has asked for.
// As many answers of joins that nobody takes any more are waited for, for untoldPatience each. What
// is beyond is left to the end of their sessions.
const (
	asideMax         = 256
	asideOfShareMax  = 128
	asideOfClientMax = 16
	untoldPatience   = time.Minute
)

// late waits for an answer that nobody takes any more.
func (r *Router) late(pending *conn.Pending, resp kmsg.Response, untold func(kmsg.Response)) {
	select {
	case r.lates <- struct{}{}: // of its own: a rebalance may last, and members that leave are not to wait for it
		defer func() { <-r.lates }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, untoldPatience)
	defer cancel()
	if answered(ctx, pending, resp) == nil {
		untold(resp)
	}
}

// watch ends a request that waits at the site once it should not any more.
func (c *Client) watch(ctx context.Context, cancel context.CancelFunc, call groupCall, t Term, changed <-chan struct{}) {
	for {
		select {
		case <-changed:
			if moved(call, t) {
				cancel()
				return
			}
			changed = call.share.Changed()
		case <-ctx.Done():
			return
		}
	}
}

func moved(call groupCall, t Term) bool {
	return !call.share.Holds(t) || call.yields && draining(call.share)
}

func draining(s *Share) bool { return s.Record().State == failover.Draining }

// coordinates tells whether clients find the group at this gateway. It serves it
// also where they do not, but keeps nobody waiting: a client that looks again for
// its coordinator gives up what waits here, and joins there as another member.
func (r *Router) coordinates(share *Share, group string) bool {
	n, ok := r.layout.Current().Coordinator(share.ID, group)
	return ok && n.Gateway == r.config.Gateway
}

func (c *Client) groupLane(ctx context.Context, site spillway.SiteID, kind broker.CoordinatorKind, group string) (*Lane, error) {
	node, err := c.router.sites[site].Coordinator(ctx, kind, group)
	if err != nil {
		return nil, err
	}
	return c.lanes.Lane(ctx, GroupLane, site, node)
}

// persist repeats a request while its share moves or the coordinator cannot be
// reached, until the hold is over.
func (c *Client) persist(ctx context.Context, call groupCall, until time.Time) (resp kmsg.Response, err error) {
	c.whileHeld(ctx, call.share, until, func() attempt {
		resp, err = c.coordinate(ctx, call)
		return attemptOf(err)
	})
	return resp, err
}

// groupsAtOnce bounds the groups of one request, and of one share, that begin to be asked about at
// the same time, and groupTurn how long one that is not answered keeps others of its share from that.
const (
	groupsAtOnce = 16
	groupTurn    = 500 * time.Millisecond
)

// ofGroups answers about each of several groups. The request is held once, until the time that ask
// gets. Groups of a share that moves keep none of other shares from being asked about, and those
// whose coordinators hang keep others of their share for a moment alone. So ask is called by several
// goroutines: groupsAtOnce for each groupTurn of the hold and groupPatience at most.
func ofGroups[Q, A any](ctx context.Context, hold time.Duration, groups []Q, of func(group Q) *Share, ask func(ctx context.Context, until time.Time, group Q) A) []A {
	until := time.Now().Add(hold)
	ctx, cancel := context.WithDeadline(ctx, until.Add(groupPatience))
	defer cancel()
	answers, byShare := make([]A, len(groups)), make(map[*Share][]int)
	for i, group := range groups {
		share := of(group)
		byShare[share] = append(byShare[share], i)
	}
	var all sync.WaitGroup
	for _, its := range byShare {
		all.Go(func() {
			slots := make(chan struct{}, groupsAtOnce)
			for _, i := range its {
				slots <- struct{}{}
				all.Go(func() {
					free := func() { <-slots }
					turn := time.AfterFunc(groupTurn, free)
					answers[i] = ask(ctx, until, groups[i])
					if turn.Stop() {
						free()
					}
				})
			}
		})
	}
	all.Wait()
	return answers
}

// shareOfGroup is the share of a group, nil if there is none.
func (r *Router) shareOfGroup(group string) *Share {
	if share, ok := r.GroupShare(group); ok {
		return share
	}
	return nil
}

// attempt is what became of one try of a request that is held.
type attempt int

const (
	done   attempt = iota
	moving         // worth another try when the share changes
	soon           // worth another try in a moment: nothing will tell
)

func attemptOf(err error) attempt {
	switch {
	case err == nil:
		return done
	case errors.Is(err, errMoving):
		return moving
	default:
		return soon
	}
}

// whileHeld tries until it is done. False: the hold is over before.
func (c *Client) whileHeld(ctx context.Context, s *Share, until time.Time, try func() attempt) bool {
	for {
		changed := s.Changed()
		switch try() {
		case done:
			return true
		case soon:
			changed = nil
		}
		if !c.hold(ctx, changed, until) {
			return false
		}
	}
}

// hold waits for a change, a moment if changed is nil. False: the hold is over.
func (c *Client) hold(ctx context.Context, changed <-chan struct{}, until time.Time) bool {
	left := time.Until(until)
	if left <= 0 || ctx.Err() != nil || c.gone() {
		return false
	}
	// A request of a client that has given up must not wait on; nothing else
	// tells that it has.
	timer := time.NewTimer(min(left, retryPause))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// stale looks at a coordinator's error: another broker may coordinate by now.
func (c *Client) stale(s *Share, of coordinated, code int16) { c.router.stale(s, of, code) }

func (r *Router) stale(s *Share, of coordinated, code int16) {
	if code == kerr.NotCoordinator.Code || code == kerr.CoordinatorNotAvailable.Code {
		if t, ok := s.Serving(); ok {
			r.relocate(t.Site, of)
		}
	}
}

// theGroup names a consumer group as something that is coordinated.
func theGroup(name string) coordinated { return coordinated{broker.GroupCoordinator, name} }

// theID names a transactional id likewise.
func theID(id string) coordinated { return coordinated{broker.TransactionCoordinator, id} }

// settled notes that a member has given up its partitions for the move under way.
func (r *Router) settled(s *Share, group, id string) {
	epoch := s.Record().Epoch
	r.members.settle(group, id, epoch)
	r.ReportDrained(s)
}

// told notes that a member was told to give up, if the share's groups drain.
func (r *Router) told(s *Share, group, id string) {
	if record := s.Record(); record.State == failover.Draining {
		if r.members.tell(group, id, record.Epoch) {
			r.ReportDrained(s)
		}
	}
}

// left notes that a member has left its group.
func (r *Router) left(s *Share, group, id string) {
	r.members.gone(group, id)
	r.ReportDrained(s)
}

// ReportDrained tells the control loop, while the share's groups drain, once
// all their members that speak through this gateway have given up their
// partitions, or commit in transactions and were told, and all transactions that were
// begun through it are ended: at once if there are none.
func (r *Router) ReportDrained(s *Share) {
	record := s.Record()
	if record.State != failover.Draining || r.config.Report == nil {
		return
	}
	waiting := r.members.settledAll(record.Epoch, func(group string) bool {
		share, ok := r.GroupShare(group)
		return ok && share == s
	})
	ended := r.transactions.settledAll(servedEpoch(record), func(id string) bool {
		share, ok := r.TransactionShare(id)
		return ok && share == s
	})
	if waiting {
		r.config.Report(s.ID, record.Epoch, func(report *failover.GatewayReport) {
			report.MembersWait, report.GroupsDrained = !ended && !report.GroupsDrained, report.GroupsDrained || ended
		})
	}
}

// holdUntil is when a request of a group that begins to wait now gives up.
func (c *Client) holdUntil(s *Share) time.Time {
	hold := c.router.config.HoldMax
	if h := s.Group.HoldMax; h > 0 {
		hold = min(hold, h)
	}
	return time.Now().Add(hold)
}
