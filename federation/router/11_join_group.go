package router

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
	"spillway/mirror/sitelog"
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
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = -1, req.MemberID
	share, ok := c.router.GroupShare(req.Group)
	if resp.ErrorCode = c.groupCode(authorization.Read, req.Group, share); resp.ErrorCode == 0 && !ok {
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
	}
	if resp.ErrorCode != 0 { // nothing is remembered of who may not join
		return reply(resp), nil
	}
	j := c.router.members.begin(req.Group, req.MemberID, &c.claims)
	return func(ctx context.Context) ([]byte, error) {
		return c.joinGroup(ctx, share, req, resp, j).AppendTo(nil), nil
	}, nil
}

func (c *Client) joinGroup(ctx context.Context, share *Share, req *kmsg.JoinGroupRequest, resp *kmsg.JoinGroupResponse, j *rejoin) kmsg.Response {
	defer c.router.members.end(j, 0) // if nothing else does
	asked := req.MemberID
	joined := c.join(ctx, share, req, j)
	left := c.router.members.end(j, min(millis(req.SessionTimeoutMillis), rebalanceMax))
	switch {
	case left: // as a broker answers it
		resp.ErrorCode = kerr.UnknownMemberID.Code
	case joined != nil:
		resp = joined
	case c.router.coordinates(share, req.Group):
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	default:
		c.router.events.refused("coordinator")
		c.router.left(share, req.Group, asked)
		resp.ErrorCode = kerr.NotCoordinator.Code
	}
	switch { // its client may not get the answer, or learns nothing from it
	case req.InstanceID != nil && !left: // who loses the answer comes again with the old name, or by the instance's
	case resp.ErrorCode == 0 || resp.ErrorCode == kerr.MemberIDRequired.Code:
		if c.router.members.brought(j) {
			c.tell(share, j)
		}
	default:
		c.router.takeBack(share, j)
	}
	return resp
}

// namesToldMax is how many members of a connection are remembered whose clients have not used their
// names. A client is one; what is beyond is left to the end of its session.
const namesToldMax = 16

// toldName is a member whose name was told on a connection.
type toldName struct {
	share *Share
	join  *rejoin
}

// tell notes that a client is told its member's name, until the connection ends.
func (c *Client) tell(share *Share, j *rejoin) {
	if c.told = append(c.told, toldName{share, j}); len(c.told) > namesToldMax {
		c.router.members.unheard(c.told[0].join)
		c.told = slices.Delete(c.told, 0, 1)
	}
}

func millis(n int32) time.Duration { return time.Duration(max(n, 0)) * time.Millisecond }

// join asks the site that serves the share, and waits while it moves. Nil: the hold
// is over, the member has left, or another gateway coordinates the group. One that
// has no id yet has no partitions either, and is given one by the site: its client, which
// may leave before it has joined, has to know it.
func (c *Client) join(ctx context.Context, share *Share, req *kmsg.JoinGroupRequest, j *rejoin) *kmsg.JoinGroupResponse {
	// Who leaves is not held, and the site answers its join (beginLeaveGroup).
	held, release := context.WithCancel(ctx)
	defer release()
	defer context.AfterFunc(j.lasts, release)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(j.lasts, func() {
		_ = sitelog.Pause(ctx, leftMax) // ended sooner by the answer
		cancel()
	})()
	ms, asked := c.router.members, req.MemberID
	req.MemberID = ms.is(j)
	rebalance := millis(max(req.RebalanceTimeoutMillis, req.SessionTimeoutMillis))
	waited, anew := false, 0
	for until := time.Now().Add(share.Group.GroupDrain + c.router.config.HoldMax); held.Err() == nil && j.lasts.Err() == nil; {
		changed := share.Changed()
		if draining(share) && asked != "" {
			c.router.settled(share, req.Group, asked)
		}
		if waited && !c.router.coordinates(share, req.Group) {
			return nil
		}
		call := groupCall{share: share, group: req.Group, req: req, yields: true, patience: min(rebalance, rebalanceMax) + groupPatience}
		if static := req.InstanceID != nil; req.MemberID == "" {
			call.untold = func(resp kmsg.Response) {
				if !static || ms.hasLeft(j) { // else it comes again by its instance id
					c.router.dismiss(share, req.Group, resp.(*kmsg.JoinGroupResponse).MemberID)
				}
			}
		}
		got, err := c.coordinate(ctx, call)
		if err == nil {
			joined := got.(*kmsg.JoinGroupResponse)
			c.stale(share, theGroup(req.Group), joined.ErrorCode)
			if joined.ErrorCode == 0 || joined.ErrorCode == kerr.MemberIDRequired.Code {
				ms.becomes(j, joined.MemberID, joined.ErrorCode == 0)
			}
			if waited && asked != "" && anew < joinAnewMax && joinsAnew(req, joined) {
				anew++
				continue
			}
			return joined
		}
		waited = true
		if !c.router.coordinates(share, req.Group) || !c.hold(held, changed, until) {
			return nil
		}
	}
	return nil
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
