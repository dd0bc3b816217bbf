package router

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/federation/failover"
)

// beats has a client send the heartbeat of a member by KIP-848.
func (c *Client) beats(t *testing.T, id string, epoch int32) *kmsg.ConsumerGroupHeartbeatResponse {
	t.Helper()
	req, resp := kmsg.NewPtrConsumerGroupHeartbeatRequest(), kmsg.NewPtrConsumerGroupHeartbeatResponse()
	req.Version, resp.Version, req.Group, req.MemberID, req.MemberEpoch = 1, 1, "billing", id, epoch
	c.begins(t, t.Context(), req, resp)()
	return resp
}

// knows has the site know every member that sends a heartbeat.
func (w *codecWorld) knows() {
	w.site.answers(func(r kmsg.Request) kmsg.Response {
		resp := r.ResponseKind()
		if req, ok := r.(*kmsg.ConsumerGroupHeartbeatRequest); ok {
			beat := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
			beat.MemberID, beat.MemberEpoch = kmsg.StringPtr(req.MemberID), max(req.MemberEpoch, 1)
		}
		return resp
	})
}

// sets is the record of the only share from now on.
func (w *codecWorld) sets(state failover.State, epoch spillway.Epoch, terms ...failover.Term) *Share {
	share := w.shares[spillway.ShareID{Group: "shop"}]
	share.SetRecord(failover.Share{State: state, Epoch: epoch, Active: "east", Terms: append([]failover.Term{{Epoch: 1, Site: "east"}}, terms...)})
	return share
}

// While groups drain a connection names a few members that no site has confirmed. Who is beyond that is
// not told to give up its partitions: nobody would remember that it was told. Those that a site knows
// are as many as there are.
func TestAConnectionNamesFewMembersThatNoSiteKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.knows()
		const known = 2 * claimsMax
		client, other := w.client(t), w.client(t)
		defer client.Close()
		defer other.Close()
		for i := range known {
			client.beats(t, fmt.Sprint("known-", i), 1)
		}
		w.sets(failover.Draining, 2)
		told := func(c *Client, name string, members int) (n int) {
			for i := range members {
				switch r := c.beats(t, fmt.Sprint(name, i), 5); {
				case r.ErrorCode == 0 && r.Assignment != nil && len(r.Assignment.Topics) == 0:
					n++
				case r.ErrorCode == kerr.NotCoordinator.Code && r.Assignment == nil: // others coordinate the group
				default:
					t.Fatalf("%s%d is told %+v", name, i, r)
				}
			}
			return n
		}
		if n := told(client, "known-", known); n != known {
			t.Errorf("%d members that the site knows are told, of %d", n, known)
		}
		for range 2 { // the same ones
			if n := told(client, "named-", 10*claimsMax); n != claimsMax {
				t.Errorf("%d members that no site knows are told, %d are the most", n, claimsMax)
			}
		}
		if got := w.members.kept(); got != [2]int{known + claimsMax, known + claimsMax} {
			t.Errorf("%v are remembered, %d are known and %d may be named", got, known, claimsMax)
		}
		if n := told(other, "other-", 1); n != 1 {
			t.Error("another connection may name none")
		}
		w.sets(failover.Stable, 1)
		if client.beats(t, "named-0", 6).ErrorCode != 0 { // now the site knows it
			t.Fatal("a member is not served")
		}
		w.sets(failover.Draining, 2)
		if n := told(client, "more-", 2); n != 1 {
			t.Errorf("when the site knows one of them, %d more are told", n)
		}
		time.Sleep(2 * memberMemory)
		if n := told(client, "late-", 2*claimsMax); n != claimsMax {
			t.Errorf("when those that were named are forgotten %d others are told, %d are the most", n, claimsMax)
		}
	})
}

// There is no room for who would be told.
func TestWhoIsNotRememberedIsNotToldToGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		for i := range membersMax {
			w.members.touch("others", fmt.Sprint("member-", i))
		}
		w.sets(failover.Draining, 2)
		client := w.client(t)
		defer client.Close()
		if r := client.beats(t, "a", 5); r.ErrorCode != kerr.NotCoordinator.Code || r.Assignment != nil {
			t.Errorf("it is told %+v", r)
		}
	})
}

// After a move that was given up members that this gateway does not know join anew. That costs no
// room, however many a client names, and ends when the site knows them.
func TestStrangersTakeNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.knows()
		share := w.sets(failover.Stable, 3, failover.Term{Epoch: 3, Site: "east", Continues: true})
		if !share.Open(Term{Epoch: 3, Base: 1, Site: "east", Began: time.Now()}) {
			t.Fatal("the share does not open")
		}
		client := w.client(t)
		defer client.Close()
		for range 2 { // the order may be lost
			for i := range 100 {
				if r := client.beats(t, fmt.Sprint("member-", i), 5); r.ErrorCode != kerr.FencedMemberEpoch.Code {
					t.Fatalf("member %d is told %+v", i, r)
				}
			}
		}
		if got := w.members.kept(); got != [2]int{} {
			t.Errorf("%v are remembered", got)
		}
		for _, epoch := range []int32{0, 1, 2} {
			if r := client.beats(t, "member-0", epoch); r.ErrorCode != 0 {
				t.Errorf("who has joined anew is told %+v in epoch %d", r, epoch)
			}
		}
		for i := range membersMax {
			w.members.touch("others", fmt.Sprint("member-", i))
		}
		if r := client.beats(t, "late", 5); r.ErrorCode != 0 {
			t.Errorf("who cannot be remembered is told %+v, and would join anew for ever", r)
		}
	})
}
