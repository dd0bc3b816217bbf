package router

import (
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/federation/authorization"
)

// oneList is the list of every site.
type oneList struct{ rules *authorization.Rules }

func (l oneList) Of(spillway.SiteID) *authorization.Rules { return l.rules }

// To decide about the partitions of a topic allocates nothing, whether rights are looked at
// or not.
func TestGuardsAllocateNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		near, far := net.Pipe()
		defer near.Close()
		c := w.Connect(far)
		defer c.Close()
		look := func(want int16) {
			t.Helper()
			if n := testing.AllocsPerRun(100, func() {
				for _, topic := range codecTopics {
					may := c.guard(authorization.Write, topic)
					for p := range int32(codecPartitions) {
						if code := may.of(p); code != want {
							t.Fatalf("%s: %d", topic, code)
						}
					}
				}
			}); n > 0 {
				t.Errorf("%v allocations", n)
			}
		}
		look(0)
		all := spillway.ACL{Resource: "TOPIC", Pattern: "LITERAL", Name: "*", Principal: "User:ANONYMOUS", Host: "*", Operation: "ALL", Permission: "ALLOW"}
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, []spillway.ACL{all})}
		look(0)
		all.Permission = "DENY"
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, []spillway.ACL{all})}
		look(kerr.TopicAuthorizationFailed.Code)
	})
}

// A topic is decided about once for each share that has partitions of it, not for each of them.
func TestAGuardDecidesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		denied := 0
		w.events.Denied = func(Denial) { denied++ }
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, nil)}
		near, far := net.Pipe()
		defer near.Close()
		c := w.Connect(far)
		defer c.Close()
		may := c.guard(authorization.Read, "orders")
		for p := range int32(codecPartitions) {
			if may.of(p) != kerr.TopicAuthorizationFailed.Code {
				t.Error("it may")
			}
		}
		if denied != 1 {
			t.Errorf("%d denials", denied)
		}
	})
}

// A group is described whole or not at all: who may not know of a topic is not told that
// members read it.
func TestMembersOfHiddenTopics(t *testing.T) {
	entry := func(kind, name string) spillway.ACL {
		return spillway.ACL{Resource: kind, Pattern: "LITERAL", Name: name, Principal: "User:ANONYMOUS", Host: "*", Operation: "DESCRIBE", Permission: "ALLOW"}
	}
	for name, c := range map[string]struct {
		list []spillway.ACL
		want int16
	}{
		"one of them": {[]spillway.ACL{entry("GROUP", "readers"), entry("TOPIC", "orders")}, kerr.TopicAuthorizationFailed.Code},
		"all":         {[]spillway.ACL{entry("GROUP", "readers"), entry("TOPIC", "orders"), entry("TOPIC", "carts")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, translating(), kversion.V4_4_0())
				defer w.Close()
				w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, c.list)}
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
					g, m := kmsg.NewConsumerGroupDescribeResponseGroup(), kmsg.NewConsumerGroupDescribeResponseGroupMember()
					g.Group = "readers"
					m.Assignment.TopicPartitions = []kmsg.AssignmentTopicPartition{{Topic: "orders"}}
					m.TargetAssignment.TopicPartitions = []kmsg.AssignmentTopicPartition{{Topic: "carts"}}
					g.Members = append(g.Members, m)
					resp.Groups = append(resp.Groups, g)
					return resp
				})
				req := kmsg.NewPtrConsumerGroupDescribeRequest()
				req.Groups = []string{"readers"}
				body, err := w.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
				if err != nil {
					t.Fatal(err)
				}
				resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
				if err := resp.ReadFrom(body); err != nil {
					t.Fatal(err)
				}
				if g := resp.Groups[0]; g.ErrorCode != c.want || (len(g.Members) == 0) != (c.want != 0) {
					t.Errorf("%+v", g)
				}
			})
		})
	}
}

// withoutRights is what who may do nothing learns from APIs that no site is asked for, or
// that list what there is. An API that is in here or not asks for rights; a new one has to.
var withoutRights = map[int16]string{
	3:  "virtual nodes, and what it has named", // TestRightsByAPI
	10: "that it may not",                      // TestRightsByAPI
	16: "an empty list",                        // TestRightsByAPI
	17: "how to log in", 18: "what is served", 36: "whether it is known",
	19: "that it may not", // TestRightsByAPI
	22: "that it may not", // TestRightsByAPI
	33: "that it may not", // TestRightsByAPI
	44: "that it may not", // TestRightsByAPI
	60: "virtual nodes",
}

// Whatever who may do nothing sends, no site is asked for it.
func TestWhoMayDoNothingAsksNoSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, nil)}
		served(func(a api, version int16) {
			if _, known := withoutRights[a.key]; known {
				return
			}
			if codecs[a.key].alone {
				t.Errorf("API key %d is answered here: say in withoutRights what one learns who may do nothing, and test it", a.key)
				return
			}
			random := rand.New(rand.NewPCG(uint64(a.key), uint64(version)))
			w.site.answers(func(up kmsg.Request) kmsg.Response { return randomAnswer(random, w.site.mapping, up) })
			for range 5 {
				before := w.site.requests.Load()
				_, _ = w.serve(t.Context(), a.key, version, randomRequest(random, w.site.mapping, a.key, version).AppendTo(nil))
				if n := w.site.requests.Load() - before; n > 0 {
					t.Fatalf("a site was asked %d times for a request of API key %d version %d", n, a.key, version)
				}
			}
		})
	})
}
