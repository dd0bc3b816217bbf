package router

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
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
	key: 13, min: 0, max: 5, needs: 0, begin: (*Client).beginLeaveGroup,
	treatment: forwarded,
}

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
	if err != nil || !c.router.released(l, got) {
		c.router.persuade(l)
	}
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
	}
	for _, m := range req.Members {
		left := kmsg.NewLeaveGroupResponseMember()
		left.MemberID, left.InstanceID = m.MemberID, m.InstanceID
		resp.Members = append(resp.Members, left)
	}
	return resp
}

// released tells whether a coordinator has let the members go, or never will, and forgets those.
func (r *Router) released(l *leave, got *kmsg.LeaveGroupResponse) bool {
	r.stale(l.share, theGroup(l.req.Group), got.ErrorCode)
	all := !asksAgain(got.ErrorCode)
	if all && l.req.Version < 3 {
		r.left(l.share, l.req.Group, l.req.MemberID)
	}
	for _, m := range got.Members {
		if asksAgain(m.ErrorCode) {
			all = false
		} else {
			r.left(l.share, l.req.Group, m.MemberID)
		}
	}
	return all
}

// asksAgain tells of errors that are over in a moment.
func asksAgain(code int16) bool {
	return code == kerr.NotCoordinator.Code || code == kerr.CoordinatorNotAvailable.Code || code == kerr.CoordinatorLoadInProgress.Code
}

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
		if a := <-answers; a.err == nil && l.share.Holds(t) {
			return a.resp, nil
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
	l.req.Version, l.req.Group = leaveGroupAPI.max, group
	m.MemberID, m.Reason = id, kmsg.StringPtr("its client was not told of it")
	l.req.Members = append(l.req.Members, m)
	r.persuade(l)
}

// persuade asks the site that serves the group until it has none of the members any more, for
// groupPatience at most; where none serves, the one that did, if it serves again since a move was given
// up: at another one nobody knows the members.
func (r *Router) persuade(l *leave) {
	at := home(l.share)
	r.besidesDo(func(ctx context.Context) {
		if t, ok := r.servesAgain(l.share); !ok || t.Site != at {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, groupPatience)
		defer cancel()
		for r.lease.Held() && home(l.share) == at {
			got, err := r.leaveAt(ctx, at, &l.req)
			if err == nil && r.released(l, got) || sitelog.Pause(ctx, retryPause) != nil {
				return
			}
		}
	})
}

// leaveAt asks a site over a connection of the gateway's own.
func (r *Router) leaveAt(ctx context.Context, site spillway.SiteID, req *kmsg.LeaveGroupRequest) (*kmsg.LeaveGroupResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	node, err := r.sites[site].Coordinator(ctx, broker.GroupCoordinator, req.Group)
	if err != nil {
		return nil, err
	}
	lane, err := r.besides.Lane(ctx, GroupLane, site, node)
	if err != nil {
		return nil, err
	}
	up := *req
	up.Version = min(req.Version, lane.conn.MaxVersion(up.Key()))
	got, err := r.besides.ask(ctx, lane, &up)
	if err != nil {
		return nil, err
	}
	return got.(*kmsg.LeaveGroupResponse), nil
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
