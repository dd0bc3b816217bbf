package router

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway/broker/wire"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// client is one that stays connected until the test is over.
func (w *codecWorld) client(t *testing.T) *Client {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return w.Connect(far)
}

// begins has a client send a request. answer is its turn to be answered, into a response.
func (c *Client) begins(t *testing.T, ctx context.Context, req kmsg.Request, into kmsg.Response) (answer func()) {
	t.Helper()
	a, err := c.Begin(t.Context(), session.Request{RequestHeader: wire.RequestHeader{Key: req.Key(), Version: req.GetVersion()}, Body: req.AppendTo(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		body, err := a(ctx)
		if err == nil {
			err = into.ReadFrom(body)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// left are the members that a site was told to let go, as "id" or "id/instance".
type left struct {
	mu  sync.Mutex
	ids []string
}

func (l *left) see(req *kmsg.LeaveGroupRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range req.Members {
		id := m.MemberID
		if m.InstanceID != nil {
			id += "/" + *m.InstanceID
		}
		l.ids = append(l.ids, id)
	}
}

func (l *left) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.ids, " ")
}

// leaving is the answer of a site that lets all members go.
func leaving(req *kmsg.LeaveGroupRequest, code int16) *kmsg.LeaveGroupResponse {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	for _, m := range req.Members {
		out := kmsg.NewLeaveGroupResponseMember()
		out.MemberID, out.InstanceID, out.ErrorCode = m.MemberID, m.InstanceID, code
		resp.Members = append(resp.Members, out)
	}
	return resp
}

// joining is a JoinGroup.
func joining(group, id string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.SessionTimeoutMillis = 5, group, id, 10_000
	return req
}

// A member whose name found no room may be in use, and nobody sees it: it is not taken back when
// the connection ends on which it was told.
func TestWhoWasNotNamedIsNotTakenBack(t *testing.T) {
	long := strings.Repeat("x", memberIDMax+1)
	for _, c := range []struct {
		name, group, is string
		full, taken     bool
	}{
		{"there is room", "billing", "new", false, true},
		{"there is none", "billing", "new", true, false},
		{"its name is too long", "billing", long, false, false},
		{"its group's name is too long", long, "new", false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			var gone left
			w.site.answers(func(req kmsg.Request) kmsg.Response {
				switch req := req.(type) {
				case *kmsg.JoinGroupRequest:
					resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
					resp.MemberID = c.is
					return resp
				case *kmsg.LeaveGroupRequest:
					gone.see(req)
					return leaving(req, 0)
				}
				return req.ResponseKind()
			})
			if c.full {
				for i := range membersMax {
					w.members.touch("others", fmt.Sprint("member-", i))
				}
			}
			one, other := w.client(t), w.client(t)
			defer other.Close()
			joined := kmsg.NewPtrJoinGroupResponse()
			joined.Version = 5
			one.begins(t, t.Context(), joining(c.group, ""), joined)()
			if joined.ErrorCode != 0 || joined.MemberID != c.is {
				t.Fatalf("%s: joined %+v", c.name, joined)
			}
			if registered := len(one.told); (registered == 1) != c.taken {
				t.Errorf("%s: %d members are kept with the connection", c.name, registered)
			}
			if !c.taken { // it lives, on another connection
				beat, beaten := kmsg.NewPtrHeartbeatRequest(), kmsg.NewPtrHeartbeatResponse()
				beat.Group, beat.MemberID = c.group, c.is
				other.begins(t, t.Context(), beat, beaten)()
			}
			one.Close()
			time.Sleep(time.Second)
			if taken := gone.all() == c.is; taken != c.taken {
				t.Errorf("%s: the site was asked to let %q go", c.name, gone.all())
			}
		})
	}
}

// A join without an id waits at the site, and its client goes: nobody knows the member that it
// makes. A static one comes again by its instance id, and is not removed before.
func TestStaticMembersAreNotTakenBack(t *testing.T) {
	for _, c := range []struct {
		instance *string
		taken    string
	}{{nil, "made"}, {kmsg.StringPtr("one"), ""}} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.aside = make(chan struct{}, asideMax)
			var gone left
			waits := make(chan struct{})
			w.site.says(func(req kmsg.Request) []byte {
				resp := req.ResponseKind()
				switch req := req.(type) {
				case *kmsg.JoinGroupRequest:
					<-waits
					resp.(*kmsg.JoinGroupResponse).MemberID = "made"
				case *kmsg.LeaveGroupRequest:
					gone.see(req)
					resp = leaving(req, 0)
				}
				return resp.AppendTo(nil)
			})
			client := w.client(t)
			ctx, cancel := context.WithCancel(t.Context())
			join := joining("billing", "")
			join.InstanceID = c.instance
			joined := kmsg.NewPtrJoinGroupResponse()
			joined.Version = 5
			answer := client.begins(t, ctx, join, joined)
			done := make(chan struct{})
			go func() { defer close(done); answer() }()
			synctest.Wait()
			cancel()
			<-done
			client.Close()
			close(waits)
			time.Sleep(time.Second)
			if gone.all() != c.taken {
				t.Errorf("static %v: the site was asked to let %q go, want %q", c.instance != nil, gone.all(), c.taken)
			}
		})
	}
}

// A client that has names given to it, and joins by none of them, takes room for a few.
func TestAClientDoesNotFillTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.aside = make(chan struct{}, asideMax)
		var given int
		var gone left
		w.site.answers(func(req kmsg.Request) kmsg.Response {
			switch req := req.(type) {
			case *kmsg.JoinGroupRequest:
				resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
				given++
				resp.ErrorCode, resp.MemberID = kerr.MemberIDRequired.Code, fmt.Sprint("given-", given)
				return resp
			case *kmsg.LeaveGroupRequest:
				gone.see(req)
				return leaving(req, 0)
			}
			return req.ResponseKind()
		})
		client := w.client(t)
		for range 10 * namesToldMax {
			join, joined := joining("billing", ""), kmsg.NewPtrJoinGroupResponse()
			join.SessionTimeoutMillis, joined.Version = int32(rebalanceMax.Milliseconds()), join.Version
			client.begins(t, t.Context(), join, joined)()
		}
		if got := w.members.kept(); got != [2]int{namesToldMax, namesToldMax} {
			t.Errorf("%v are remembered of one client, %d are the most", got, namesToldMax)
		}
		client.Close()
		time.Sleep(time.Second)
		if got := w.members.kept(); got != [2]int{} {
			t.Errorf("%v are remembered when the connection has ended", got)
		}
		if got := len(strings.Fields(gone.all())); got != namesToldMax {
			t.Errorf("%d were taken back: %q", got, gone.all())
		}
	})
}

// A client that may not join leaves no trace, also before its refusal is sent.
func TestWhoMayNotJoinIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, nil)}
		client := w.client(t)
		defer client.Close()
		joined := kmsg.NewPtrJoinGroupResponse()
		joined.Version = 5
		answer := client.begins(t, t.Context(), joining("billing", "a"), joined)
		if got := w.members.kept(); got != [2]int{} {
			t.Errorf("%v are remembered", got)
		}
		if answer(); joined.ErrorCode == 0 {
			t.Error("it may join")
		}
	})
}

// To say that one has given up before a move takes no room: no site may know who says so.
func TestWhoSettlesIsNotNamed(t *testing.T) {
	m := newMembers()
	j := m.starts("billing", "a")
	m.settle("billing", "a", 2)
	m.settle("billing", "b", 2)
	m.end(j, 0)
	if got := m.kept(); got != [2]int{} {
		t.Errorf("%v are remembered", got)
	}
}
