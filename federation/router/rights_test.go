package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/failover"
)

// oneList is the list of every site.
type oneList struct{ rules *authorization.Rules }

func (l oneList) Of(spillway.SiteID) *authorization.Rules { return l.rules }

// listsBySite are those that were read; the others were not.
type listsBySite map[spillway.SiteID]*authorization.Rules

func (l listsBySite) Of(site spillway.SiteID) *authorization.Rules {
	if r := l[site]; r != nil {
		return r
	}
	return authorization.NewKeeper(authorization.Config{}).Of(site)
}

// rulesOf are those of a list of "allow read topic orders" for who has not logged in.
func rulesOf(lines ...string) *authorization.Rules {
	var all []spillway.ACL
	for _, line := range lines {
		w := strings.Fields(line)
		all = append(all, spillway.ACL{Resource: strings.ToUpper(w[2]), Pattern: "LITERAL", Name: w[3], Principal: "User:ANONYMOUS", Host: "*", Operation: strings.ToUpper(w[1]), Permission: strings.ToUpper(w[0])})
	}
	return authorization.NewRules(authorization.Policy{}, all)
}

// newTwoShares is a world of two failover groups: shop is served at east and has all consumer
// groups, stores has the topic stock and is served at west. Both are one site of the test's.
func newTwoShares(t *testing.T, rights Rights) *codecWorld {
	t.Helper()
	m := translating()
	groups := []spillway.FailoverGroup{
		{Name: "shop", Topics: []string{"orders", "carts", "hats"}, ConsumerGroups: []string{"*"}, TransactionalIDs: []string{"*"}, OffsetBase: spillway.Offset(m.base)},
		{Name: "stores", Topics: []string{"stock"}, OffsetBase: spillway.Offset(m.base)},
	}
	m.topology = spillway.NewTopology("t", "id", nil, groups)
	w := newCodecWorld(t, m, kversion.V4_4_0())
	w.sites["west"] = w.site
	clear(w.shares)
	for i, site := range []spillway.SiteID{"east", "west"} {
		share := NewShare(spillway.ShareID{Group: groups[i].Name}, groups[i])
		share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: site, Terms: []failover.Term{{Epoch: 1, Site: site, Mask: m.mask}}})
		if !share.Open(Term{Epoch: 1, Base: 1, Site: site, Mask: m.mask}) {
			t.Fatal("the share does not open")
		}
		w.shares[share.ID] = share
	}
	w.config.Rights = rights
	return w
}

// call has the gateway serve a request and decodes its answer.
func call[R kmsg.Response](t *testing.T, w *codecWorld, req kmsg.Request) R {
	t.Helper()
	body, err := w.serve(t.Context(), req.Key(), req.GetVersion(), req.AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	return resp.(R)
}

// A topic of a share whose site's list was never read, as a group of another one reads it:
// what a coordinator is asked is to be asked again. Java's members end at other codes.
func TestPositionsOfTopicsElsewhere(t *testing.T) {
	const later = "COORDINATOR_LOAD_IN_PROGRESS"
	synctest.Test(t, func(t *testing.T) {
		w := newTwoShares(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders", "allow write transactional_id app")})
		defer w.Close()
		told := func(code int16) string {
			if err := kerr.ErrorForCode(code); err != nil {
				return err.(*kerr.Error).Message //nolint:errorlint // it is one
			}
			return "done"
		}
		w.site.answers(func(up kmsg.Request) kmsg.Response {
			resp := up.ResponseKind()
			switch up := up.(type) {
			case *kmsg.OffsetCommitRequest:
				resp.(*kmsg.OffsetCommitResponse).Topics = make([]kmsg.OffsetCommitResponseTopic, 0)
			case *kmsg.OffsetFetchRequest:
				g := kmsg.NewOffsetFetchResponseGroup()
				g.Group = up.Groups[0].Group
				for _, name := range []string{"orders", "stock"} {
					topic, p := kmsg.NewOffsetFetchResponseGroupTopic(), kmsg.NewOffsetFetchResponseGroupTopicPartition()
					topic.Topic, p.Offset = name, -1
					topic.Partitions = append(topic.Partitions, p)
					g.Topics = append(g.Topics, topic)
				}
				resp.(*kmsg.OffsetFetchResponse).Groups = append(resp.(*kmsg.OffsetFetchResponse).Groups, g)
			}
			return resp
		})
		for version := int16(1); version <= 10; version++ {
			for _, topics := range [][]string{{"orders", "stock"}, nil} {
				if topics == nil && version < 8 {
					continue
				}
				req := kmsg.NewPtrOffsetFetchRequest()
				req.Version = version
				g := kmsg.NewOffsetFetchRequestGroup()
				g.Group, g.MemberEpoch = "readers", -1
				for _, name := range topics {
					g.Topics = append(g.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: name, TopicID: w.topology.TopicID(name), Partitions: []int32{0}})
					req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: name, Partitions: []int32{0}})
				}
				req.Group, req.Groups = g.Group, append(req.Groups, g)
				resp := call[*kmsg.OffsetFetchResponse](t, w, req)
				switch {
				case version == 1:
					if len(resp.Topics) != 2 {
						t.Fatalf("version 1: %+v", resp)
					}
					for _, topic := range resp.Topics {
						if got := told(topic.Partitions[0].ErrorCode); got != later {
							t.Errorf("version 1, %s: %s", topic.Topic, got)
						}
					}
				case version < 8:
					if got := told(resp.ErrorCode); got != later || len(resp.Topics) > 0 {
						t.Errorf("version %d: %s, %+v", version, got, resp.Topics)
					}
				default:
					if g := resp.Groups[0]; told(g.ErrorCode) != later || len(g.Topics) > 0 {
						t.Errorf("version %d of %q: %s, %+v", version, topics, told(g.ErrorCode), g.Topics)
					}
				}
			}
		}
		for _, version := range []int16{8, 10} {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.Generation = version, "readers", -1
			req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "stock", TopicID: w.topology.TopicID("stock"), Partitions: []kmsg.OffsetCommitRequestTopicPartition{kmsg.NewOffsetCommitRequestTopicPartition()}}}
			if got := told(call[*kmsg.OffsetCommitResponse](t, w, req).Topics[0].Partitions[0].ErrorCode); got != later {
				t.Errorf("OffsetCommit version %d: %s", version, got)
			}
		}
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.Version, req.TransactionalID, req.Group, req.Generation = 3, "app", "readers", -1
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "stock", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{kmsg.NewTxnOffsetCommitRequestTopicPartition()}}}
		if got := told(call[*kmsg.TxnOffsetCommitResponse](t, w, req).Topics[0].Partitions[0].ErrorCode); got != later {
			t.Errorf("TxnOffsetCommit: %s", got)
		}
	})
}

// While the store has not said of every share which site serves it, nobody can tell what no
// site allows: a refusal would end who comes to a gateway that has just begun.
func TestNobodyIsRefusedBeforeTheStoreAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rights := listsBySite{"east": rulesOf(), "west": rulesOf()}
		w := newTwoShares(t, rights)
		defer w.Close()
		produce := func() int16 {
			time.Sleep(2 * homesMemory)
			return call[*kmsg.InitProducerIDResponse](t, w, kmsg.NewPtrInitProducerIDRequest()).ErrorCode
		}
		if code := produce(); code != kerr.ClusterAuthorizationFailed.Code {
			t.Errorf("after it did: %v", kerr.ErrorForCode(code))
		}
		shop := w.shares[spillway.ShareID{Group: "shop"}]
		known := shop.Record()
		shop.SetRecord(failover.Share{})
		if code := produce(); code != kerr.CoordinatorLoadInProgress.Code {
			t.Errorf("of one share: %v", kerr.ErrorForCode(code))
		}
		w.shares[spillway.ShareID{Group: "stores"}].SetRecord(failover.Share{})
		if code := produce(); code != kerr.CoordinatorLoadInProgress.Code {
			t.Errorf("of none: %v", kerr.ErrorForCode(code))
		}
		shop.SetRecord(known)
		rights["east"] = rulesOf("allow write topic orders")
		if code := produce(); code != 0 {
			t.Errorf("allowed where it is known: %v", kerr.ErrorForCode(code))
		}
	})
}

// Each API tells who cannot be decided about yet what makes its clients come again.
func TestWhatMakesClientsComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied, rights := 0, listsBySite{}
		w := newTwoShares(t, rights)
		defer w.Close()
		w.events.Denied = func(Denial) { denied++ }
		beat, sync := kmsg.NewPtrHeartbeatRequest(), kmsg.NewPtrSyncGroupRequest()
		beat.Version, sync.Version, beat.Group, sync.Group = 4, 5, "readers", "readers"
		if code := call[*kmsg.HeartbeatResponse](t, w, beat).ErrorCode; code != kerr.RebalanceInProgress.Code {
			t.Errorf("Heartbeat: %v", kerr.ErrorForCode(code))
		}
		if code := call[*kmsg.SyncGroupResponse](t, w, sync).ErrorCode; code != kerr.RebalanceInProgress.Code {
			t.Errorf("SyncGroup: %v", kerr.ErrorForCode(code))
		}
		create := func() int16 {
			req := kmsg.NewPtrCreateTopicsRequest()
			req.Version, req.TimeoutMillis, req.ValidateOnly = 7, 1000, true
			req.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: "carts", NumPartitions: 1, ReplicationFactor: 1}}
			return call[*kmsg.CreateTopicsResponse](t, w, req).Topics[0].ErrorCode
		}
		metadata := func() (topics []string) {
			req := kmsg.NewPtrMetadataRequest()
			req.Version = 12
			for _, topic := range call[*kmsg.MetadataResponse](t, w, req).Topics {
				topics = append(topics, fmt.Sprint(*topic.Topic, " ", topic.ErrorCode))
			}
			return topics
		}
		groups := func() string {
			w.site.answers(func(up kmsg.Request) kmsg.Response {
				resp := up.ResponseKind().(*kmsg.ListGroupsResponse)
				resp.Groups = append(resp.Groups, kmsg.ListGroupsResponseGroup{Group: "readers"})
				return resp
			})
			req := kmsg.NewPtrListGroupsRequest()
			req.Version = 4
			resp := call[*kmsg.ListGroupsResponse](t, w, req)
			return fmt.Sprint(resp.ErrorCode, " ", len(resp.Groups))
		}
		describe := func() int16 {
			w.site.answers(func(up kmsg.Request) kmsg.Response {
				resp := up.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
				g, m := kmsg.NewConsumerGroupDescribeResponseGroup(), kmsg.NewConsumerGroupDescribeResponseGroupMember()
				m.Assignment.TopicPartitions = []kmsg.AssignmentTopicPartition{{Topic: "stock"}}
				g.Group, g.Members = "readers", append(g.Members, m)
				resp.Groups = append(resp.Groups, g)
				return resp
			})
			req := kmsg.NewPtrConsumerGroupDescribeRequest()
			req.Groups = []string{"readers"}
			return call[*kmsg.ConsumerGroupDescribeResponse](t, w, req).Groups[0].ErrorCode
		}
		rights["east"] = rulesOf("allow describe group readers", "allow describe topic orders")
		if code := create(); code != kerr.NotController.Code {
			t.Errorf("CreateTopics: %v", kerr.ErrorForCode(code))
		}
		if got := groups(); got != fmt.Sprint(kerr.CoordinatorNotAvailable.Code, " 0") {
			t.Errorf("ListGroups: %s", got)
		}
		if code := describe(); code != kerr.CoordinatorLoadInProgress.Code {
			t.Errorf("ConsumerGroupDescribe: %v", kerr.ErrorForCode(code))
		}
		if got := metadata(); fmt.Sprint(got) != "[orders 0]" {
			t.Errorf("Metadata: %q", got)
		}
		rights["east"] = rulesOf("allow describe topic orders", "allow describe topic stock")
		if got := metadata(); fmt.Sprint(got) != fmt.Sprintf("[orders 0 stock %d]", kerr.LeaderNotAvailable.Code) {
			t.Errorf("Metadata, with the right elsewhere: %q", got)
		}
		if denied > 0 {
			t.Errorf("%d denials where nobody can tell", denied)
		}
		rights["east"], rights["west"] = rulesOf("allow describe group readers"), rulesOf()
		if code := create(); code != kerr.TopicAuthorizationFailed.Code || denied != 1 {
			t.Errorf("CreateTopics, once that is known: %v, %d denials", kerr.ErrorForCode(code), denied)
		}
		if code := describe(); code != kerr.TopicAuthorizationFailed.Code || denied != 1 {
			t.Errorf("ConsumerGroupDescribe, once that is known: %v, %d denials", kerr.ErrorForCode(code), denied)
		}
		// Group readers is served at east, and the right on the cluster is given at west.
		rights["east"], rights["west"] = rulesOf(), rulesOf("allow describe cluster kafka-cluster")
		if got := groups(); got != "0 1" {
			t.Errorf("ListGroups, with the right on the cluster elsewhere: %s", got)
		}
	})
}

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

// withoutRights is what who may do nothing learns from APIs that no site is asked for, or
// that list what there is. An API that is in here or not asks for rights; a new one has to.
var withoutRights = map[int16]string{
	3:  "virtual nodes, and what it has named", // TestRightsByAPI
	10: "that it may not",                      // TestRightsByAPI
	16: "an empty list",                        // TestRightsByAPI
	17: "how to log in", 18: "what is served", 36: "whether it is known",
	19: "that it may not", // TestRightsByAPI
	23: "that it may not", // TestRightsByAPI, and TestEpochsOfHiddenTopics
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

// countingSite counts how often it is asked for its topics.
type countingSite struct {
	*codecSite
	asked  *atomic.Int64
	silent *atomic.Bool // it does not answer
}

func (s countingSite) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if s.asked.Add(1); s.silent.Load() {
		<-ctx.Done()
		return broker.Metadata{}, ctx.Err()
	}
	return s.codecSite.Metadata(ctx, topics...)
}

// An id that the client may not know of has the sites asked as one has that nobody knows: it
// would be answered sooner else. They are asked once, however many ids a request has.
func TestAGuessedIDTakesAsLong(t *testing.T) {
	requests := map[string]func(ids [][16]byte) kmsg.Request{
		"Produce": func(ids [][16]byte) kmsg.Request {
			req := kmsg.NewPtrProduceRequest()
			req.Version, req.Acks, req.TimeoutMillis = 13, -1, 1000
			for _, id := range ids {
				req.Topics = append(req.Topics, kmsg.ProduceRequestTopic{TopicID: id})
			}
			return req
		},
		"Fetch": func(ids [][16]byte) kmsg.Request {
			req := kmsg.NewPtrFetchRequest()
			req.Version, req.ReplicaID, req.SessionEpoch = 16, -1, -1
			for _, id := range ids {
				req.Topics = append(req.Topics, kmsg.FetchRequestTopic{TopicID: id})
			}
			return req
		},
		"Metadata": func(ids [][16]byte) kmsg.Request {
			req := kmsg.NewPtrMetadataRequest()
			req.Version = 12
			for _, id := range ids {
				req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{TopicID: id})
			}
			return req
		},
		"OffsetCommit": func(ids [][16]byte) kmsg.Request {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.Generation = 10, "readers", -1
			for _, id := range ids {
				req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{TopicID: id})
			}
			return req
		},
		"OffsetFetch": func(ids [][16]byte) kmsg.Request {
			req, group := kmsg.NewPtrOffsetFetchRequest(), kmsg.NewOffsetFetchRequestGroup()
			req.Version, group.Group, group.MemberEpoch = 10, "readers", -1
			for _, id := range ids {
				group.Topics = append(group.Topics, kmsg.OffsetFetchRequestGroupTopic{TopicID: id})
			}
			req.Groups = append(req.Groups, group)
			return req
		},
		"ConsumerGroupHeartbeat": func(ids [][16]byte) kmsg.Request {
			req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "readers", "one", 1
			for _, id := range ids {
				req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id})
			}
			return req
		},
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwoShares(t, rulesOfReaders)
				defer w.Close()
				w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
				var asked atomic.Int64
				var silent atomic.Bool
				for site := range w.sites {
					w.sites[site] = countingSite{w.site, &asked, &silent}
				}
				w.topics.all(t.Context())
				times := func(topics ...string) (int64, time.Duration) {
					time.Sleep(2 * topicsAskEvery)
					asked.Store(0)
					began := time.Now()
					var ids [][16]byte
					for _, topic := range topics {
						ids = append(ids, w.topology.TopicID(topic))
					}
					call[kmsg.Response](t, w, request(ids))
					return asked.Load(), time.Since(began)
				}
				if n, _ := times("orders", "orders"); n != 0 {
					t.Errorf("the sites were asked %d times about what the client may know of", n)
				}
				for _, topics := range [][]string{{"carts", "stock", "orders"}, {"nowhere", "elsewhere", "orders"}} {
					if n, _ := times(topics...); n != 2 {
						t.Errorf("both sites were asked %d times about %q", n, topics)
					}
				}
				if silent.Store(true); name == "ConsumerGroupHeartbeat" { // which goes on with what it knows
					return
				}
				want := topicsAskMax // of both; who comes later does not wait for what was silent
				for _, topics := range [][]string{{"carts", "stock", "hats"}, {"nowhere", "elsewhere", "neither"}, {"carts", "stock", "hats"}} {
					if _, took := times(topics...); took != want {
						t.Errorf("while both sites are away %q took %s, want %s", topics, took, want)
					}
					want = 0
				}
			})
		})
	}
}

// Who may describe a group is refused where it is assigned, or shall be, what the client may not
// know of. What members subscribed to does not count: brokers show it, too.
func TestWhatMembersReadIsKeptFromOthers(t *testing.T) {
	for name, c := range map[string]struct {
		subscribed, assigned, target string
		want                         int16
	}{
		"what it may":                   {"orders", "orders", "orders", 0},
		"assigned what it may not":      {"orders", "carts", "orders", kerr.TopicAuthorizationFailed.Code},
		"about to be assigned that":     {"orders", "orders", "carts", kerr.TopicAuthorizationFailed.Code},
		"subscribed to it, unassigned":  {"carts", "orders", "orders", 0},
		"subscribed to what is nowhere": {"nowhere", "orders", "orders", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwoShares(t, listsBySite{"east": rulesOf("allow describe group readers", "allow read topic orders"), "west": rulesOf()})
				defer w.Close()
				assigned := func(topic string) (a kmsg.Assignment) {
					a.TopicPartitions = []kmsg.AssignmentTopicPartition{{TopicID: w.site.mapping.siteID(topic), Topic: topic, Partitions: []int32{0}}}
					return a
				}
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
					g, m := kmsg.NewConsumerGroupDescribeResponseGroup(), kmsg.NewConsumerGroupDescribeResponseGroupMember()
					m.SubscribedTopics, m.Assignment, m.TargetAssignment = []string{c.subscribed}, assigned(c.assigned), assigned(c.target)
					g.Group, g.Members = "readers", append(g.Members, m)
					resp.Groups = append(resp.Groups, g)
					return resp
				})
				req := kmsg.NewPtrConsumerGroupDescribeRequest()
				req.Version, req.Groups = 1, []string{"readers"}
				got := call[*kmsg.ConsumerGroupDescribeResponse](t, w, req).Groups[0]
				if got.ErrorCode != c.want {
					t.Fatalf("%v, want %v", kerr.ErrorForCode(got.ErrorCode), kerr.ErrorForCode(c.want))
				}
				if c.want != 0 && len(got.Members) > 0 {
					t.Errorf("it is refused, and told of %v", got.Members)
				}
				if c.want == 0 && !slices.Equal(got.Members[0].SubscribedTopics, []string{c.subscribed}) {
					t.Errorf("it is told of %v", got.Members[0].SubscribedTopics)
				}
			})
		})
	}
}

// Where rights are looked at the coordinator gets no expression of a member that stays; who
// leaves is let go, and an empty one is none.
func TestExpressionsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		rights     Rights
		epoch      int32
		expression *string
		names      []string
		want       int16
		asked      int
	}{
		"as it joins":             {rulesOfReaders, 0, kmsg.StringPtr(".*"), nil, kerr.InvalidRequest.Code, 0},
		"as a member":             {rulesOfReaders, 1, kmsg.StringPtr("ord.*"), []string{"orders"}, kerr.InvalidRequest.Code, 0},
		"beside a forbidden name": {rulesOfReaders, 1, kmsg.StringPtr("ord.*"), []string{"carts"}, kerr.TopicAuthorizationFailed.Code, 0},
		"in an unread group":      {listsBySite{}, 0, kmsg.StringPtr(".*"), nil, kerr.CoordinatorLoadInProgress.Code, 0},
		"by names":                {rulesOfReaders, 0, nil, []string{"orders"}, 0, 1},
		"by an empty one":         {rulesOfReaders, 0, kmsg.StringPtr(""), []string{"orders"}, 0, 1},
		"as it leaves":            {rulesOfReaders, -1, kmsg.StringPtr(".*"), nil, 0, 1},
		"nobody looks at rights":  {nil, 0, kmsg.StringPtr(".*"), nil, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwoShares(t, c.rights)
				defer w.Close()
				w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
				req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
				req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "readers", "one", c.epoch
				req.SubscribedTopicNames, req.SubscribedTopicRegex = c.names, c.expression
				if code := call[*kmsg.ConsumerGroupHeartbeatResponse](t, w, req).ErrorCode; code != c.want {
					t.Errorf("%v, want %v", kerr.ErrorForCode(code), kerr.ErrorForCode(c.want))
				}
				asked, _ := w.site.take()
				if len(asked) != c.asked {
					t.Fatalf("the coordinator was asked %d times", len(asked))
				}
				for _, up := range asked {
					if got := up.(*kmsg.ConsumerGroupHeartbeatRequest); !reflect.DeepEqual(got.SubscribedTopicRegex, c.expression) || !slices.Equal(got.SubscribedTopicNames, c.names) {
						t.Errorf("the coordinator got %v by %v", got.SubscribedTopicNames, got.SubscribedTopicRegex)
					}
				}
			})
		})
	}
}

var rulesOfReaders = listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()}
