package router

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// opens has the only share be served at east, in a term that continues the first one.
func (w *codecWorld) opens(t *testing.T, epoch spillway.Epoch) {
	t.Helper()
	share := w.sets(failover.Stable, epoch, failover.Term{Epoch: epoch, Site: "east", Continues: true})
	if !share.Open(Term{Epoch: epoch, Base: 1, Site: "east", Began: time.Now()}) {
		t.Fatal("the share does not open")
	}
}

// A client commits and leaves at once. It is waited for until its commit is done, which is before the
// turn of its leave.
func TestWhoLeavesIsWaitedForUntilItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.members.touch("billing", "a")
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			return leaving(r.(*kmsg.LeaveGroupRequest), kerr.CoordinatorLoadInProgress.Code)
		})
		client := w.client(t)
		defer client.Close()
		req, resp := leavingAll("billing", "a")
		answer := client.begins(t, t.Context(), req, resp)
		if w.members.settledAll(2, anyGroup) {
			t.Error("it is not waited for before its turn has come")
		}
		if answer(); !w.members.settledAll(2, anyGroup) {
			t.Error("it is waited for when it has left")
		}
	})
}

// A commit, a join and a leave come in one go. The leave does not overtake the commit, and the join
// does not reach the site.
func TestALeaveDoesNotOvertakeWhatWasSentBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		var asked []string
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			asked = append(asked, kmsg.NameForKey(r.Key()))
			return r.ResponseKind()
		})
		w.members.touch("billing", "a")
		client := w.client(t)
		defer client.Close()
		commit, committed := kmsg.NewPtrOffsetCommitRequest(), kmsg.NewPtrOffsetCommitResponse()
		commit.Version, committed.Version, commit.Group, commit.MemberID = 8, 8, "billing", "a"
		topic, partition := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
		topic.Topic = codecTopics[0]
		topic.Partitions = append(topic.Partitions, partition)
		commit.Topics = append(commit.Topics, topic)
		joined := kmsg.NewPtrJoinGroupResponse()
		joined.Version = 5
		leave, left := leavingAll("billing", "a")
		answers := []func(){
			client.begins(t, t.Context(), commit, committed),
			client.begins(t, t.Context(), joining("billing", "a"), joined),
			client.begins(t, t.Context(), leave, left),
		}
		synctest.Wait()
		if len(asked) > 0 {
			t.Errorf("the site was asked before the first turn: %v", asked)
		}
		for _, answer := range answers {
			answer()
		}
		if got := strings.Join(asked, " "); got != "OffsetCommit LeaveGroup" {
			t.Errorf("the site was asked: %s", got)
		}
		if joined.ErrorCode != kerr.UnknownMemberID.Code || left.ErrorCode != 0 {
			t.Errorf("joined %d, left %d", joined.ErrorCode, left.ErrorCode)
		}
	})
}

// Joins that wait behind others on their connection take room for a few, whatever their clients call
// themselves. Those that a site has let in are not counted.
func TestJoinsBehindOthersDoNotFillTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			resp := r.ResponseKind()
			if req, ok := r.(*kmsg.JoinGroupRequest); ok {
				resp.(*kmsg.JoinGroupResponse).MemberID = req.MemberID
			}
			return resp
		})
		client := w.client(t)
		defer client.Close()
		var answers []func()
		for i := range 4 * claimsMax {
			joined := kmsg.NewPtrJoinGroupResponse()
			joined.Version = 5
			answers = append(answers, client.begins(t, t.Context(), joining("billing", fmt.Sprint("named-", i)), joined))
		}
		if got := w.members.kept(); got != [2]int{claimsMax, claimsMax} {
			t.Errorf("%v are remembered of a connection, %d are the most", got, claimsMax)
		}
		for _, answer := range answers {
			answer()
		}
		if got := w.members.kept(); got[0] != 4*claimsMax || client.claims.n != 0 {
			t.Errorf("%v are remembered and %d counted, when all have joined", got, client.claims.n)
		}
	})
}

// A member by KIP-848 leaves also while groups drain: the site still serves.
func TestAMemberLeavesWhileGroupsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		var asked []int32
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			asked = append(asked, r.(*kmsg.ConsumerGroupHeartbeatRequest).MemberEpoch)
			return r.ResponseKind()
		})
		w.sets(failover.Draining, 2)
		client := w.client(t)
		defer client.Close()
		for _, epoch := range []int32{-1, -2} {
			if r := client.beats(t, "a", epoch); r.ErrorCode != 0 {
				t.Errorf("told %d", r.ErrorCode)
			}
		}
		if fmt.Sprint(asked) != "[-1 -2]" {
			t.Errorf("the site was asked %v", asked)
		}
	})
}

// What is kept of members that are asked to leave again is their names, of a hundred of a request; and one
// connection, and one share, have so many requests under way.
func TestWhatIsKeptOfLeavesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		var asked atomic.Pointer[kmsg.LeaveGroupRequest]
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			req, ok := r.(*kmsg.LeaveGroupRequest)
			if !ok {
				return r.ResponseKind()
			}
			asked.Store(req)
			return leaving(req, 0)
		})
		w.sets(failover.Fencing, 2)
		leave := func(c *Client) {
			var ids []string
			for i := range 2 * persuadeMax {
				ids = append(ids, fmt.Sprint("member-", i))
			}
			req, resp := leavingAll("billing", append(ids, "", strings.Repeat("x", memberIDMax+1))...)
			req.Version, resp.Version = 5, 5
			for i := range req.Members {
				req.Members[i].Reason = kmsg.StringPtr(strings.Repeat("y", 1000))
			}
			c.begins(t, t.Context(), req, resp)()
		}
		client := w.client(t)
		defer client.Close()
		for range 2 * asideOfClientMax {
			leave(client)
		}
		if n := len(w.aside); n != asideOfClientMax {
			t.Errorf("one connection has %d under way, %d are the most", n, asideOfClientMax)
		}
		for range asideOfShareMax {
			other := w.client(t)
			defer other.Close()
			leave(other)
		}
		if n := len(w.aside); n != asideOfShareMax {
			t.Errorf("%d are under way for a share, %d are the most", n, asideOfShareMax)
		}
		w.opens(t, 3)
		time.Sleep(time.Second)
		req := asked.Load()
		if req == nil || len(req.Members) != persuadeMax || len(*req.Members[0].Reason) > 100 {
			t.Errorf("the site was asked %+v", req)
		}
		if n := len(w.aside); n > 0 || client.asides.n.Load() > 0 {
			t.Errorf("%d are under way at the end, %d of the connection", n, client.asides.n.Load())
		}
	})
}

// A large request does not hold up others on the connection that they share.
func TestALargeLeaveDoesNotGoAside(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*kmsg.LeaveGroupRequest)
		small  bool
	}{
		{"one member", func(*kmsg.LeaveGroupRequest) {}, true},
		{"many", func(r *kmsg.LeaveGroupRequest) { r.Members = make([]kmsg.LeaveGroupRequestMember, persuadeMax+1) }, false},
		{"a long id", func(r *kmsg.LeaveGroupRequest) { r.Members[0].MemberID = strings.Repeat("x", memberIDMax+1) }, false},
		{"a long instance", func(r *kmsg.LeaveGroupRequest) {
			r.Members[0].InstanceID = kmsg.StringPtr(strings.Repeat("x", memberIDMax+1))
		}, false},
		{"a long reason", func(r *kmsg.LeaveGroupRequest) {
			r.Members[0].Reason = kmsg.StringPtr(strings.Repeat("x", memberIDMax+1))
		}, false},
		{"a long id of an old client", func(r *kmsg.LeaveGroupRequest) { r.MemberID = strings.Repeat("x", memberIDMax+1) }, false},
	} {
		req, _ := leavingAll("billing", "a")
		c.change(req)
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			w.site.answers(func(r kmsg.Request) kmsg.Response { return leaving(r.(*kmsg.LeaveGroupRequest), 0) })
			l := &leave{share: w.shares[spillway.ShareID{Group: "shop"}], req: *req}
			answer := (&Client{router: w.Router}).asked(l, func(context.Context) (*kmsg.LeaveGroupResponse, error) { return nil, errMoving })
			if _, err := answer(t.Context()); (err == nil) != c.small {
				t.Errorf("%s: has gone aside %v", c.name, err == nil)
			}
		})
	}
}

// A broker answers once and hangs, with as many requests before it as may be. What finds no room there is no
// sign of life of it.
func TestAFullConnectionIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		over := make(chan struct{})
		defer close(over)
		var seen atomic.Int32
		w.site.says(func(req kmsg.Request) []byte {
			if seen.Add(1) == 1 {
				time.Sleep(2 * time.Second)
			} else if w.site.dials.Load() == 1 {
				<-over
			}
			return leaving(req.(*kmsg.LeaveGroupRequest), 0).AppendTo(nil)
		})
		ask := func() error {
			req, _ := leavingAll("billing", "a")
			_, err := w.leaveAt(t.Context(), "east", req)
			return err
		}
		go func() { _ = ask() }()
		time.Sleep(1900 * time.Millisecond)
		for range 120 { // more than there is room for
			go func() { _ = ask() }()
		}
		for range 60 { // somebody always waits for room
			time.Sleep(250 * time.Millisecond)
			go func() { _ = ask() }()
		}
		time.Sleep(dialMax)
		if err := ask(); err != nil || w.site.dials.Load() < 2 {
			t.Errorf("after %d connections: %v", w.site.dials.Load(), err)
		}
	})
}

// Nobody is asked to leave at a site while it is being fenced.
func TestNobodyIsAskedToLeaveAtAFencedSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		var asked atomic.Int32
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			if req, ok := r.(*kmsg.LeaveGroupRequest); ok {
				asked.Add(1)
				return leaving(req, kerr.CoordinatorLoadInProgress.Code)
			}
			return r.ResponseKind()
		})
		client := w.client(t)
		defer client.Close()
		req, resp := leavingAll("billing", "a")
		client.begins(t, t.Context(), req, resp)()
		time.Sleep(time.Second)
		before := asked.Load()
		w.sets(failover.Fencing, 2)
		time.Sleep(3 * time.Second)
		if n := asked.Load(); before < 2 || n != before {
			t.Errorf("it was asked %d times before, and %d while it is fenced", before, n-before)
		}
		w.opens(t, 3)
		time.Sleep(3 * time.Second)
		if n := asked.Load(); n <= before {
			t.Error("it is not asked any more when it serves again")
		}
	})
}

// What a site said to a gateway that has lost its lease meanwhile is not told to clients.
func TestALeaveBesideAJoinNeedsTheLeaseOfItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		lease := &lapsing{}
		lease.held.Store(true)
		w.lease = lease
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			if req, ok := r.(*kmsg.LeaveGroupRequest); ok {
				lease.held.Store(false)
				return leaving(req, 0)
			}
			return r.ResponseKind()
		})
		j := w.members.starts("billing", "a")
		w.members.is(j)
		defer w.members.end(j, 0)
		client := w.client(t)
		defer client.Close()
		req, resp := leavingAll("billing", "a")
		if client.begins(t, t.Context(), req, resp)(); resp.ErrorCode != kerr.NotCoordinator.Code {
			t.Errorf("told %+v", resp)
		}
	})
}

// A leave takes groupPatience at most, by whichever ways it is asked, and ends with its client.
func TestALeaveIsWaitedForOnce(t *testing.T) {
	for _, gone := range []time.Duration{time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			over := make(chan struct{})
			defer close(over)
			w.site.says(func(req kmsg.Request) []byte {
				<-over
				return req.ResponseKind().AppendTo(nil)
			})
			j := w.members.starts("billing", "a")
			w.members.is(j)
			defer w.members.end(j, 0)
			client := w.client(t)
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), gone)
			defer cancel()
			req, resp := leavingAll("billing", "a")
			begun := time.Now()
			client.begins(t, ctx, req, resp)()
			if took, want := time.Since(begun), min(gone, groupPatience); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
		})
	}
}

// A static member leaves while the gateway joins it at the next site. Nobody comes again by its
// instance id, so it leaves there too, also where the answer to its join is late.
func TestAStaticMemberThatLeftIsTakenBack(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			synctest.Wait() // the router has read it once
			w.layout = fixedLayout{layout.Layout{Nodes: []layout.Node{{ID: 1}}}}
			var gone left
			waits, joins := make(chan struct{}), make(chan struct{})
			w.site.says(func(req kmsg.Request) []byte {
				resp := req.ResponseKind()
				switch req := req.(type) {
				case *kmsg.JoinGroupRequest:
					if req.MemberID != "" {
						resp.(*kmsg.JoinGroupResponse).ErrorCode = kerr.UnknownMemberID.Code
						break
					}
					close(joins)
					<-waits
					resp.(*kmsg.JoinGroupResponse).MemberID = "made"
				case *kmsg.LeaveGroupRequest:
					gone.see(req)
					resp = leaving(req, 0)
				}
				return resp.AppendTo(nil)
			})
			w.sets(failover.Fencing, 2)
			client := w.client(t)
			defer client.Close()
			join, joined := joining("billing", "old"), kmsg.NewPtrJoinGroupResponse()
			join.InstanceID, joined.Version = kmsg.StringPtr("one"), 5
			answer := client.begins(t, t.Context(), join, joined)
			done := make(chan struct{})
			go func() { defer close(done); answer() }()
			synctest.Wait()
			w.opens(t, 3)
			<-joins
			req, resp := leavingAll("billing", "old")
			answer = client.begins(t, t.Context(), req, resp)
			synctest.Wait() // the site has been asked
			if late {
				time.Sleep(2 * leftMax)
			}
			close(waits)
			<-done
			answer()
			time.Sleep(time.Second)
			if got := gone.all(); got != "old made" || joined.ErrorCode != kerr.UnknownMemberID.Code {
				t.Errorf("late %v: the site was asked to let %q go, and the join was answered %d", late, got, joined.ErrorCode)
			}
		})
	}
}

// A client that uses a name by any request, also one that its gateway has given up, is not asked to leave.
func TestWhoIsHeardByAnyRequestStays(t *testing.T) {
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.MemberID = 3, "billing", "a"
	commit, topic := kmsg.NewPtrOffsetCommitRequest(), kmsg.NewOffsetCommitRequestTopic()
	commit.Version, commit.Group, commit.MemberID, topic.Topic = 8, "billing", "a", codecTopics[0]
	topic.Partitions = append(topic.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
	commit.Topics = append(commit.Topics, topic)
	nobodys := *commit // of no generation, which a site takes while the group is empty
	commit.Generation = 4
	inTransaction, part := kmsg.NewPtrTxnOffsetCommitRequest(), kmsg.NewTxnOffsetCommitRequestTopic()
	inTransaction.Version, inTransaction.Group, inTransaction.MemberID, inTransaction.TransactionalID = 3, "billing", "a", "app"
	inTransaction.ProducerID, part.Topic = spillway.TransactionalProducerID(1, codecProducer), codecTopics[0]
	part.Partitions = append(part.Partitions, kmsg.NewTxnOffsetCommitRequestTopicPartition())
	inTransaction.Topics = append(inTransaction.Topics, part)
	for _, req := range []kmsg.Request{sync, commit, &nobodys, inTransaction} {
		for _, code := range []int16{0, kerr.UnknownMemberID.Code} {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, identity(), kversion.V4_4_0())
				defer w.Close()
				w.site.answers(func(r kmsg.Request) kmsg.Response {
					switch resp := r.ResponseKind().(type) {
					case *kmsg.SyncGroupResponse:
						resp.ErrorCode = code
						return resp
					case *kmsg.OffsetCommitResponse:
						topic, p := kmsg.NewOffsetCommitResponseTopic(), kmsg.NewOffsetCommitResponseTopicPartition()
						topic.Topic, p.ErrorCode = codecTopics[0], code
						topic.Partitions = append(topic.Partitions, p)
						resp.Topics = append(resp.Topics, topic)
						return resp
					case *kmsg.TxnOffsetCommitResponse:
						topic, p := kmsg.NewTxnOffsetCommitResponseTopic(), kmsg.NewTxnOffsetCommitResponseTopicPartition()
						topic.Topic, p.ErrorCode = codecTopics[0], code
						topic.Partitions = append(topic.Partitions, p)
						resp.Topics = append(resp.Topics, topic)
						return resp
					default:
						return resp
					}
				})
				client := w.client(t)
				defer client.Close()
				client.begins(t, t.Context(), req, req.ResponseKind())()
				if stays := w.members.stays("billing", "a", 0); stays != (code == 0 && req != &nobodys && req != inTransaction) {
					t.Errorf("%s that is answered %d: it stays %v", kmsg.NameForKey(req.Key()), code, stays)
				}
			})
		}
	}
}
