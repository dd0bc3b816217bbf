package federation_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// coordinatorOf asks a gateway where a group is.
func coordinatorOf(t *testing.T, c *conn.Conn, group string) (node int32) {
	t.Helper()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKey = 3, group
	resp := do[*kmsg.FindCoordinatorResponse](t, c, req)
	if resp.ErrorCode != 0 {
		t.Fatalf("error %d", resp.ErrorCode)
	}
	return resp.NodeID
}

// leadersOf asks a gateway who leads the partitions of orders.
func leadersOf(t *testing.T, c *conn.Conn) (nodes []int32) {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	for _, p := range do[*kmsg.MetadataResponse](t, c, req).Topics[0].Partitions {
		nodes = append(nodes, p.Leader)
	}
	return nodes
}

// The gateways of the lost site are gone, and the layout does not say yet that the next
// site leads: all gateways name it all the same, before the share opens there and
// afterwards. A member that joined anywhere else meanwhile would look for its coordinator
// again, and join a second time.
func TestAnOpeningMovesNoCoordinator(t *testing.T) {
	t.Parallel()
	at := map[spillway.GatewayID]spillway.SiteID{"gateway-1": "east", "gateway-2": "west", "gateway-3": "north"}
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west", "north"}, Topics: map[string]int32{"orders": 8},
		Gateways: []spillway.GatewayID{"gateway-1", "gateway-2", "gateway-3"}, Gateway: func(c *federation.Config) { c.Site = at[c.ID] }})
	west := w.LayOut("east").NodesOf("gateway-2")[0].ID
	w.Fence("west", failover.Failover)
	w.StopGateway("gateway-1")
	w.LayOut("east")
	survivors := []*conn.Conn{raw(t, w.Addrs[1]), raw(t, w.Addrs[2])}
	for _, when := range []string{"before the opening", "after it"} {
		for i, c := range survivors {
			for n := range 8 {
				if node := coordinatorOf(t, c, fmt.Sprint("billing-", n)); node != west {
					t.Errorf("%s: gateway-%d finds a group at node %d, west has %d", when, i+2, node, west)
				}
			}
			for partition, node := range leadersOf(t, c) {
				if node != west {
					t.Errorf("%s: gateway-%d has partition %d led by node %d, west has %d", when, i+2, partition, node, west)
				}
			}
		}
		if when == "before the opening" {
			w.Open(0, 0)
		}
	}
}

// joining is the join of a member that has an id already.
func joining(group, member string) *kmsg.JoinGroupRequest {
	req := joinRequest(group)
	req.Version, req.MemberID = 5, member
	return req
}

// A join waits for a share that moves only where clients find the group: held on at
// another gateway it would be forwarded for a client that has joined there meanwhile.
func TestAJoinIsHeldAtItsCoordinator(t *testing.T) {
	t.Parallel()
	var clients watched // of gateway-1
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(c *federation.Config) {
			c.Router.HoldMax = time.Hour
			if c.ID == "gateway-1" {
				clients.Listener, c.Listener = c.Listener, &clients
			}
		}})
	w.Fence("west", failover.Switchover)
	answers := make(map[string]func() kmsg.Response)
	for n := range 8 {
		group := fmt.Sprint("billing-", n)
		answers[group] = begun(t, raw(t, w.Addrs[0]), joining(group, "member"))
	}
	gatewaytest.Eventually(t, "all are held", func() bool { return int(clients.holds.Load()) == len(answers) })
	w.StartGateway("gateway-2")
	next := w.LayOut("east")
	goes := 0
	for group, answer := range answers {
		if n, _ := next.Coordinator(gatewaytest.ShareID, group); n.Gateway == "gateway-1" {
			continue
		}
		goes++
		if code := answer().(*kmsg.JoinGroupResponse).ErrorCode; code != kerr.NotCoordinator.Code {
			t.Errorf("%s: error %d for a join that was held", group, code)
		}
		delete(answers, group)
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Version, beat.Group, beat.MemberID = 3, group, "member"
		for i, want := range []int16{kerr.NotCoordinator.Code, kerr.RebalanceInProgress.Code} {
			if code := do[*kmsg.HeartbeatResponse](t, raw(t, w.Addrs[i]), beat).ErrorCode; code != want {
				t.Errorf("%s: error %d for a heartbeat at gateway-%d, want %d", group, code, i+1, want)
			}
		}
		if do[*kmsg.JoinGroupResponse](t, raw(t, w.Addrs[0]), joining(group, "member")).ErrorCode != kerr.NotCoordinator.Code {
			t.Errorf("%s: a join that comes now is held", group)
		}
	}
	if goes == 0 || len(answers) == 0 {
		t.Fatalf("%d groups go to the other gateway and %d stay: the test shows nothing", goes, len(answers))
	}
	w.SetShare(func(s *failover.Share) { // the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: s.Active, Mask: s.Current().Mask, Continues: true})
	})
	for group, answer := range answers {
		if code := answer().(*kmsg.JoinGroupResponse).ErrorCode; code != 0 {
			t.Errorf("%s: error %d for a join that was held at its coordinator", group, code)
		}
	}
}

// resident is a member of a group at a site, past the gateways.
type resident struct {
	t    *testing.T
	conn *conn.Conn
	join *kmsg.JoinGroupRequest
}

func reside(t *testing.T, w *gatewaytest.World, site spillway.SiteID, group string) *resident {
	t.Helper()
	node, err := w.Direct[site].Coordinator(within(t, soon), broker.GroupCoordinator, group)
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Direct[site].Dial(within(t, soon), node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &resident{t: t, conn: c, join: joinRequest(group)}
	r.join.SessionTimeoutMillis, r.join.RebalanceTimeoutMillis = 300_000, 300_000
	r.joins()
	return r
}

// joins returns when all members of the group have joined, and gives each nothing, if
// none of them has left meanwhile.
func (r *resident) joins() {
	r.t.Helper()
	joined := do[*kmsg.JoinGroupResponse](r.t, r.conn, r.join)
	if joined.ErrorCode != 0 {
		r.t.Fatalf("error %d", joined.ErrorCode)
	}
	r.join.MemberID = joined.MemberID
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.MemberID, sync.Generation = 3, r.join.Group, joined.MemberID, joined.Generation
	if code := do[*kmsg.SyncGroupResponse](r.t, r.conn, sync).ErrorCode; code != 0 && code != kerr.RebalanceInProgress.Code {
		r.t.Fatalf("error %d", code)
	}
}

// watched counts the connections of which a gateway holds a request: while it does, it
// looks again and again whether the client is still there. Once torn is set, nothing can be written.
type watched struct {
	net.Listener
	holds atomic.Int32
	torn  atomic.Bool
}

func (l *watched) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &watchedConn{Conn: c, of: l}, err
}

type watchedConn struct {
	net.Conn
	of     *watched
	looked atomic.Int32
}

// looksMin: a session that waits for a request looks too, once.
const looksMin = 3

func (c *watchedConn) SyscallConn() (syscall.RawConn, error) {
	if c.looked.Add(1) == looksMin {
		c.of.holds.Add(1)
	}
	return c.Conn.(syscall.Conn).SyscallConn()
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if c.of.torn.Load() {
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(b)
}

// The client of a join that waits at the site goes away without knowing the id that its
// member has there. The member leaves: the group would wait for it in every rebalance,
// until its session ends.
func TestAMemberThatNobodyKnowsLeaves(t *testing.T) {
	t.Parallel()
	count := func(t *testing.T, w *gatewaytest.World, site spillway.SiteID) int {
		d, err := w.Direct[site].Admin().DescribeGroup(within(t, soon), "billing")
		if err != nil {
			t.Fatal(err)
		}
		return len(d.Members)
	}
	for _, c := range []struct {
		name string
		move bool
		torn bool // the client is there, and the answer cannot be written
		req  func() *kmsg.JoinGroupRequest
	}{
		{"the gateway joined for it at the next site", true, false, func() *kmsg.JoinGroupRequest { return joining("billing", "member-of-east") }},
		{"the site has not told its id", false, false, func() *kmsg.JoinGroupRequest { return joinRequest("billing") }},
		{"the answer with its id is lost", false, true, func() *kmsg.JoinGroupRequest { return joinRequest("billing") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var clients watched
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
				Gateway: func(gateway *federation.Config) {
					clients.Listener, gateway.Listener = gateway.Listener, &clients
					gateway.Router.HoldMax = time.Hour
				}})
			site := spillway.SiteID("east")
			if c.move {
				site = "west"
			}
			other := reside(t, w, site, "billing")
			if c.move {
				w.Fence("west", failover.Failover)
			}
			client := raw(t, w.Addrs[0])
			req := c.req()
			req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 300_000, 300_000
			client.Send(t.Context(), req.Key(), req.GetVersion(), true, req.AppendTo(nil))
			if c.move {
				gatewaytest.Eventually(t, "the gateway holds the join", func() bool { return clients.holds.Load() > 0 })
				w.Open(0, 0)
			}
			gatewaytest.Eventually(t, "the member waits at the site", func() bool { return count(t, w, site) == 2 })
			if clients.torn.Store(c.torn); !c.torn {
				client.Close()
			}
			if !c.move {
				other.joins() // only then does the site tell the id
			}
			gatewaytest.Eventually(t, "the member has left", func() bool { return count(t, w, site) == 1 })
		})
	}
}
