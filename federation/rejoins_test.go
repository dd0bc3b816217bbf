package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// memberMemory is for how long a gateway remembers a member that it does not hear.
const memberMemory = 15 * time.Second

// joinedAnew is a world in which a client knows itself as member-of-east, and the gateway holds
// its join over a move to west, where the group has another member.
type joinedAnew struct {
	t      *testing.T
	w      *gatewaytest.World
	other  *resident
	client *conn.Conn
	answer func() kmsg.Response // of the client's join
}

func joinAnew(t *testing.T, id string, change ...func(*kmsg.JoinGroupRequest)) *joinedAnew {
	var clients watched
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(gateway *federation.Config) {
			if gateway.ID == "gateway-1" {
				clients.Listener, gateway.Listener = gateway.Listener, &clients
			}
			gateway.Router.HoldMax = time.Hour
		}})
	j := &joinedAnew{t: t, w: w, other: reside(t, w, "west", "billing")}
	w.Fence("west", failover.Failover)
	j.client = raw(t, w.Addrs[0])
	req := j.join(id)
	for _, c := range change {
		c(req)
	}
	j.answer = begun(t, j.client, req)
	gatewaytest.Eventually(t, "the gateway holds the join", func() bool { return clients.holds.Load() > 0 })
	return j
}

// join is one whose session does not end while the test runs.
func (j *joinedAnew) join(id string) *kmsg.JoinGroupRequest {
	req := joining("billing", id)
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 300_000, 300_000
	return req
}

// members of the group at west.
func (j *joinedAnew) members() int {
	j.t.Helper()
	d, err := j.w.Direct["west"].Admin().DescribeGroup(within(j.t, soon), "billing")
	if err != nil {
		j.t.Fatal(err)
	}
	return len(d.Members)
}

// joined is the answer to the client's join, which the site gives it when all others have come.
func (j *joinedAnew) joined() *kmsg.JoinGroupResponse {
	j.t.Helper()
	j.w.Open(0, 0)
	gatewaytest.Eventually(j.t, "the member waits at the site", func() bool { return j.members() == 2 })
	j.other.joins()
	joined := j.answer().(*kmsg.JoinGroupResponse)
	if joined.ErrorCode != 0 || joined.MemberID == "member-of-east" {
		j.t.Fatalf("error %d, member %q", joined.ErrorCode, joined.MemberID)
	}
	return joined
}

// leave asks on the client's connection, behind what it has asked there.
func (j *joinedAnew) leave(version int16) (answer func() kmsg.Response) {
	return j.leaveBy(j.client, version)
}

func (j *joinedAnew) leaveBy(c *conn.Conn, version int16) (answer func() kmsg.Response) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.MemberID = version, "billing", "member-of-east"
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = req.MemberID
	req.Members = append(req.Members, member)
	return begun(j.t, c, req)
}

func (j *joinedAnew) joinCode() int16 { return j.answer().(*kmsg.JoinGroupResponse).ErrorCode }

// A client leaves its group as the member that it knows itself to be, while its join waits at
// the next site, where the gateway has joined for it. Kafka Streams does so when a transaction
// is refused after a move. What the gateway joined leaves as well: the group would
// wait for it in every rebalance, until its session ends.
func TestAMemberThatLeavesWhileItJoinsAnewIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	j.w.Open(0, 0)
	gatewaytest.Eventually(t, "the member waits at the site", func() bool { return j.members() == 2 })
	left := j.leave(4)
	if code := j.joinCode(); code != kerr.UnknownMemberID.Code {
		t.Errorf("error %d for the join of a member that has left", code)
	}
	left()
	gatewaytest.Eventually(t, "the member has left", func() bool { return j.members() == 1 })
}

// The same where the answer to the join is on its way already.
func TestAMemberThatLeavesAsWhomItWasLeaves(t *testing.T) {
	t.Parallel()
	for _, version := range []int16{2, 4} { // without and with several members
		j := joinAnew(t, "member-of-east")
		j.w.Open(0, 0)
		gatewaytest.Eventually(t, "the member waits at the site", func() bool { return j.members() == 2 })
		j.other.joins()
		joined := j.answer().(*kmsg.JoinGroupResponse)
		if joined.ErrorCode != 0 || joined.MemberID == "member-of-east" {
			t.Fatalf("error %d, member %q", joined.ErrorCode, joined.MemberID)
		}
		left := j.leave(version)().(*kmsg.LeaveGroupResponse)
		if left.ErrorCode != 0 {
			t.Errorf("version %d: error %d", version, left.ErrorCode)
		}
		if version >= 3 && (len(left.Members) != 1 || left.Members[0].ErrorCode != 0 || left.Members[0].MemberID != "member-of-east") {
			t.Errorf("version %d: %+v", version, left.Members)
		}
		if n := j.members(); n != 1 {
			t.Errorf("version %d: the group has %d members", version, n)
		}
	}
}

// A client that leaves before the share is served again is told at once, and nobody joins for
// it afterwards.
func TestAMemberThatLeavesIsHeldNoLonger(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	left := j.leave(4)
	if code := j.joinCode(); code != kerr.UnknownMemberID.Code {
		t.Errorf("error %d for the join of a member that has left", code)
	}
	if code := left().(*kmsg.LeaveGroupResponse).ErrorCode; code != 0 {
		t.Errorf("error %d", code)
	}
	j.w.Open(0, 0)
	time.Sleep(100 * time.Millisecond) // long enough for what must not come
	if n := j.members(); n != 1 {
		t.Errorf("the group has %d members", n)
	}
}

// Where the move is given up the old site serves again, and still has the member.
func TestAMemberThatLeavesInAMoveThatIsGivenUpLeaves(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	r := reside(t, w, "east", "billing")
	members := func() int {
		d, err := w.Direct["east"].Admin().DescribeGroup(within(t, soon), "billing")
		if err != nil {
			t.Fatal(err)
		}
		return len(d.Members)
	}
	w.Fence("west", failover.Switchover)
	leave, member := kmsg.NewPtrLeaveGroupRequest(), kmsg.NewLeaveGroupRequestMember()
	leave.Version, leave.Group, member.MemberID = 4, "billing", r.join.MemberID
	leave.Members = append(leave.Members, member)
	if code := begun(t, raw(t, w.Addrs[0]), leave)().(*kmsg.LeaveGroupResponse).ErrorCode; code != 0 {
		t.Errorf("error %d while the group moves", code)
	}
	if n := members(); n != 1 {
		t.Fatalf("%d members at the site that is fenced", n)
	}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: "east", Mask: s.Current().Mask, Continues: true})
	})
	gatewaytest.Eventually(t, "it has left the site that goes on", func() bool { return members() == 0 })
}

// Who has left is not waited for in the next move, by whichever name it was known.
func TestWhoLeftAsWhomItWasIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	j.w.Open(0, 0)
	gatewaytest.Eventually(t, "the member waits at the site", func() bool { return j.members() == 2 })
	j.other.joins()
	if code := j.joinCode(); code != 0 {
		t.Fatalf("error %d", code)
	}
	j.leave(4)()
	left := time.Now()
	next := j.w.Share().Epoch + 1
	j.w.SetShare(func(s *failover.Share) {
		s.State, s.Kind, s.Epoch, s.Target = failover.Draining, failover.Switchover, next, "east"
	})
	gatewaytest.Eventually(t, "the gateway says that the groups have drained", func() bool { return j.w.Report(next, "gateway-1").GroupsDrained })
	if took := time.Since(left); took > memberMemory {
		t.Errorf("one that has left was waited for until it was forgotten, %s", took)
	}
}

// Also where it leaves before anybody has looked at its join.
func TestALeaveRightBehindAJoinEndsIt(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(gateway *federation.Config) { gateway.Router.HoldMax = time.Hour }})
	w.Fence("west", failover.Failover)
	j := &joinedAnew{t: t, w: w, client: raw(t, w.Addrs[0])}
	for range 50 {
		j.answer = begun(t, j.client, j.join("member-of-east"))
		left := j.leave(4)
		if code := j.joinCode(); code != kerr.UnknownMemberID.Code {
			t.Fatalf("error %d for the join of a member that has left", code)
		}
		left()
	}
}

// The answer to the join was lost behind the gateway, which takes it for told. Its client joins
// again as whom it knows itself to be, and is no second member.
func TestAMemberThatComesAgainIsNoSecondOne(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	j.w.Open(0, 0)
	gatewaytest.Eventually(t, "the member waits at the site", func() bool { return j.members() == 2 })
	j.other.joins()
	first := j.answer().(*kmsg.JoinGroupResponse)
	again := begun(t, raw(t, j.w.Addrs[0]), j.join("member-of-east"))
	j.other.joins()
	second := again().(*kmsg.JoinGroupResponse)
	if second.ErrorCode != 0 || second.MemberID != first.MemberID {
		t.Errorf("error %d, member %q, was %q", second.ErrorCode, second.MemberID, first.MemberID)
	}
	if n := j.members(); n != 2 {
		t.Errorf("the group has %d members", n)
	}
}

// A client without an id cannot leave its group: it gets one from the site, and comes again.
func TestAMemberWithoutAnIDIsToldOne(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "")
	j.w.Open(0, 0)
	joined := j.answer().(*kmsg.JoinGroupResponse)
	if joined.ErrorCode != kerr.MemberIDRequired.Code || joined.MemberID == "" {
		t.Errorf("error %d, member %q", joined.ErrorCode, joined.MemberID)
	}
}

// The site cannot be asked when a member leaves: it is asked again, by whichever name.
func TestALeaveThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	j.joined()
	j.w.Wires["west"].Cut(true)
	if code := j.leave(4)().(*kmsg.LeaveGroupResponse).ErrorCode; code != kerr.NotCoordinator.Code {
		t.Errorf("error %d where the site cannot be asked", code)
	}
	if n := j.members(); n != 2 {
		t.Fatalf("the group has %d members", n)
	}
	j.w.Wires["west"].Mend()
	gatewaytest.Eventually(t, "the member has left", func() bool { return j.members() == 1 })
}

// A client joins by one gateway, and leaves by another, as whom it knew itself to be. That one
// does not know what the first has made of it; when the connection to the first ends, on which
// the client never said that it knows, the member leaves.
func TestAMemberLeavesByAnotherGateway(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	j.joined()
	j.w.StartGateway("gateway-2")
	gatewaytest.Eventually(t, "the other gateway serves", func() bool {
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Version, beat.Group, beat.MemberID = 3, "billing", "nobody"
		return do[*kmsg.HeartbeatResponse](t, raw(t, j.w.Addrs[1]), beat).ErrorCode == kerr.UnknownMemberID.Code
	})
	left := j.leaveBy(raw(t, j.w.Addrs[1]), 4)().(*kmsg.LeaveGroupResponse)
	if left.ErrorCode != 0 || left.Members[0].ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("error %d, %+v", left.ErrorCode, left.Members)
	}
	if n := j.members(); n != 2 {
		t.Fatalf("the group has %d members", n)
	}
	j.client.Close()
	gatewaytest.Eventually(t, "the member has left", func() bool { return j.members() == 1 })
}

// Who has said that it knows its new name stays when its connection ends, for it comes again.
func TestAMemberThatIsHeardStays(t *testing.T) {
	t.Parallel()
	j := joinAnew(t, "member-of-east")
	joined := j.joined()
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.Generation, sync.MemberID = 3, "billing", joined.Generation, joined.MemberID
	j.client.Send(t.Context(), sync.Key(), sync.Version, true, sync.AppendTo(nil))
	gatewaytest.Eventually(t, "the site was asked", func() bool { return j.w.Wires["west"].Sent(sync.Key()) > 0 })
	j.client.Close()
	time.Sleep(100 * time.Millisecond) // long enough for what must not come
	if n := j.members(); n != 2 {
		t.Errorf("the group has %d members", n)
	}
}

// A static member whose answer was lost is not taken back: it comes again, by the name that it
// knows or by its instance's, and is the same one.
func TestAStaticMemberComesAgain(t *testing.T) {
	t.Parallel()
	static := func(req *kmsg.JoinGroupRequest) { req.InstanceID = kmsg.StringPtr("till-1") }
	j := joinAnew(t, "member-of-east", static)
	first := j.joined()
	j.client.Close()
	time.Sleep(100 * time.Millisecond) // long enough for what must not come
	if n := j.members(); n != 2 {
		t.Errorf("the group has %d members after the connection has ended", n)
	}
	req := j.join("member-of-east")
	static(req)
	again := begun(t, raw(t, j.w.Addrs[0]), req)
	j.other.joins()
	if second := again().(*kmsg.JoinGroupResponse); second.ErrorCode != 0 || second.MemberID != first.MemberID {
		t.Errorf("error %d, member %q, was %q", second.ErrorCode, second.MemberID, first.MemberID)
	}
	if n := j.members(); n != 2 {
		t.Errorf("the group has %d members", n)
	}
}
