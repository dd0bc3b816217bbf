package router

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/federation/failover"
)

// lapsing is a lease that is held while the test says so.
type lapsing struct{ held atomic.Bool }

func (l *lapsing) Held() bool { return l.held.Load() }

func (l *lapsing) Term() uint64 {
	if l.Held() {
		return 1
	}
	return 0
}

// leavingAll is a LeaveGroup of members, "" for one that leaves by its instance id.
func leavingAll(group string, ids ...string) (*kmsg.LeaveGroupRequest, *kmsg.LeaveGroupResponse) {
	req, resp := kmsg.NewPtrLeaveGroupRequest(), kmsg.NewPtrLeaveGroupResponse()
	req.Version, resp.Version, req.Group = 4, 4, group
	for _, id := range ids {
		m := kmsg.NewLeaveGroupRequestMember()
		if m.MemberID = id; id == "" {
			m.InstanceID = kmsg.StringPtr("one")
		}
		req.Members = append(req.Members, m)
	}
	return req, resp
}

// A site that cannot let members go yet is asked again about those alone that have to go still.
func TestWhoIsAskedToLeaveAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		ids   []string
		then  func(*codecWorld, *lapsing) // when the site was asked for the first time
		asked string                      // in all
	}{
		{"one", []string{"a"}, nil, "a a"},
		{"one that has gone and one that has not", []string{"gone", "a"}, nil, "gone a a"},
		{"as an instance", []string{""}, nil, "/one"},
		{"as an instance, and by its id", []string{"", "a"}, nil, "/one a a"},
		{"it was heard since", []string{"a"}, func(w *codecWorld, _ *lapsing) { w.members.touch("billing", "a") }, "a"},
		{"it has been there before and was heard since", []string{"known"}, func(w *codecWorld, _ *lapsing) { w.members.touch("billing", "known") }, "known"},
		{"an answer from before it left is late", []string{"known"}, func(w *codecWorld, _ *lapsing) { w.members.heard("billing", "known", 0) }, "known known"},
		{"such an answer of one that was not known", []string{"a"}, func(w *codecWorld, _ *lapsing) { w.members.heard("billing", "a", 0) }, "a a"},
		{"it joins since", []string{"known"}, func(w *codecWorld, _ *lapsing) { w.members.starts("billing", "known") }, "known"},
		{"the lease is not held for a moment", []string{"a"}, func(_ *codecWorld, l *lapsing) {
			l.held.Store(false)
			time.AfterFunc(time.Second, func() { l.held.Store(true) })
		}, "a a"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			lease := &lapsing{}
			lease.held.Store(true)
			w.lease = lease
			w.members.touch("billing", "known")
			var asked left
			first := true
			w.site.answers(func(r kmsg.Request) kmsg.Response {
				req, ok := r.(*kmsg.LeaveGroupRequest)
				if !ok {
					return r.ResponseKind()
				}
				asked.see(req)
				if !first {
					return leaving(req, 0)
				}
				first = false
				resp := leaving(req, kerr.CoordinatorLoadInProgress.Code)
				for i := range resp.Members {
					if resp.Members[i].MemberID == "gone" {
						resp.Members[i].ErrorCode = 0
					}
				}
				return resp
			})
			client := w.client(t)
			defer client.Close()
			req, resp := leavingAll("billing", c.ids...)
			client.begins(t, t.Context(), req, resp)()
			if len(resp.Members) != len(c.ids) {
				t.Errorf("%s: answered %+v", c.name, resp)
			}
			if c.then != nil {
				c.then(w, lease)
			}
			time.Sleep(2 * groupPatience)
			if got := asked.all(); got != c.asked {
				t.Errorf("%s: the site was asked to let %q go, want %q", c.name, got, c.asked)
			}
		})
	}
}

// While no site serves nobody can be asked. Who leaves by its id is unknown at the next site; who
// has an instance id there, nobody knows.
func TestWhoLeavesByInstanceIsToldToComeAgain(t *testing.T) {
	for id, code := range map[string]int16{"a": 0, "": kerr.CoordinatorLoadInProgress.Code} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.shares[spillway.ShareID{Group: "shop"}].SetRecord(failover.Share{State: failover.Fencing, Epoch: 2, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
			client := w.client(t)
			defer client.Close()
			req, resp := leavingAll("billing", id)
			if client.begins(t, t.Context(), req, resp)(); resp.ErrorCode != code {
				t.Errorf("%q is told %d, want %d", id, resp.ErrorCode, code)
			}
		})
	}
}

// All leaves at a broker share a connection. It is given up where the broker answers nothing any
// more, and not under those that it answers.
func TestASlowLeaveDoesNotEndOthers(t *testing.T) {
	const each = time.Second
	for _, c := range []struct {
		name     string
		takes    time.Duration
		patience time.Duration
		dials    int64
		answered bool
	}{
		{"a broker that takes a second for each", each, time.Minute, 1, true},
		{"nobody has time for it", each, each / 2, 1, true},
		{"a broker that hangs", time.Hour, time.Minute, 2, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			over := make(chan struct{})
			defer close(over)
			w.site.says(func(req kmsg.Request) []byte {
				select {
				case <-time.After(c.takes):
				case <-over:
				}
				return leaving(req.(*kmsg.LeaveGroupRequest), 0).AppendTo(nil)
			})
			ask := func(patience time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				req, _ := leavingAll("billing", "a")
				_, err := w.leaveAt(ctx, "east", req)
				return err
			}
			for range 6 {
				go func() { _ = ask(c.patience) }()
			}
			time.Sleep(2*dialMax + each/2) // those that nobody waits for have been answered too
			if err := ask(time.Minute); (err == nil) != c.answered {
				t.Errorf("%s: %v", c.name, err)
			}
			if got := w.site.dials.Load(); got != c.dials {
				t.Errorf("%s: %d connections were made, want %d", c.name, got, c.dials)
			}
		})
	}
}

// What is asked beside a join is answered as any request: in the client's version, and with no
// longer a pause than the gateway lets sites ask for.
func TestALeaveBesideAJoinIsAnsweredInTheClientsVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V2_3_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			resp := r.ResponseKind()
			if leave, ok := resp.(*kmsg.LeaveGroupResponse); ok {
				leave.ThrottleMillis = 1 << 30
			}
			return resp
		})
		defer w.members.end(w.members.starts("billing", "a"), 0)
		client := w.client(t)
		defer client.Close()
		req, resp := leavingAll("billing", "a")
		client.begins(t, t.Context(), req, resp)()
		if resp.ErrorCode != 0 || resp.ThrottleMillis != throttleMillisMax {
			t.Errorf("answered %+v", resp)
		}
	})
}

// A site below version 3 of LeaveGroup is asked about one member in its form, and its answer counts as that of
// newer ones: the member is forgotten.
func TestAnOldSiteLetsAMemberOfANewerClientGo(t *testing.T) {
	for _, beside := range []bool{false, true} { // a join that waits
		for _, code := range []int16{0, kerr.UnknownMemberID.Code} {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, identity(), kversion.V2_3_0())
				defer w.Close()
				w.aside = make(chan struct{}, asideMax)
				var asked []string
				w.site.answers(func(r kmsg.Request) kmsg.Response {
					resp := r.ResponseKind()
					if req, ok := r.(*kmsg.LeaveGroupRequest); ok {
						asked = append(asked, req.MemberID)
						resp.(*kmsg.LeaveGroupResponse).ErrorCode = code
					}
					return resp
				})
				w.members.joinsAs("billing", "a", "b", time.Minute)
				if beside {
					defer w.members.end(w.members.starts("billing", "a"), 0)
				}
				client := w.client(t)
				defer client.Close()
				req, resp := leavingAll("billing", "a")
				client.begins(t, t.Context(), req, resp)()
				if resp.ErrorCode != code {
					t.Errorf("answered %+v, the site said %d", resp, code)
				}
				if len(asked) != 1 || asked[0] != "b" {
					t.Errorf("the site was asked to let %q go", asked)
				}
				if got := w.members.kept(); !beside && got != [2]int{} {
					t.Errorf("%v are remembered", got)
				}
				if !beside { // nor of one of whom the gateway asks by itself
					w.members.touch("billing", "c")
					w.members.goes("billing", "c")
					w.persuade(w.shares[spillway.ShareID{Group: "shop"}], new(asides), "billing", []string{"c"}, "", w.members.mark())
					time.Sleep(groupPatience)
					if got := w.members.kept(); got != [2]int{} {
						t.Errorf("%v are remembered", got)
					}
				}
			})
		}
	}
}
