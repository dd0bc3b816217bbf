package router

import (
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
)

// Where one broker does not know its groups yet, those of another are not all of them.
func TestAPartOfTheGroupsIsNoList(t *testing.T) {
	for name, want := range map[string]int16{"all answer": 0, "one does not know": kerr.CoordinatorNotAvailable.Code} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, translating(), kversion.V4_4_0())
				defer w.Close()
				w.site.nodes = []broker.Node{{ID: 0}, {ID: 1}}
				var asked atomic.Int32
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind().(*kmsg.ListGroupsResponse)
					if asked.Add(1) == 2 && want != 0 {
						resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
						return resp
					}
					g := kmsg.NewListGroupsResponseGroup()
					g.Group = "readers"
					resp.Groups = append(resp.Groups, g)
					return resp
				})
				req := kmsg.NewPtrListGroupsRequest()
				req.Version = 3
				body, err := w.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
				if err != nil {
					t.Fatal(err)
				}
				resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
				if err := resp.ReadFrom(body); err != nil {
					t.Fatal(err)
				}
				if resp.ErrorCode != want || asked.Load() != 2 || (len(resp.Groups) == 2) != (want == 0) || want != 0 && len(resp.Groups) > 0 {
					t.Errorf("asked %d times: %+v", asked.Load(), resp)
				}
			})
		})
	}
}

// Brokers that take their time do so beside one another.
func TestBrokersListTheirGroupsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		w.site.nodes = []broker.Node{{ID: 0}, {ID: 1}, {ID: 2}}
		w.site.says(func(up kmsg.Request) []byte {
			time.Sleep(listGroupsMax / 2)
			resp := up.ResponseKind().(*kmsg.ListGroupsResponse)
			g := kmsg.NewListGroupsResponseGroup()
			g.Group = "readers"
			resp.Groups = append(resp.Groups, g)
			return resp.AppendTo(nil)
		})
		req := kmsg.NewPtrListGroupsRequest()
		req.Version = 3
		body, err := w.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
		if err := resp.ReadFrom(body); err != nil {
			t.Fatal(err)
		}
		if resp.ErrorCode != 0 || len(resp.Groups) != len(w.site.nodes) {
			t.Errorf("%+v", resp)
		}
	})
}

// A site of many brokers is not asked by as many goroutines, and of what it has no more is kept
// than the client is told of. A broker that is asked late counts like the others.
func TestAListOfGroupsKeepsWithinItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoShares(t, rulesOfReaders)
		defer w.Close()
		const brokers = 3*listGroupsAtOnce + 1
		w.site.nodes = nil
		for id := range int32(brokers) {
			w.site.nodes = append(w.site.nodes, broker.Node{ID: id})
		}
		var asking, most, told atomic.Int32
		w.site.says(func(up kmsg.Request) []byte {
			if n := asking.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(100 * time.Millisecond)
			asking.Add(-1)
			resp := up.ResponseKind().(*kmsg.ListGroupsResponse)
			for _, name := range []string{"readers", "others"} {
				g := kmsg.NewListGroupsResponseGroup()
				g.Group = name
				resp.Groups = append(resp.Groups, g)
			}
			told.Add(1)
			return resp.AppendTo(nil)
		})
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := w.Connect(far)
		defer c.Close()
		req := kmsg.NewPtrListGroupsRequest()
		req.Version = 3
		got, err := c.listGroups(t.Context(), req, w.topics.homes(), func(site spillway.SiteID, group string) bool {
			return site == "east" && group == "readers"
		})
		if err != nil || len(got) != brokers || told.Load() != 2*brokers {
			t.Errorf("%d groups, want %d, of %d answers, want %d: %v", len(got), brokers, told.Load(), 2*brokers, err)
		}
		if n := most.Load(); n != listGroupsAtOnce {
			t.Errorf("%d brokers were asked at the same time, want %d", n, listGroupsAtOnce)
		}
	})
}
