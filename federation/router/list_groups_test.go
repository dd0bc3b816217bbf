package router

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

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
