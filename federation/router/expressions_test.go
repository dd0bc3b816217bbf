package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// listing is a site whose topics the test names.
type listing struct {
	*codecSite
	mu     sync.Mutex
	topics []string
	silent bool
}

func (l *listing) Metadata(context.Context, ...string) (broker.Metadata, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent {
		return broker.Metadata{}, errors.New("the site is away")
	}
	md := broker.Metadata{Topics: make(map[string]broker.TopicMetadata)}
	for _, name := range l.topics {
		md.Topics[name] = broker.TopicMetadata{Name: name, ID: l.mapping.siteID(name), Partitions: []broker.PartitionMetadata{{}}}
	}
	return md, nil
}

func (l *listing) has(topics ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics = topics
}

// subscribers are members of the group readers, which is served at east, and what the
// coordinator there gets of them.
type subscribers struct {
	*codecWorld
	t          *testing.T
	rights     listsBySite
	east, west *listing
	code       int16    // of the coordinator's answers
	assigned   []string // by them
}

func newSubscribers(t *testing.T, rights listsBySite) *subscribers {
	s := &subscribers{codecWorld: newTwoShares(t, rights), t: t, rights: rights}
	every := []string{"__internal", "carts", "foreign", "orders", "stock"}
	s.east, s.west = &listing{codecSite: s.site, topics: every}, &listing{codecSite: s.site, topics: every}
	s.sites["east"], s.sites["west"] = s.east, s.west
	s.site.answers(func(up kmsg.Request) kmsg.Response {
		resp := up.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.MemberID, resp.MemberEpoch, resp.ErrorCode = kmsg.StringPtr(up.(*kmsg.ConsumerGroupHeartbeatRequest).MemberID), 1, s.code
		if s.assigned != nil {
			resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{}
		}
		for _, topic := range s.assigned {
			one := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
			one.TopicID, one.Partitions = s.site.mapping.siteID(topic), []int32{0}
			resp.Assignment.Topics = append(resp.Assignment.Topics, one)
		}
		return resp
	})
	return s
}

// nothing is the heartbeat of a member that has nothing new to say.
func nothing(*kmsg.ConsumerGroupHeartbeatRequest) {}

// by has a member subscribe by an expression, and names.
func by(expression string, names ...string) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.SubscribedTopicRegex, req.SubscribedTopicNames = &expression, append([]string{}, names...)
	}
}

// whole is all that a member has to say, as it joins or in an epoch.
func whole(epoch int32, say func(*kmsg.ConsumerGroupHeartbeatRequest)) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.MemberEpoch, req.RebalanceTimeoutMillis, req.Topics = epoch, 1000, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		say(req)
	}
}

// beat sends a heartbeat and tells what the coordinator got of topics: what it names, and the
// expression if it got one. Else it tells the error.
func (s *subscribers) beat(say func(*kmsg.ConsumerGroupHeartbeatRequest)) string {
	s.t.Helper()
	up, resp := s.exchange(say)
	if resp.ErrorCode != s.code {
		if up != nil {
			s.t.Errorf("%v, and the coordinator was asked", kerr.ErrorForCode(resp.ErrorCode))
		}
		return kerr.ErrorForCode(resp.ErrorCode).(*kerr.Error).Message //nolint:errorlint // it is one
	}
	got := "as before"
	if up.SubscribedTopicNames != nil {
		got = fmt.Sprint(up.SubscribedTopicNames)
	}
	if up.SubscribedTopicRegex != nil {
		got += " by " + fmt.Sprintf("%q", *up.SubscribedTopicRegex)
	}
	return got
}

func (s *subscribers) exchange(say func(*kmsg.ConsumerGroupHeartbeatRequest)) (up *kmsg.ConsumerGroupHeartbeatRequest, _ *kmsg.ConsumerGroupHeartbeatResponse) {
	s.t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, "readers", "one", 1, -1
	say(req)
	s.site.take()
	resp := call[*kmsg.ConsumerGroupHeartbeatResponse](s.t, s.codecWorld, req)
	if asked, _ := s.site.take(); len(asked) > 0 {
		up = asked[0].(*kmsg.ConsumerGroupHeartbeatRequest)
	}
	return up, resp
}

func (s *subscribers) want(when string, say func(*kmsg.ConsumerGroupHeartbeatRequest), want string) {
	s.t.Helper()
	if got := s.beat(say); got != want {
		s.t.Errorf("%s: the coordinator got %s, want %s", when, got, want)
	}
}

// The coordinator gets of an expression the topics that match, are of failover groups, and that
// the member may know of (invariant A).
func TestExpressionsBecomeNames(t *testing.T) {
	all := func() *listsBySite {
		return &listsBySite{"east": rulesOf("allow read group readers", "allow describe topic *"), "west": rulesOf("allow describe topic *")}
	}
	orders := &listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()}
	unread := &listsBySite{"east": rulesOf("allow read group readers", "allow describe topic *")}
	const invalid = "INVALID_REGULAR_EXPRESSION"
	for name, c := range map[string]struct {
		rights *listsBySite
		say    func(*kmsg.ConsumerGroupHeartbeatRequest)
		want   string
	}{
		"all":                         {all(), by(".*"), `[carts orders stock] by ""`},
		"what it may":                 {orders, by(".*"), `[orders] by ""`},
		"what matches":                {all(), by("ca.*|st.*"), `[carts stock] by ""`},
		"not a part of a name":        {all(), by("rder"), `[] by ""`},
		"the longer way":              {all(), by("ord|orders"), `[orders] by ""`},
		"anchors":                     {all(), by("^orders$"), `[orders] by ""`},
		"in any case":                 {all(), by("(?i)ORD.*"), `[orders] by ""`},
		"an open quotation":           {all(), by(`\Qorders`), `[orders] by ""`},
		"and names":                   {all(), by("ord.*", "orders", "carts"), `[carts orders] by ""`},
		"a name that it may not":      {orders, by("ord.*", "carts"), "TOPIC_AUTHORIZATION_FAILED"},
		"a site whose list is unread": {unread, by(".*"), `[carts orders] by ""`},
		"nobody looks at rights":      {nil, by(".*"), `[] by ".*"`},
		"a list of names":             {orders, by("", "orders"), `[orders] by ""`},
		"half of one":                 {all(), by("orders("), invalid},
		"what RE2 does not have":      {all(), by("(?=orders)orders"), invalid},
		"too long":                    {all(), by(strings.Repeat("x", expressionBytesMax+1)), invalid},
		"too many steps":              {all(), by("x{900}y{900}z{900}"), invalid},
		"too many names":              {all(), by(".*", strings.Repeat("x", besideBytesMax+1)), invalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSubscribers(t, nil)
				defer s.Close()
				if s.config.Rights = nil; c.rights != nil {
					s.config.Rights = *c.rights
				}
				s.want("as it joins", whole(0, c.say), c.want)
			})
		})
	}
}

// A topic that a member of an expression may read later is told to the coordinator with the next
// heartbeat, though the member has nothing new to say, and one that it may not read is not.
func TestExpressionsAreLookedAtAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscribers(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()})
		defer s.Close()
		s.want("as it joins", whole(0, by(".*")), `[orders] by ""`)
		s.want("with nothing new", nothing, "as before")
		s.rights["east"] = rulesOf("allow read group readers", "allow read topic orders", "allow read topic carts")
		s.code = kerr.CoordinatorNotAvailable.Code
		s.want("with a new right, as the coordinator is away", nothing, "[carts orders]")
		east := s.rights["east"]
		s.rights["east"] = rulesOf("allow read group readers", "allow read topic orders")
		s.want("without it, as the coordinator may have taken it", nothing, "[orders]")
		s.rights["east"], s.code = east, 0
		s.want("as it is back", nothing, "[carts orders]")
		s.want("then", nothing, "as before")
		s.want("with an error behind it", whole(1, by(".*")), `[carts orders] by ""`)
		s.rights["east"] = rulesOf("allow read group readers", "allow read topic carts")
		s.want("without a right", nothing, "[carts]")
		s.want("then", nothing, "as before")
		// Topics come.
		s.east.has("carts", "orders", "hats")
		time.Sleep(2 * s.config.MetadataMax)
		s.beat(nothing) // has the site asked
		synctest.Wait()
		s.want("with a topic of another team", nothing, "as before")
		s.east.has("orders")
		s.want("for some seconds", nothing, "as before")
		time.Sleep(2 * s.config.MetadataMax)
		s.beat(nothing)
		synctest.Wait()
		s.want("without its topic", nothing, "[]")
		s.east.has("orders", "carts")
		time.Sleep(2 * s.config.MetadataMax)
		s.beat(nothing)
		synctest.Wait()
		s.want("with one that it may read", nothing, "[carts]")
		s.want("by names now", by("", "carts"), `[carts] by ""`)
		s.want("then", nothing, "as before")
		s.want("by an expression again", by("car.*"), `[carts] by ""`)
		s.want("without it", func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.SubscribedTopicRegex = kmsg.StringPtr("") }, `[] by ""`)
		s.want("as it leaves", func(req *kmsg.ConsumerGroupHeartbeatRequest) {
			req.MemberEpoch, req.SubscribedTopicRegex = -1, kmsg.StringPtr(".*")
		}, "as before")
	})
}

// What nobody can tell of now is not taken from a group (invariant B).
func TestExpressionsKeepWhatNobodyCanTellOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		west := rulesOf("allow read topic stock")
		s := newSubscribers(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": west})
		defer s.Close()
		s.want("as it joins", whole(0, by(".*")), `[orders stock] by ""`)
		delete(s.rights, "west")
		s.want("with a list that nobody knows", nothing, "as before")
		s.want("with an error behind it", whole(1, by(".*")), `[orders stock] by ""`)
		s.want("as it joins again", whole(0, by(".*")), `[orders stock] by ""`)
		north := &listing{codecSite: s.site, silent: true}
		s.sites["north"] = north
		stores := s.shares[spillway.ShareID{Group: "stores"}]
		stores.SetRecord(failover.Share{State: failover.Stable, Epoch: 2, Active: "north", Terms: []failover.Term{{Epoch: 2, Site: "north"}}})
		time.Sleep(2 * s.config.MetadataMax)
		s.beat(nothing)
		synctest.Wait()
		s.want("at a site that never said a word", nothing, "as before")
		s.want("with an error behind it", whole(1, by(".*")), `[orders stock] by ""`)
		s.rights["north"] = rulesOf()
		north.mu.Lock()
		north.silent, north.topics = false, []string{"stock"}
		north.mu.Unlock()
		time.Sleep(2 * s.config.MetadataMax)
		s.beat(nothing)
		synctest.Wait()
		s.want("once it is known", nothing, "[orders]")
	})
}

// A gateway that does not know what a member reads has it say all, once (invariant C).
func TestStrangersSayAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscribers(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()})
		defer s.Close()
		const again = "COORDINATOR_LOAD_IN_PROGRESS"
		as := func(member string, say func(*kmsg.ConsumerGroupHeartbeatRequest)) func(*kmsg.ConsumerGroupHeartbeatRequest) {
			return func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.MemberID = member; say(req) }
		}
		s.want("with nothing new", as("a", nothing), again)
		s.want("with all", as("a", whole(1, by(".*"))), `[orders] by ""`)
		s.want("then", as("a", nothing), "as before")
		s.want("with nothing new", as("b", nothing), again)
		s.want("who does not say all", as("b", nothing), "as before")
		s.want("with all at once", as("c", whole(1, func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.SubscribedTopicNames = []string{"orders"} })), "[orders]")
		s.want("then", as("c", nothing), "as before")
		expression := func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.SubscribedTopicRegex = kmsg.StringPtr("ord.*") }
		s.want("with an expression beside names that nobody kept", as("c", expression), again)
		s.want("who does not say all", as("c", expression), `[orders] by ""`)
		s.want("of a version without expressions", as("d", func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.Version = 0 }), "as before")
		s.config.Rights = nil
		s.want("where nobody looks at rights", as("e", nothing), "as before")
	})
}

// What a member is assigned is what the coordinator says: to read it has its own right, and who
// has not is told so.
func TestAssignmentsAreWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscribers(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()})
		defer s.Close()
		s.assigned = []string{"orders", "carts"}
		_, resp := s.exchange(whole(0, by("", "orders")))
		if resp.ErrorCode != 0 || len(resp.Assignment.Topics) != 2 || resp.Assignment.Topics[1].TopicID != s.topology.TopicID("carts") {
			t.Errorf("%+v", resp)
		}
	})
}

// The memory for expressions is bounded, and those in use stay.
func TestExpressionsAreForgotten(t *testing.T) {
	var x expressions
	first, err := x.of("first")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * expressionsMax {
		if _, err := x.of(fmt.Sprint("x", i)); err != nil {
			t.Fatal(err)
		}
		if again, err := x.of("first"); err != nil || again != first {
			t.Fatal("an expression that is in use was forgotten")
		}
	}
	if n := len(x.known); n != expressionsMax {
		t.Errorf("%d are remembered", n)
	}
	a, b := first.keep([]string{"a", "b"}), first.keep([]string{"a", "b"})
	if &a[0] != &b[0] || !slices.Equal(a, []string{"a", "b"}) {
		t.Error("equal lists are kept twice")
	}
}

// Many members share an expression and come at the same time.
func TestMembersOfOneExpressionComeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSubscribers(t, listsBySite{"east": rulesOf("allow read group readers", "allow read topic orders"), "west": rulesOf()})
		defer s.Close()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 20 {
					req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
					req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "readers", fmt.Sprint("member-", i), -1
					if n%5 == 0 {
						whole(0, by(".*"))(req)
					} else {
						req.MemberEpoch = 1
					}
					body, err := s.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
					resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
					if err == nil {
						err = resp.ReadFrom(body)
					}
					if err != nil || resp.ErrorCode != 0 {
						t.Errorf("%v, %v", err, kerr.ErrorForCode(resp.ErrorCode))
					}
					time.Sleep(s.config.MetadataMax / 3)
				}
			})
		}
		wg.Wait()
		s.want("after all", func(req *kmsg.ConsumerGroupHeartbeatRequest) { req.MemberID = "member-3" }, "as before")
	})
}
