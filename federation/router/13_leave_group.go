package router

import (
	"context"
	"errors"
	"slices"
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
}

// leaves is a request for the site, and whether joins of its members were under way.
func (r *Router) leaves(share *Share, req *kmsg.LeaveGroupRequest) (l *leave, joins bool) {
	l = &leave{share: share, req: *req}
	is := func(id string) string {
		at, joining := r.members.leaves(req.Group, id)
		l.known, joins = append(l.known, id), joins || joining
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
	r.ReportDrained(share)
	return l, joins
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
	l, joins := c.router.leaves(share, req)
	ask := func(ctx context.Context) (*kmsg.LeaveGroupResponse, error) {
		got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: &l.req})
		if err != nil {
			return nil, err
		}
		return got.(*kmsg.LeaveGroupResponse), nil
	}
	if joins {
		ask = c.router.asked(l, ask)
	}
	return func(ctx context.Context) ([]byte, error) {
		got, err := ask(ctx)
		return c.leaveGroup(l, req, got, err).AppendTo(nil), nil
	}, nil
}

// leaveGroup is the answer to the client; got is the site's.
func (c *Client) leaveGroup(l *leave, req *kmsg.LeaveGroupRequest, got *kmsg.LeaveGroupResponse, err error) kmsg.Response {
	again := l.members()
	if err == nil {
		again = c.router.released(l, got)
	}
	c.router.persuade(l, again)
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
func (r *Router) asked(l *leave, otherwise func(context.Context) (*kmsg.LeaveGroupResponse, error)) func(context.Context) (*kmsg.LeaveGroupResponse, error) {
	type answer struct {
		resp *kmsg.LeaveGroupResponse
		err  error
	}
	t, serving := l.share.Serving()
	answers := make(chan answer, 1)
	if !serving || !r.lease.Held() || !r.besidesDo(func(ctx context.Context) {
		resp, err := r.leaveAt(ctx, t.Site, &l.req)
		answers <- answer{resp, err}
	}) {
		return otherwise
	}
	return func(ctx context.Context) (*kmsg.LeaveGroupResponse, error) {
		a := <-answers
		if a.err == nil && l.share.Holds(t) {
			return a.resp, nil
		}
		if slices.ContainsFunc(l.members(), func(m kmsg.LeaveGroupRequestMember) bool { return r.members.stays(l.req.Group, m.MemberID) }) {
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

// dismiss has a member leave that no client knows.
func (r *Router) dismiss(share *Share, group, id string) {
	if id == "" {
		return
	}
	l, m := &leave{share: share, req: kmsg.NewLeaveGroupRequest()}, kmsg.NewLeaveGroupRequestMember()
	l.req.Version, l.req.Group = leaveVersionMax, group
	m.MemberID, m.Reason = id, kmsg.StringPtr("its client was not told of it")
	l.req.Members = append(l.req.Members, m)
	r.persuade(l, l.req.Members)
}

// persuadePauseMax is how long a site is left alone at most before it is asked again.
const persuadePauseMax = 2 * time.Second

// persuade asks the site that serves the group until it has none of some members any more, for
// groupPatience at most; where none serves, the one that did, if it serves again since a move was given
// up: at another one nobody knows the members. Who was heard meanwhile, or joins, is left alone, and
// nobody leaves as an instance: by now that may be another member.
func (r *Router) persuade(l *leave, members []kmsg.LeaveGroupRequestMember) {
	at := home(l.share)
	again := leave{share: l.share, req: l.req}
	again.req.Version, again.req.Members = leaveVersionMax, slices.Clone(members)
	remain := func() bool {
		again.req.Members = slices.DeleteFunc(again.req.Members, func(m kmsg.LeaveGroupRequestMember) bool {
			return byInstance(m) || r.members.stays(again.req.Group, m.MemberID)
		})
		return len(again.req.Members) > 0
	}
	if !remain() {
		return
	}
	r.besidesDo(func(ctx context.Context) {
		if t, ok := r.servesAgain(l.share); !ok || t.Site != at {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, groupPatience)
		defer cancel()
		for pause := retryPause; remain() && home(l.share) == at; pause = min(2*pause, persuadePauseMax) {
			if r.lease.Held() { // else it may be in a moment
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
	select {
	case <-pending.Done(): // in the very moment
		lane.answers(time.Now())
		return
	default:
	}
	if since := lane.answered.Load(); since != nil && since.After(sent) {
		sent = *since
	}
	if time.Since(sent) >= dialMax {
		r.besides.giveUp(lane, nil)
		return
	}
	r.background.Go(func() {
		if <-pending.Done(); lane.alive() {
			lane.answers(time.Now())
		}
	})
}

// besidesDo does something aside. What is beyond asideMax is not done: such members are left
// to the end of their sessions, as if they had died.
func (r *Router) besidesDo(what func(context.Context)) bool {
	select {
	case r.aside <- struct{}{}:
	default:
		return false
	}
	r.background.Go(func() {
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
