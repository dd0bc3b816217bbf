package router

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// As Kafka's coordinator (GroupMetadataManager of 4.0: completeJoinFuture) the site answers a join
// that waits for others when its member leaves. So a leave goes beside the join, and a client that
// joins and leaves again and again has no connection made for it.
func TestJoinsThatAreLeftCostNoConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		var mu sync.Mutex
		waits := make(map[string]chan struct{}) // of joins, by member
		waitOf := func(id string) chan struct{} {
			mu.Lock()
			defer mu.Unlock()
			if waits[id] == nil {
				waits[id] = make(chan struct{})
			}
			return waits[id]
		}
		w.site.says(func(req kmsg.Request) []byte {
			resp := req.ResponseKind()
			switch req := req.(type) {
			case *kmsg.JoinGroupRequest:
				<-waitOf(req.MemberID)
				resp.(*kmsg.JoinGroupResponse).ErrorCode = kerr.UnknownMemberID.Code
			case *kmsg.LeaveGroupRequest:
				m := kmsg.NewLeaveGroupResponseMember()
				m.MemberID = req.Members[0].MemberID
				resp.(*kmsg.LeaveGroupResponse).Members = append(resp.(*kmsg.LeaveGroupResponse).Members, m)
				close(waitOf(m.MemberID))
			}
			return resp.AppendTo(nil)
		})
		c := w.client(t)
		defer c.Close()
		begin := func(req kmsg.Request, into kmsg.Response) (answer func()) { return c.begins(t, t.Context(), req, into) }
		for i := range 20 {
			id := "member-" + string(rune('a'+i))
			join, leave, member := kmsg.NewPtrJoinGroupRequest(), kmsg.NewPtrLeaveGroupRequest(), kmsg.NewLeaveGroupRequestMember()
			join.Version, join.Group, join.MemberID, join.SessionTimeoutMillis = 5, "billing", id, 10_000
			leave.Version, leave.Group, member.MemberID = 4, "billing", id
			leave.Members = append(leave.Members, member)
			joined, left := join.ResponseKind().(*kmsg.JoinGroupResponse), leave.ResponseKind().(*kmsg.LeaveGroupResponse)
			answer := begin(join, joined)
			done := make(chan struct{})
			go func() { defer close(done); answer() }()
			synctest.Wait() // the join is at the site
			answer = begin(leave, left)
			<-done
			answer()
			if joined.ErrorCode != kerr.UnknownMemberID.Code || left.ErrorCode != 0 || len(left.Members) != 1 || left.Members[0].ErrorCode != 0 {
				t.Fatalf("joined %+v, left %+v", joined, left)
			}
		}
		if dials, requests := w.site.dials.Load(), w.site.requests.Load(); dials != 2 || requests != 40 {
			t.Errorf("20 members cost %d connections and %d requests", dials, requests)
		}
		if got := w.members.kept(); got != [2]int{} {
			t.Errorf("%v are remembered", got)
		}
	})
}
