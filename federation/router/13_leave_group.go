package router

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/authorization"
	"spillway/federation/session"
	"spillway/mirror/sitelog"
)

// LeaveGroup (13). v3 several members; v4 flexible; v5 reason.
//
// A member that leaves while the share moves is unknown at the new site anyway; where the move is
// given up, it is taken from the old one. A join of it that is held ends at once. One that waits
// at the site is answered there when the member has left, so that is asked beside it: a broker
// reads no request of a connection behind a join. Where nobody can tell that the site has let the
// member go, the gateway asks again by itself.
var leaveGroupAPI = api{
	key: 13, min: 0, max: leaveVersionMax, needs: 0, begin: (*Client).beginLeaveGroup,
	treatment: forwarded,
}

const leaveVersionMax = 5

// leftMax is how long a join is waited for whose member has left, before its connection is
// given up.
const leftMax = time.Second

// leave is one LeaveGroup request on its way.
type leave struct {
	share *Share
	req   kmsg.LeaveGroupRequest // for the site
	known []string               // its members, to the client
	mark  uint64
}

// leaving is a request for the site, and whether joins of its members wait there.
func (r *Router) leaving(share *Share, req *kmsg.LeaveGroupRequest) (l *leave, waits bool) {
	l = &leave{share: share, req: *req, mark: r.members.leaveMark()}
	is := func(id string) string {
		at, joins := r.members.leaving(req.Group, id)
		l.known, waits = append(l.known, id), waits || joins
		return at
	}
	if req.Version < 3 {
		l.req.MemberID = is(req.MemberID)
	}
	l.req.Members = slices.Clone(req.Members)
	for i := range l.req.Members {
		l.req.Members[i].MemberID = is(req.Members[i].MemberID)
	}
	l.single()
	return l, waits
}

// leaves notes that the members of a request leave, whose turn has come.
func (r *Router) leaves(l *leave) {
	for _, id := range l.known {
		r.members.leaves(l.req.Group, id, l.mark)
	}
	r.ReportDrained(l.share)
}

func (c *Client) beginLeaveGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrLeaveGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode == 0 && !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
	}
	if resp.ErrorCode != 0 {
		return reply(resp), nil
	}
	// Now: the answer waits for that of a join before it on the connection.
	l, waits := c.router.leaving(share, req)
	ask := func(ctx context.Context) (*kmsg.LeaveGroupResponse, error) {
		got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: &l.req})
		if err != nil {
			return nil, err
		}
		return got.(*kmsg.LeaveGroupResponse), nil
	}
	if waits {
		ask = c.asked(l, ask)
	}
	return func(ctx context.Context) ([]byte, error) {
		c.router.leaves(l)
		asking, cancel := context.WithTimeout(ctx, groupPatience)
		defer cancel()
		got, err := ask(asking)
		return c.leaveGroup(l, req, got, err).AppendTo(nil), nil
	}, nil
}

// leaveGroup is the answer to the client; got is the site's.
func (c *Client) leaveGroup(l *leave, req *kmsg.LeaveGroupRequest, got *kmsg.LeaveGroupResponse, err error) kmsg.Response {
	again := l.members()
	if err == nil {
		again = c.router.released(l, got)
	}
	c.router.persuade(l.share, &c.asides, l.req.Group, idsOf(again), "it has left", l.mark)
	if err == nil {
		for i := range got.Members { // in the order of the request
			if i < len(l.known) && got.Members[i].MemberID == l.req.Members[i].MemberID {
				got.Members[i].MemberID = l.known[i]
			}
		}
		return got
	}
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	if _, serving := l.share.Serving(); serving {
		resp.ErrorCode = kerr.NotCoordinator.Code
	} else if slices.ContainsFunc(l.members(), byInstance) { // it may be at the new site
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	}
	for _, m := range req.Members {
		left := kmsg.NewLeaveGroupResponseMember()
		left.MemberID, left.InstanceID = m.MemberID, m.InstanceID
		resp.Members = append(resp.Members, left)
	}
	return resp
}

// members are those of the request, also of one for a single member.
func (l *leave) members() []kmsg.LeaveGroupRequestMember {
	if l.req.Version >= 3 {
		return l.req.Members
	}
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = l.req.MemberID
	return []kmsg.LeaveGroupRequestMember{m}
}

// single has one member be named also in the form of versions below 3, which a site may have at most.
func (l *leave) single() {
	if len(l.req.Members) == 1 {
		l.req.MemberID = l.req.Members[0].MemberID
	}
}

// ofOne tells of an answer that is about the only member of the request, as a site below version 3 gives it.
func (l *leave) ofOne(got *kmsg.LeaveGroupResponse) bool {
	single := len(l.req.Members) == 1 && len(got.Members) == 0 && (got.ErrorCode == 0 || got.ErrorCode == kerr.UnknownMemberID.Code)
	return l.req.Version < 3 || single
}

// byInstance tells of a member that leaves as whoever has its instance id then.
func byInstance(m kmsg.LeaveGroupRequestMember) bool { return m.MemberID == "" }

// released forgets the members that a coordinator has let go, or never will. again are the others.
func (r *Router) released(l *leave, got *kmsg.LeaveGroupResponse) (again []kmsg.LeaveGroupRequestMember) {
	r.stale(l.share, theGroup(l.req.Group), got.ErrorCode)
	if asksAgain(got.ErrorCode) {
		return l.members()
	}
	if l.ofOne(got) {
		r.left(l.share, l.req.Group, l.members()[0].MemberID)
		return nil
	}
	stay := make(map[string]bool)
	for _, m := range got.Members {
		if asksAgain(m.ErrorCode) {
			stay[m.MemberID] = true
		} else {
			r.left(l.share, l.req.Group, m.MemberID)
		}
	}
	for _, m := range l.req.Members {
		if stay[m.MemberID] {
			again = append(again, m)
		}
	}
	return again
}

// asksAgain tells of errors that are over in a moment.
func asksAgain(code int16) bool {
	return code == kerr.NotCoordinator.Code || code == kerr.CoordinatorNotAvailable.Code || code == kerr.CoordinatorLoadInProgress.Code
}

// errMembersBack: a member that left may be there again, by the same name.
var errMembersBack = errors.New("members are not asked to leave a second time, as they may have come back")

// asked asks aside, at once. What it returns waits for the answer, and asks as before if there
// is none.
func (c *Client) asked(l *leave, otherwise func(context.Context) (*kmsg.LeaveGroupResponse, error)) func(context.Context) (*kmsg.LeaveGroupResponse, error) {
	type answer struct {
		resp *kmsg.LeaveGroupResponse
		err  error
	}
	r := c.router
	leased := r.lease.Term()
	t, serving := l.share.Serving()
	answers := make(chan answer, 1)
	if !serving || leased == 0 || !l.small() || !r.besidesDo(l.share, &c.asides, func(ctx context.Context) {
		resp, err := r.leaveAt(ctx, t.Site, &l.req)
		answers <- answer{resp, err}
	}) {
		return otherwise
	}
	return func(ctx context.Context) (*kmsg.LeaveGroupResponse, error) {
		var a answer
		select {
		case a = <-answers:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if a.err == nil && l.share.Holds(t) && r.lease.Term() == leased {
			return a.resp, nil
		}
		if slices.ContainsFunc(l.members(), func(m kmsg.LeaveGroupRequestMember) bool { return r.members.stays(l.req.Group, m.MemberID, l.mark) }) {
			return nil, errors.Join(errMembersBack, a.err)
		}
		return otherwise(ctx)
	}
}

// takeBack has a member leave whose client may not know it: it has gone away, or has to
// find another gateway, and joins again as another one. The site would wait for this one
// in every rebalance until its session ends.
func (r *Router) takeBack(share *Share, j *rejoin) {
	if r.members.unheard(j) {
		r.ReportDrained(share)
		r.dismiss(share, j.of.group, j.id)
	}
}

// dismiss has a member leave that no client knows. Whoever is heard by its name, by whatever request,
// has got it all the same.
func (r *Router) dismiss(share *Share, group, id string) {
	r.persuade(share, new(asides), group, []string{id}, "its client was not told of it", 0)
}

// persuadePauseMax is how long a site is left alone at most before it is asked again, and persuadeMax
// about how many members of one request it is: what is kept aside is the gateway's own.
const (
	persuadePauseMax = 2 * time.Second
	persuadeMax      = 100
)

// small tells whether a request may go over the connection that all share.
func (l *leave) small() bool {
	if len(l.req.Members) > persuadeMax {
		return false
	}
	for _, m := range l.req.Members {
		for _, text := range []*string{&m.MemberID, m.InstanceID, m.Reason} {
			if text != nil && len(*text) > memberIDMax {
				return false
			}
		}
	}
	return len(l.req.MemberID) <= memberIDMax
}

// idsOf are those of members that leave by one.
func idsOf(members []kmsg.LeaveGroupRequestMember) (ids []string) {
	for _, m := range members {
		if !byInstance(m) {
			ids = append(ids, m.MemberID)
		}
	}
	return ids
}

// persuade asks the site that serves the group until it has none of some members any more, for
// groupPatience at most; where none serves, the one that did, if it serves again since a move was given
// up: at another one nobody knows the members. Who was heard meanwhile, or joins, is left alone, and
// nobody leaves as an instance: by now that may be another member.
func (r *Router) persuade(share *Share, by *asides, group string, ids []string, reason string, mark uint64) {
	at := home(share)
	var again leave
	again.share, again.req = share, kmsg.NewLeaveGroupRequest()
	again.req.Version, again.req.Group = leaveVersionMax, group
	for _, id := range ids {
		if id != "" && len(id) <= memberIDMax && len(again.req.Members) < persuadeMax {
			m := kmsg.NewLeaveGroupRequestMember()
			m.MemberID, m.Reason = id, &reason
			again.req.Members = append(again.req.Members, m)
		}
	}
	remain := func() bool {
		again.req.Members = slices.DeleteFunc(again.req.Members, func(m kmsg.LeaveGroupRequestMember) bool {
			return r.members.stays(group, m.MemberID, mark)
		})
		return len(again.req.Members) > 0
	}
	if !remain() {
		return
	}
	r.besidesDo(share, by, func(ctx context.Context) {
		if t, ok := r.servesAgain(share); !ok || t.Site != at {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, groupPatience)
		defer cancel()
		for pause := retryPause; remain() && home(share) == at; pause = min(2*pause, persuadePauseMax) {
			if t, serving := share.Serving(); serving && t.Site == at && r.lease.Held() { // else it may be in a moment
				if got, err := r.leaveAt(ctx, at, &again.req); err == nil {
					if again.req.Members = r.released(&again, got); len(again.req.Members) == 0 {
						return
					}
				}
			}
			if sitelog.Pause(ctx, pause) != nil {
				return
			}
		}
	})
}

// leaveAt asks a site over a connection of the gateway's own, which all leaves at a broker share.
func (r *Router) leaveAt(ctx context.Context, site spillway.SiteID, req *kmsg.LeaveGroupRequest) (*kmsg.LeaveGroupResponse, error) {
	reaching, reached := context.WithTimeout(ctx, dialMax)
	defer reached()
	node, err := r.sites[site].Coordinator(reaching, broker.GroupCoordinator, req.Group)
	if err != nil {
		return nil, err
	}
	lane, err := r.besides.Lane(reaching, GroupLane, site, node)
	if err != nil {
		return nil, err
	}
	up := *req
	up.Version = min(req.Version, lane.conn.MaxVersion(up.Key()))
	if up.Version < 3 && len(up.Members) == 1 {
		up.MemberID = up.Members[0].MemberID
	}
	resp := up.ResponseKind().(*kmsg.LeaveGroupResponse)
	waiting, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	sent := time.Now()
	pending := lane.conn.Send(waiting, up.Key(), up.Version, true, up.AppendTo(nil))
	if err := answered(waiting, pending, resp); err != nil {
		r.unanswered(lane, pending, sent, waiting.Err() != nil)
		return nil, err
	}
	lane.answers(time.Now())
	resp.SetVersion(req.Version)
	return resp, nil
}

// unanswered gives up a connection that others use too only where its broker has answered nothing
// for dialMax: a request of which nothing came in its time may have been behind others.
func (r *Router) unanswered(lane *Lane, pending *conn.Pending, sent time.Time, late bool) {
	if !late || !lane.alive() { // it failed, or what came is no answer
		r.besides.giveUp(lane, nil)
		return
	}
	waits := func() bool { // else it came in the very moment, or there was no room to send it
		select {
		case <-pending.Done():
			return false
		default:
			return true
		}
	}()
	if !waits && lane.hears(pending) {
		return
	}
	if since := lane.answered.Load(); since != nil && since.After(sent) {
		sent = *since
	}
	if time.Since(sent) >= dialMax {
		r.besides.giveUp(lane, nil)
		return
	}
	if waits {
		r.background.Go(func() {
			<-pending.Done()
			lane.hears(pending)
		})
	}
}

// hears notes that the broker of a connection has answered, if it has: what found no room to be sent
// is done as well.
func (l *Lane) hears(done *conn.Pending) bool {
	_, err := done.Wait(context.Background())
	if err == nil {
		l.answers(time.Now())
	}
	return err == nil
}

// asides counts what is done aside for one share, or for one connection.
type asides struct{ n atomic.Int32 }

func (a *asides) takes(most int32) bool {
	if a.n.Add(1) <= most {
		return true
	}
	a.gives()
	return false
}

func (a *asides) gives() { a.n.Add(-1) }

// besidesDo does something aside for a share, which a connection has caused. What is beyond asideMax,
// asideOfShareMax or asideOfClientMax is not done: such members are left to the end of their sessions,
// as if they had died.
func (r *Router) besidesDo(share *Share, by *asides, what func(context.Context)) bool {
	if !by.takes(asideOfClientMax) {
		return false
	}
	if !share.asides.takes(asideOfShareMax) {
		by.gives()
		return false
	}
	select {
	case r.aside <- struct{}{}:
	default:
		share.asides.gives()
		by.gives()
		return false
	}
	r.background.Go(func() {
		defer by.gives()
		defer share.asides.gives()
		defer func() { <-r.aside }()
		what(r.ctx)
	})
	return true
}

// servesAgain waits for the end of a move, if there is one.
func (r *Router) servesAgain(share *Share) (Term, bool) {
	ctx, cancel := context.WithTimeout(r.ctx, r.config.HoldMax+groupPatience)
	defer cancel()
	for {
		changed := share.Changed()
		if t, ok := share.Serving(); ok {
			return t, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Term{}, false
		}
	}
}
