package router

import (
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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

// Names that belong to no failover group are decided about without looking through all
// shares for each.
func TestStrangeNamesCostLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		w.config.Rights = oneList{authorization.NewRules(authorization.Policy{}, nil)}
		near, far := net.Pipe()
		defer near.Close()
		c := w.Connect(far)
		defer c.Close()
		if n := testing.AllocsPerRun(100, func() {
			if c.may(authorization.Read, authorization.Topic, "strange", nil) != authorization.Denied {
				t.Fatal("it may")
			}
		}); n > 1 {
			t.Errorf("%v allocations", n)
		}
		before := c.router.homes.seen.Load()
		time.Sleep(2 * homesMemory)
		c.may(authorization.Read, authorization.Topic, "strange", nil)
		if c.router.homes.seen.Load() == before {
			t.Error("what was seen is never looked at anew")
		}
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

// turning gives the list of a site first, and that of one whose list was never read then, as
// where a share moves while a request is looked at.
type turning struct {
	first *authorization.Rules
	asked int
}

func (l *turning) Of(spillway.SiteID) *authorization.Rules {
	if l.asked++; l.asked > 1 {
		return authorization.NewKeeper(authorization.Config{}).Of("nowhere")
	}
	return l.first
}

// A member gets of the topics of an expression those that it may know of, and one whose
// rights nobody knows yet comes again; a refusal would end it.
func TestMembersGetNoHiddenTopics(t *testing.T) {
	entry := func(kind, name, operation string) spillway.ACL {
		return spillway.ACL{Resource: kind, Pattern: "LITERAL", Name: name, Principal: "User:ANONYMOUS", Host: "*", Operation: operation, Permission: "ALLOW"}
	}
	readers, orders, every := entry("GROUP", "readers", "READ"), entry("TOPIC", "orders", "DESCRIBE"), entry("TOPIC", "*", "DESCRIBE")
	rules := func(entries ...spillway.ACL) *authorization.Rules {
		return authorization.NewRules(authorization.Policy{}, entries)
	}
	for name, c := range map[string]struct {
		rights     Rights
		expression string
		code       int16
		topics     []string
	}{
		"all":                    {rights: oneList{rules(readers, every)}, expression: ".*", topics: []string{"orders", "carts"}},
		"one of them":            {rights: oneList{rules(readers, orders)}, topics: []string{"orders"}},
		"none":                   {rights: oneList{rules(readers)}, topics: []string{}},
		"an expression, not all": {rights: oneList{rules(readers, orders)}, expression: ".*", code: kerr.TopicAuthorizationFailed.Code},
		"an expression, unread":  {rights: &turning{first: rules(readers)}, expression: ".*", code: kerr.CoordinatorLoadInProgress.Code},
		"an assignment, unread":  {rights: &turning{first: rules(readers)}, code: kerr.CoordinatorLoadInProgress.Code},
		"nobody looks at rights": {expression: ".*", topics: []string{"orders", "carts"}},
		"a super user":           {rights: oneList{authorization.NewRules(authorization.Policy{SuperUsers: []string{"User:ANONYMOUS"}}, nil)}, expression: ".*", topics: []string{"orders", "carts"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, translating(), kversion.V4_4_0())
				defer w.Close()
				w.config.Rights = c.rights
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
					resp.MemberID, resp.Assignment = kmsg.StringPtr("one"), &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
					for _, topic := range []string{"orders", "carts"} {
						one := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
						one.TopicID, one.Partitions = w.site.mapping.siteID(topic), []int32{0}
						resp.Assignment.Topics = append(resp.Assignment.Topics, one)
					}
					return resp
				})
				req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
				req.Version, req.Group, req.MemberID, req.SubscribedTopicRegex = 1, "readers", "one", &c.expression
				body, err := w.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
				if err != nil {
					t.Fatal(err)
				}
				resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
				if err := resp.ReadFrom(body); err != nil {
					t.Fatal(err)
				}
				if resp.ErrorCode != c.code || (resp.Assignment == nil) != (c.code != 0) {
					t.Fatalf("%v, %+v", kerr.ErrorForCode(resp.ErrorCode), resp.Assignment)
				}
				if c.code != 0 {
					return
				}
				got := []string{}
				for _, topic := range resp.Assignment.Topics {
					for _, name := range codecTopics {
						if topic.TopicID == w.topology.TopicID(name) {
							got = append(got, name)
						}
					}
				}
				if !slices.Equal(got, c.topics) {
					t.Errorf("assigned %q, want %q", got, c.topics)
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
