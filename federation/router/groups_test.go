package router

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// A request about many groups waits once for a share that moves, and not once for each.
func TestARequestAboutManyGroupsIsHeldOnce(t *testing.T) {
	const groups = 50
	describe, describeNew, fetch := kmsg.NewPtrDescribeGroupsRequest(), kmsg.NewPtrConsumerGroupDescribeRequest(), kmsg.NewPtrOffsetFetchRequest()
	describe.Version, describeNew.Version, fetch.Version = 5, 0, 8
	for i := range groups {
		name := fmt.Sprint("group-", i)
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = name
		describe.Groups, describeNew.Groups, fetch.Groups = append(describe.Groups, name), append(describeNew.Groups, name), append(fetch.Groups, g)
	}
	for _, req := range []kmsg.Request{describe, describeNew, fetch} {
		synctest.Test(t, func(t *testing.T) {
			w := newCodecWorld(t, identity(), kversion.V4_4_0())
			defer w.Close()
			w.shares[spillway.ShareID{Group: "shop"}].SetRecord(failover.Share{State: failover.Fencing, Epoch: 2, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
			begun := time.Now()
			body, err := w.serve(t.Context(), req.Key(), req.GetVersion(), req.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took < w.config.HoldMax || took > 2*w.config.HoldMax {
				t.Errorf("%s of %d groups took %s, a hold is %s", kmsg.NameForKey(req.Key()), groups, took, w.config.HoldMax)
			}
			resp := req.ResponseKind()
			if err := resp.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
			var codes []int16 // and in the order of the request
			see := func(i int, group string, code int16) {
				if group != fmt.Sprint("group-", i) {
					t.Errorf("%s is answered at %d", group, i)
				}
				codes = append(codes, code)
			}
			want := kerr.CoordinatorNotAvailable.Code
			switch resp := resp.(type) {
			case *kmsg.DescribeGroupsResponse:
				for i, g := range resp.Groups {
					see(i, g.Group, g.ErrorCode)
				}
			case *kmsg.ConsumerGroupDescribeResponse:
				for i, g := range resp.Groups {
					see(i, g.Group, g.ErrorCode)
				}
			case *kmsg.OffsetFetchResponse:
				want = kerr.CoordinatorLoadInProgress.Code
				for i, g := range resp.Groups {
					see(i, g.Group, g.ErrorCode)
				}
			}
			for i, code := range codes {
				if code != want {
					t.Errorf("%s: error %d for group %d", kmsg.NameForKey(req.Key()), code, i)
				}
			}
			if len(codes) != groups {
				t.Errorf("%d groups are answered", len(codes))
			}
		})
	}
}

// movable is a site whose only node is where the test says.
type movable struct {
	*codecSite
	address string
}

func (m *movable) Address(int32) (string, bool) { return m.address, m.address != "" }

// A node that coordinates groups comes up at another address, and the process at the old one
// lives on: a client's connection to it is given up for one to the new address.
func TestACoordinatorIsFollowedToItsNewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		at := &movable{codecSite: w.site}
		w.sites = map[spillway.SiteID]broker.Cluster{"east": at}
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := w.Connect(far)
		defer c.Close()
		for i, step := range []struct {
			address string
			dials   int64
		}{{"", 1}, {"", 1}, {"elsewhere:9092", 2}} {
			at.address = step.address
			before := c.lanes.mu.byKey[laneKey{GroupLane, "east", 0}]
			if _, err := c.groupLane(context.Background(), "east", broker.GroupCoordinator, "billing"); err != nil {
				t.Fatal(err)
			}
			if dials := w.site.dials.Load(); dials != step.dials {
				t.Errorf("step %d: %d connections were made, want %d", i, dials, step.dials)
			}
			synctest.Wait()
			if step.address != "" && before.alive() {
				t.Error("the connection to the old address is open")
			}
		}
	})
}

// Groups whose coordinators hang keep the others of their share waiting for a moment only, however many they are.
func TestGroupsThatHangKeepNoOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hang, turns = 3 * groupsAtOnce, 3
		share, begun := new(Share), time.Now()
		groups := make([]int, hang+1)
		for i := range groups {
			groups[i] = i
		}
		var asked atomic.Int32
		took := ofGroups(t.Context(), time.Second, groups, func(int) *Share { return share }, func(ctx context.Context, _ time.Time, i int) time.Duration {
			if n, most := asked.Add(1), groupsAtOnce*(time.Since(begun)/groupTurn+1); n > int32(most) {
				t.Errorf("%d are asked about after %v, %d are the most", n, time.Since(begun), most)
			}
			if i < hang {
				<-ctx.Done()
			}
			return time.Since(begun)
		})
		if got := took[hang]; got != turns*groupTurn {
			t.Errorf("a group behind %d that hang is asked about after %v, want %v", hang, got, turns*groupTurn)
		}
		if got := time.Since(begun); got != time.Second+groupPatience {
			t.Errorf("all took %v", got)
		}
	})
}

// As many groups of a share that moves as are asked about at once keep none of another share waiting.
func TestGroupsOfAShareThatMovesKeepNoOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moves, serves := new(Share), new(Share)
		groups := make([]*Share, 2*groupsAtOnce, 2*groupsAtOnce+1)
		for i := range groups {
			groups[i] = moves
		}
		begun := time.Now()
		took := ofGroups(t.Context(), time.Second, append(groups, serves), func(s *Share) *Share { return s }, func(_ context.Context, until time.Time, s *Share) time.Duration {
			if s == moves {
				time.Sleep(time.Until(until))
			}
			return time.Since(begun)
		})
		if got := took[len(took)-1]; got != 0 {
			t.Errorf("a group that does not move is asked about after %v", got)
		}
		if got := time.Since(begun); got != time.Second {
			t.Errorf("all took %v, a hold is a second", got)
		}
	})
}
