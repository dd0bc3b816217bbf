package preflight

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"spillway"
	"spillway/federation/authorization"
)

// entry is "ALLOW READ TOPIC orders alice [from 10.0.0.1]"; a name that ends with + is a prefix.
func entry(t *testing.T, words string) spillway.ACL {
	t.Helper()
	w := strings.Fields(words)
	if len(w) != 5 && len(w) != 7 {
		t.Fatalf("%q", words)
	}
	e := spillway.ACL{Permission: w[0], Operation: w[1], Resource: w[2], Name: w[3], Principal: "User:" + w[4], Host: "*", Pattern: spillway.ACLLiteral}
	if name, ok := strings.CutSuffix(e.Name, "+"); ok {
		e.Name, e.Pattern = name, spillway.ACLPrefixed
	}
	if len(w) == 7 {
		e.Host = w[6]
	}
	return e
}

func list(t *testing.T, entries ...string) (all []spillway.ACL) {
	t.Helper()
	for _, words := range entries {
		all = append(all, entry(t, words))
	}
	return all
}

var shop = Scope{
	Topic:            func(name string) bool { return strings.HasPrefix(name, "orders") || name == "carts" },
	ConsumerGroup:    func(name string) bool { return strings.HasPrefix(name, "shop") },
	TransactionalID:  func(name string) bool { return strings.HasPrefix(name, "pay-") || name == "checkout" },
	TransactionalIDs: []string{"pay-*", "checkout"},
	Own:              []string{"User:gateway", "User:mirror"},
	Gateways:         map[spillway.SiteID]string{"east": "User:gateway", "west": "User:gateway"},
}

var lists, unlisted = &authorization.Policy{SuperUsers: []string{"User:admin"}}, &authorization.Policy{AllowUnlisted: true}

func TestRights(t *testing.T) {
	readOrders, readCarts := "ALLOW READ TOPIC orders alice", "ALLOW READ TOPIC carts alice"
	for name, c := range map[string]struct {
		active, target []string
		by             *authorization.Policy
		limits         []string // accepted
		refuses        int
		want           []string
	}{
		"the same, in another order": {active: []string{readOrders, readCarts}, target: []string{readCarts, readOrders}, by: lists},
		"an entry is missing":        {active: []string{readOrders, readCarts}, target: []string{readCarts}, by: lists, refuses: 1, want: []string{"clients may not do with topics at west what they may do at east, 1 right (mirrors carry such entries with mirror.acls, else create them at west): User:alice READ on orders; to go on all the same, give --accept rights"}},
		"nobody asks for it":         {active: []string{readOrders}, by: nil, want: []string{"User:alice READ on orders; by this configuration gateways do not ask for them (gateway.authorization.rules: none)"}},
		"it is meant":                {active: []string{readOrders}, by: lists, limits: []string{AboutRights}, want: []string{"User:alice READ on orders"}},
		"of a super user":            {active: []string{"ALLOW READ TOPIC orders admin"}, by: lists},
		"from an address":            {active: []string{readOrders + " from 10.0.0.1"}, by: lists, refuses: 1, want: []string{"User:alice from 10.0.0.1 READ on orders"}},
		"from another address":       {active: []string{readOrders + " from 10.0.0.1"}, target: []string{readOrders + " from 10.0.0.2"}, by: lists, refuses: 1, want: []string{"User:alice from 10.0.0.1 READ on orders", "clients may do with topics at west what they may not do at east, 1 right: User:alice from 10.0.0.2 READ on orders"}},
		"narrowed by the mirror":     {active: []string{"ALLOW READ TOPIC * alice"}, target: []string{readOrders, readCarts, "ALLOW READ TOPIC orders.v2 alice", "ALLOW READ TOPIC parts alice"}, by: lists},
		"narrowed, and one is missing": {active: []string{"ALLOW READ TOPIC * alice"}, target: []string{readCarts, "ALLOW READ TOPIC orders.v2 alice", "ALLOW READ TOPIC parts alice"}, by: lists, refuses: 1,
			want: []string{"1 right (mirrors carry such entries with mirror.acls, else create them at west): User:alice READ on orders;"}},
		"a prefix reaches two":                      {active: []string{"ALLOW WRITE TOPIC orders+ alice"}, by: lists, refuses: 1, want: []string{"2 rights (mirrors carry such entries with mirror.acls, else create them at west): User:alice WRITE on orders and 1 more"}},
		"everything":                                {active: []string{"ALLOW ALL TOPIC carts alice"}, by: lists, refuses: 1, want: []string{"8 rights (mirrors carry such entries with mirror.acls, else create them at west): User:alice ALL on carts"}},
		"everything but one":                        {active: []string{"ALLOW ALL TOPIC carts alice"}, target: []string{"ALLOW ALL TOPIC carts alice", "DENY DELETE TOPIC carts alice"}, by: lists, refuses: 1, want: []string{"User:alice DELETE on carts"}},
		"implied by another entry":                  {active: []string{readOrders, "ALLOW DESCRIBE TOPIC orders alice"}, target: []string{readOrders}, by: lists},
		"by what all may":                           {active: []string{readOrders}, target: []string{"ALLOW READ TOPIC orders *"}, by: lists, want: []string{"clients may do with topics at west what they may not do at east, 1 right: User:* READ on orders"}},
		"denied at the target":                      {active: []string{"ALLOW READ TOPIC orders *"}, target: []string{"ALLOW READ TOPIC orders *", "DENY READ TOPIC orders alice"}, by: lists, refuses: 1, want: []string{"User:alice READ on orders"}},
		"an address is denied to all at the target": {active: []string{readOrders, readCarts}, target: []string{readOrders, readCarts, "DENY READ TOPIC orders * from 10.0.0.1"}, by: lists, refuses: 1, want: []string{"1 right (mirrors carry such entries with mirror.acls, else create them at west): User:alice from 10.0.0.1 READ on orders;"}},
		"an address is denied to all at both":       {active: []string{readOrders, "DENY READ TOPIC orders * from 10.0.0.1"}, target: []string{readOrders, "DENY READ TOPIC orders * from 10.0.0.1", readCarts}, by: lists, want: []string{"1 right: User:alice READ on carts"}},
		"a denial is missing":                       {active: []string{"ALLOW READ TOPIC orders *", "DENY READ TOPIC orders alice"}, target: []string{"ALLOW READ TOPIC orders *"}, by: lists, want: []string{"clients may do with topics at west what they may not do at east, 1 right: User:alice READ on orders"}},
		"of another group's topic":                  {active: []string{"ALLOW READ TOPIC stock alice"}, by: lists},
		"a topic that will come":                    {active: []string{"ALLOW READ TOPIC orders.v3 alice"}, by: lists, want: []string{"clients may not do at west what they may do at east with topics that do not exist yet, 1 right: User:alice READ on orders.v3"}},
		"the fence":                                 {active: []string{readOrders}, target: []string{readOrders, "DENY WRITE TOPIC orders gateway"}, by: lists},
		"the fence is not listed":                   {target: []string{"DENY WRITE TOPIC orders gateway"}, by: unlisted},
		"a denial that is no fence":                 {target: []string{"DENY WRITE TOPIC orders mirror"}, by: unlisted, refuses: 1, want: []string{"User:* ALL on orders"}},
		"mirrors and gateways":                      {active: []string{"ALLOW ALL TOPIC * gateway", "ALLOW READ TOPIC * mirror"}, by: lists},
		"a consumer group":                          {active: []string{"ALLOW READ GROUP shop-api alice"}, by: lists, refuses: 1, want: []string{"clients may not do with consumer groups at west what they may do at east, 1 right (mirrors carry"}},
		"one that is not there":                     {active: []string{"ALLOW READ GROUP shop-new alice"}, by: lists, refuses: 1, want: []string{"User:alice READ on shop-new"}},
		"all by a prefix":                           {active: []string{"ALLOW READ GROUP shop+ alice"}, by: lists, refuses: 1, want: []string{"1 right (mirrors carry such entries with mirror.acls, else create them at west): User:alice READ on shop-api;", "with consumer groups that do not exist yet, 1 right: User:alice READ on shop"}},
		"a prefix of none that is there":            {active: []string{"ALLOW READ GROUP shop-new+ alice"}, by: lists, want: []string{"clients may not do at west what they may do at east with consumer groups that do not exist yet, 1 right: User:alice READ on shop-new"}},
		"of another one":                            {active: []string{"ALLOW READ GROUP other alice"}, by: lists},
		"narrowed groups":                           {active: []string{"ALLOW READ GROUP * alice"}, target: []string{"ALLOW READ GROUP shop-api alice"}, by: lists},
		"a transactional id":                        {active: []string{"ALLOW WRITE TRANSACTIONAL_ID pay-1 alice"}, by: lists, refuses: 1, want: []string{"clients may not do with transactional ids at west what they may do at east, 1 right (mirrors carry no entries about them, so create them at west): User:alice WRITE on pay-1"}},
		"all of them":                               {active: []string{"ALLOW WRITE TRANSACTIONAL_ID * alice"}, by: lists, refuses: 1, want: []string{"User:alice WRITE on checkout and 1 more"}},
		"one by a wider prefix":                     {active: []string{"ALLOW WRITE TRANSACTIONAL_ID check+ alice"}, by: lists, refuses: 1, want: []string{"User:alice WRITE on checkout;"}},
		"of another application":                    {active: []string{"ALLOW WRITE TRANSACTIONAL_ID ship-1 alice"}, by: lists},
		"the cluster":                               {active: []string{"ALLOW IDEMPOTENT_WRITE CLUSTER kafka-cluster alice"}, by: lists, want: []string{"clients may not do with the cluster at west what they may do at east, 1 right (mirrors carry no entries about it, so create them at west): User:alice IDEMPOTENT_WRITE on kafka-cluster"}},
		"kinds that nobody serves":                  {active: []string{"ALLOW DESCRIBE DELEGATION_TOKEN token alice"}, by: lists},
		"what nobody had is now only some's":        {target: []string{readOrders}, by: unlisted, refuses: 1, want: []string{"User:* ALL on orders"}},
		"gained, where all else is denied":          {target: []string{readOrders}, by: lists, want: []string{"clients may do with topics at west what they may not do at east"}},
	} {
		active := Site{ID: "east", Topics: map[string]Topic{}, Rights: Rights{Read: true, Entries: list(t, c.active...), ConsumerGroups: []string{"shop-api"}}}
		for _, name := range []string{"orders", "orders.v2", "carts", "parts"} {
			active.Topics[name] = Topic{}
		}
		target := Site{ID: "west", Topics: active.Topics, Rights: Rights{Read: true, Entries: list(t, c.target...)}}
		judge(t, name, &active, target, Limits{ByLists: c.by, Scope: shop, Accepted: c.limits}, c.refuses, c.want...)
	}
}

// A group may have all transactional ids.
func TestRightsOfEveryTransactionalID(t *testing.T) {
	all := shop
	all.TransactionalIDs, all.TransactionalID = []string{"*"}, func(string) bool { return true }
	active := Site{ID: "east", Rights: Rights{Read: true, Entries: list(t, "ALLOW WRITE TRANSACTIONAL_ID * alice")}}
	judge(t, "all", &active, Site{ID: "west", Rights: Rights{Read: true}}, Limits{ByLists: lists, Scope: all}, 1, "1 right (mirrors carry no entries about them, so create them at west): User:alice WRITE on any-transactional-id;")
}

func TestAuthorizers(t *testing.T) {
	some := Rights{Read: true, Entries: list(t, "ALLOW READ TOPIC orders alice")}
	none := Rights{Read: true, None: true}
	for name, c := range map[string]struct {
		active, target Rights
		by             *authorization.Policy
		refuses        int
		want           []string
	}{
		"neither has one":          {none, none, nil, 0, nil},
		"the target has none":      {some, none, nil, 0, []string{"west has no authorizer, as east has: who reaches its brokers may do everything there"}},
		"and gateways go by it":    {some, none, lists, 1, []string{"they would let nobody but super users do anything"}},
		"the active site has none": {none, some, nil, 0, []string{"west has an authorizer, and east has none: the gateways' principal needs rights there"}},
		"one was not read":         {some, Rights{}, lists, 0, nil},
		"nor was the other":        {Rights{}, some, lists, 0, nil},
	} {
		judge(t, name, &Site{ID: "east", Rights: c.active}, Site{ID: "west", Rights: c.target}, Limits{ByLists: c.by, Scope: shop}, c.refuses, c.want...)
	}
}

// However long the lists are, the work has an end and the sentence is short.
func TestManyRights(t *testing.T) {
	active := Site{ID: "east", Topics: map[string]Topic{}, Rights: Rights{Read: true}}
	for i := range 1000 {
		active.Topics[fmt.Sprintf("orders-%04d", i)] = Topic{}
		active.Rights.Entries = append(active.Rights.Entries, entry(t, fmt.Sprintf("ALLOW ALL TOPIC orders+ client-%04d", i)))
	}
	// What is about little is compared all the same, wherever it stands in the list.
	active.Rights.Entries = append(active.Rights.Entries, list(t, "ALLOW WRITE TOPIC orders-0999 zoe", "ALLOW WRITE TRANSACTIONAL_ID pay-1 zoe")...)
	found := rights(active, Site{ID: "west", Rights: Rights{Read: true}}, Limits{ByLists: lists, Scope: shop})
	if len(found) != 4 || !strings.Contains(found[0].What, "User:zoe WRITE on pay-1") || !found[1].Refuses || len(found[1].What) > 500 || !strings.Contains(found[3].What, "with topics at east and west 50000 were compared, and not the rest") {
		t.Errorf("%+v", found)
	}
	target := Site{ID: "west", Rights: Rights{Read: true, Entries: active.Rights.Entries[:1000]}}
	if found = rights(active, target, Limits{ByLists: lists, Scope: shop}); len(found) != 3 || !slices.Equal(found[1].Names, []string{"User:zoe from * WRITE TOPIC orders-0999"}) || !strings.Contains(found[1].What, "1 right (mirrors carry such entries with mirror.acls, else create them at west): User:zoe WRITE on orders-0999") {
		t.Errorf("%+v", found)
	}
}

// Of one kind there may be any number, and the others are compared all the same; and where
// all were, nothing else is said.
func TestEachKindHasABoundOfItsOwn(t *testing.T) {
	active := Site{ID: "east", Topics: map[string]Topic{"orders": {}}, Rights: Rights{Read: true}}
	for i := range decisionsMax / 100 {
		active.Rights.ConsumerGroups = append(active.Rights.ConsumerGroups, fmt.Sprintf("shop-%04d", i))
	}
	for i := range 100 {
		active.Rights.Entries = append(active.Rights.Entries, entry(t, fmt.Sprintf("ALLOW READ GROUP * client-%02d", i)))
	}
	target := Site{ID: "west", Rights: Rights{Read: true}}
	if found := rights(active, target, Limits{ByLists: lists, Scope: shop}); len(found) != 1 || !strings.Contains(found[0].What, "50000 rights") {
		t.Errorf("%+v", found)
	}
	active.Rights.Entries = append(active.Rights.Entries, list(t, "ALLOW READ GROUP * zoe", "ALLOW READ TOPIC orders zoe")...)
	found := rights(active, target, Limits{ByLists: lists, Scope: shop})
	if len(found) != 3 || !strings.Contains(found[1].What, "with consumer groups at east and west 50000 were compared, and not the rest") || !strings.Contains(found[2].What, "User:zoe READ on orders") {
		t.Errorf("%+v", found)
	}
}

func TestQuotas(t *testing.T) {
	for name, c := range map[string]struct {
		active, target Quotas
		want           []string
	}{
		"the same":       {Quotas{"user=alice": {"producer_byte_rate": 1000}}, Quotas{"user=alice": {"producer_byte_rate": 1000}}, nil},
		"another value":  {Quotas{"user=alice": {"producer_byte_rate": 1000}}, Quotas{"user=alice": {"producer_byte_rate": 500.5}}, []string{"quotas of clients differ at west from those at east: user=alice producer_byte_rate (500.5, not 1000)"}},
		"missing":        {Quotas{"user=alice": {"producer_byte_rate": 1048576}}, Quotas{}, []string{"user=alice producer_byte_rate (none, not 1048576)"}},
		"at one alone":   {Quotas{}, Quotas{"client-id": {"request_percentage": 0.5}}, []string{"client-id request_percentage (0.5, not none)"}},
		"one of two":     {Quotas{"user=alice": {"a": 1, "b": 2}}, Quotas{"user=alice": {"a": 1}}, []string{"user=alice b (none, not 2)"}},
		"one was unread": {Quotas{"user=alice": {"a": 1}}, nil, nil},
	} {
		judge(t, name, &Site{ID: "east", Quotas: c.active}, Site{ID: "west", Quotas: c.target}, Limits{}, 0, c.want...)
	}
}
