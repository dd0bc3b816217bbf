package router

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// JoinGroup (11). v1 rebalance timeout; v4 member id required; v5 static
// members; v6 flexible; v7 protocol type; v8 reason; v9 skip assignment.
//
// It passes as it is: names of topics are the same everywhere, and nothing in
// it is an offset. While groups drain or the share moves it waits here, and goes
// to the new site afterwards, as that of a new member. All members that waited
// so arrive together. If each were told that it is unknown and came back in its
// own time, the first would read and commit everything in a generation of its
// own, and the next, which believes that it still has its partitions
// (cooperative assignors), would go on behind those commits.
//
// It waits only at the gateway where clients find the group, and a member that the
// gateway joined for a client that does not hear of it is taken back.
var joinGroupAPI = api{
	key: 11, min: 0, max: 9, needs: 0, begin: (*Client).beginJoinGroup,
	treatment: forwarded, about: "Waits while its share moves, and joins at the new site.",
}

// joinAnewMax: once without an id, and once with the one that was given.
const joinAnewMax = 2

// rebalanceMax bounds the rebalance timeout that a member may ask for.
const rebalanceMax = 30 * time.Minute

func (c *Client) beginJoinGroup(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrJoinGroupRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	under := c.router.rejoins.begin(memberName{req.Group, req.MemberID})
	return func(ctx context.Context) ([]byte, error) {
		defer c.router.rejoins.end(under, "", 0) // where it is refused
		return c.joinGroup(ctx, sreq, req, under).AppendTo(nil), nil
	}, nil
}

func (c *Client) joinGroup(ctx context.Context, sreq session.Request, req *kmsg.JoinGroupRequest, under *rejoin) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = -1, req.MemberID
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode != 0 {
		return resp
	}
	if !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp
	}
	asked := under.of
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(under.lasts, cancel)()
	req.MemberID = c.router.rejoins.is(asked)
	joined := c.join(ctx, share, req, asked.id)
	if joined != nil {
		resp = joined
	}
	id := cmp.Or(req.MemberID, resp.MemberID)
	left := c.router.rejoins.end(under, id, min(millis(req.SessionTimeoutMillis), rebalanceMax))
	switch {
	case left: // as a broker answers it
		resp = req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.Generation, resp.MemberID, resp.ErrorCode = -1, asked.id, kerr.UnknownMemberID.Code
	case joined != nil:
	case c.router.coordinates(share, req.Group):
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	default:
		c.router.events.refused("coordinator")
		c.router.left(share, req.Group, asked.id)
		resp.ErrorCode = kerr.NotCoordinator.Code
	}
	told := (resp.ErrorCode == 0 || resp.ErrorCode == kerr.MemberIDRequired.Code) && !c.gone()
	if id != asked.id {
		sreq.AfterWrite(func(err error) {
			if !told || err != nil {
				if req.InstanceID == nil { // else its client comes again with its old id, and is that member
					c.router.rejoins.left(asked)
				}
				c.router.takeBack(share, req, id)
			}
		})
	}
	return resp
}

func millis(n int32) time.Duration { return time.Duration(max(n, 0)) * time.Millisecond }

// takeBack has a member leave whose id its client was never told: the client has gone
// away, or has to find another gateway, and joins again as another one. The site would
// wait for this one in every rebalance until its session ends. A member that knows its
// id joins again with it, and one with an instance id takes its place.
func (r *Router) takeBack(share *Share, joined *kmsg.JoinGroupRequest, id string) {
	if id == "" || joined.InstanceID != nil {
		return
	}
	r.left(share, joined.Group, id)
	r.dismiss(share, joined.Group, id, "its client was not told of it")
}

// dismiss has a member leave at the site that serves the group; where none does, at the one
// that did, if it serves again since a move was given up: at another one nobody knows the
// member. What is beyond asideMax is left to the end of its session, as if it had died.
func (r *Router) dismiss(share *Share, group, id, why string) {
	if id == "" {
		return
	}
	at := home(share)
	select {
	case r.aside <- struct{}{}:
	default:
		return
	}
	r.background.Go(func() {
		defer func() { <-r.aside }()
		if t, ok := r.servesAgain(share); !ok || t.Site != at || !r.lease.Held() {
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, groupPatience)
		defer cancel()
		node, err := r.sites[at].Coordinator(ctx, broker.GroupCoordinator, group)
		if err != nil {
			return
		}
		// The connection of a join is busy until the member has gone.
		conn, err := r.sites[at].Dial(ctx, node)
		if err != nil {
			return
		}
		defer conn.Close()
		leave, member := kmsg.NewPtrLeaveGroupRequest(), kmsg.NewLeaveGroupRequestMember()
		leave.Group, leave.MemberID, member.MemberID = group, id, id
		member.Reason = kmsg.StringPtr(why)
		leave.Members = append(leave.Members, member)
		_, _ = conn.Do(ctx, leave) // as above
	})
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

// join asks the site that serves the share, and waits while it moves. Nil: the hold
// is over, the member has left, or another gateway coordinates the group. One that
// has no id yet has no partitions either, and is given one by the site: its client, which
// may leave before it has joined, has to know it.
func (c *Client) join(ctx context.Context, share *Share, req *kmsg.JoinGroupRequest, asked string) *kmsg.JoinGroupResponse {
	rebalance := millis(max(req.RebalanceTimeoutMillis, req.SessionTimeoutMillis))
	waited, anew := false, 0
	for until := time.Now().Add(share.Group.GroupDrain + c.router.config.HoldMax); ; {
		changed := share.Changed()
		if draining(share) {
			c.router.settled(share, req.Group, asked)
			if req.MemberID != asked { // it is known as what it is at the site
				c.router.settled(share, req.Group, req.MemberID)
			}
		}
		if waited && !c.router.coordinates(share, req.Group) {
			return nil
		}
		call := groupCall{share: share, group: req.Group, req: req, yields: true, patience: min(rebalance, rebalanceMax) + groupPatience}
		if req.MemberID == "" {
			call.untold = func(resp kmsg.Response) { c.router.takeBack(share, req, resp.(*kmsg.JoinGroupResponse).MemberID) }
		}
		got, err := c.coordinate(ctx, call)
		if err == nil {
			joined := got.(*kmsg.JoinGroupResponse)
			c.stale(share, theGroup(req.Group), joined.ErrorCode)
			if waited && asked != "" && anew < joinAnewMax && joinsAnew(req, joined) {
				anew++
				continue
			}
			if joined.ErrorCode == 0 {
				if joined.MemberID != asked {
					c.router.members.gone(req.Group, asked)
				}
				c.router.members.touch(req.Group, joined.MemberID)
			}
			return joined
		}
		waited = true
		if !c.router.coordinates(share, req.Group) || !c.hold(ctx, changed, until) {
			return nil
		}
	}
}

// joinsAnew makes the request of a member that waited for the new site one of
// a new member, as its client would after the error. The client learns its id
// from the answer.
func joinsAnew(req *kmsg.JoinGroupRequest, joined *kmsg.JoinGroupResponse) bool {
	switch {
	case joined.ErrorCode == kerr.UnknownMemberID.Code && req.MemberID != "":
		req.MemberID = ""
		return true
	case joined.ErrorCode == kerr.MemberIDRequired.Code && req.MemberID == "" && joined.MemberID != "":
		req.MemberID = joined.MemberID
		return true
	default:
		return false
	}
}
