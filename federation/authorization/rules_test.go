package authorization

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway"
)

// entry reads "allow User:alice read topic orders", with "prefix*" for a prefix and
// "from HOST" behind it.
func entry(t interface{ Fatalf(string, ...any) }, text string) spillway.ACL {
	w := strings.Fields(text)
	if len(w) != 5 && (len(w) != 7 || w[5] != "from") {
		t.Fatalf("%q is no entry", text)
	}
	e := spillway.ACL{
		Permission: strings.ToUpper(w[0]), Principal: w[1], Operation: strings.ToUpper(w[2]), Resource: strings.ToUpper(w[3]), Name: w[4],
		Pattern: spillway.ACLLiteral, Host: wildcard,
	}
	if len(w) == 7 {
		e.Host = w[6]
	}
	if prefix, ok := strings.CutSuffix(e.Name, "*"); ok && prefix != "" {
		e.Pattern, e.Name = spillway.ACLPrefixed, prefix
	}
	return e
}

func entriesOf(t *testing.T, lines ...string) (all []spillway.ACL) {
	for _, l := range lines {
		all = append(all, entry(t, l))
	}
	return all
}

func TestDecide(t *testing.T) {
	alice := Client{Principal: "User:alice", Host: "10.0.0.1"}
	for name, c := range map[string]struct {
		list   []string
		policy Policy
		client Client
		op     Operation
		kind   Kind
		name   string
		want   string
	}{
		"nothing":                   {op: Read, want: "denied: no entry allows it"},
		"nothing, everybody then":   {op: Read, policy: Policy{AllowUnlisted: true}, want: "allowed: no entry is about it, and everybody is let in then"},
		"unlisted counts by name":   {list: []string{"allow User:bob read topic carts"}, op: Read, policy: Policy{AllowUnlisted: true}, want: "allowed: no entry is about it, and everybody is let in then"},
		"listed for another":        {list: []string{"allow User:bob read topic orders"}, op: Read, policy: Policy{AllowUnlisted: true}, want: "denied: no entry allows it"},
		"listed by a prefix":        {list: []string{"deny User:bob read topic ord*"}, op: Read, policy: Policy{AllowUnlisted: true}, want: "denied: no entry allows it"},
		"listed by all":             {list: []string{"allow User:bob read topic *"}, op: Read, policy: Policy{AllowUnlisted: true}, want: "denied: no entry allows it"},
		"literal":                   {list: []string{"allow User:alice read topic orders"}, op: Read, want: "allowed by the entry allow read on topic orders to User:alice from *"},
		"literal is no prefix":      {list: []string{"allow User:alice read topic order"}, op: Read, want: "denied: no entry allows it"},
		"prefix":                    {list: []string{"allow User:alice read topic ord*"}, op: Read, want: "allowed by the entry allow read on topic ord* to User:alice from *"},
		"prefix that is the name":   {list: []string{"allow User:alice read topic orders*"}, op: Read, want: "allowed by the entry allow read on topic orders* to User:alice from *"},
		"prefix that is longer":     {list: []string{"allow User:alice read topic orders-eu*"}, op: Read, want: "denied: no entry allows it"},
		"any name":                  {list: []string{"allow User:alice read topic *"}, op: Read, want: "allowed by the entry allow read on topic * to User:alice from *"},
		"any principal":             {list: []string{"allow User:* read topic orders"}, op: Read, want: "allowed by the entry allow read on topic orders to User:* from *"},
		"host":                      {list: []string{"allow User:alice read topic orders from 10.0.0.1"}, op: Read, want: "allowed by the entry allow read on topic orders to User:alice from 10.0.0.1"},
		"another host":              {list: []string{"allow User:alice read topic orders from 10.0.0.2"}, op: Read, want: "denied: no entry allows it"},
		"another kind":              {list: []string{"allow User:alice read group orders"}, op: Read, want: "denied: no entry allows it"},
		"deny wins":                 {list: []string{"allow User:alice all topic orders", "deny User:* read topic *"}, op: Read, want: "denied by the entry deny read on topic * to User:* from *"},
		"deny by a prefix wins":     {list: []string{"allow User:alice read topic orders", "deny User:alice read topic o*"}, op: Read, want: "denied by the entry deny read on topic o* to User:alice from *"},
		"deny of something else":    {list: []string{"allow User:alice read topic orders", "deny User:alice write topic orders"}, op: Read, want: "allowed by the entry allow read on topic orders to User:alice from *"},
		"deny elsewhere":            {list: []string{"allow User:alice read topic orders", "deny User:alice read topic orders from 10.0.0.2"}, op: Read, want: "allowed by the entry allow read on topic orders to User:alice from *"},
		"deny of all":               {list: []string{"allow User:alice read topic orders", "deny User:alice all topic orders"}, op: Read, want: "denied by the entry deny all on topic orders to User:alice from *"},
		"super user":                {list: []string{"deny User:alice all topic orders"}, policy: Policy{SuperUsers: []string{"User:alice"}}, op: Read, want: "allowed: a super user"},
		"super user is no wildcard": {policy: Policy{SuperUsers: []string{"User:*"}}, op: Read, want: "denied: no entry allows it"},
		"read implies describe":     {list: []string{"allow User:alice read topic orders"}, op: Describe, want: "allowed by the entry allow read on topic orders to User:alice from *"},
		"write implies describe":    {list: []string{"allow User:alice write topic orders"}, op: Describe, want: "allowed by the entry allow write on topic orders to User:alice from *"},
		"delete implies describe":   {list: []string{"allow User:alice delete topic orders"}, op: Describe, want: "allowed by the entry allow delete on topic orders to User:alice from *"},
		"alter implies describe":    {list: []string{"allow User:alice alter topic orders"}, op: Describe, want: "allowed by the entry allow alter on topic orders to User:alice from *"},
		"create implies nothing":    {list: []string{"allow User:alice create topic orders"}, op: Describe, want: "denied: no entry allows it"},
		"describe implies no read":  {list: []string{"allow User:alice describe topic orders"}, op: Read, want: "denied: no entry allows it"},
		"no read denies no look":    {list: []string{"allow User:alice describe topic orders", "deny User:alice read topic orders"}, op: Describe, want: "allowed by the entry allow describe on topic orders to User:alice from *"},
		"alter configs":             {list: []string{"allow User:alice alter_configs topic orders"}, op: DescribeConfigs, want: "allowed by the entry allow alter_configs on topic orders to User:alice from *"},
		"alter configs, describe":   {list: []string{"allow User:alice alter_configs topic orders"}, op: Describe, want: "denied: no entry allows it"},
		"alter, describe configs":   {list: []string{"allow User:alice alter topic orders"}, op: DescribeConfigs, want: "denied: no entry allows it"},
		"cluster":                   {list: []string{"allow User:alice describe cluster kafka-cluster"}, op: Describe, kind: Cluster, name: ClusterName, want: "allowed by the entry allow describe on cluster kafka-cluster to User:alice from *"},
		"who is called *":           {list: []string{"allow User:* read topic orders", "deny User:alice read topic orders"}, client: Client{Principal: "User:*"}, op: Read, want: "allowed by the entry allow read on topic orders to User:* from *"},
		"a group called *":          {list: []string{"allow User:alice read group *"}, op: Read, kind: Group, name: "*", want: "allowed by the entry allow read on group * to User:alice from *"},
		"a group without a name":    {list: []string{"allow User:alice read group *", "deny User:alice read group a*"}, op: Read, kind: Group, name: "-", want: "allowed by the entry allow read on group * to User:alice from *"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.client == (Client{}) {
				c.client = alice
			}
			if c.kind == "" {
				c.kind, c.name = Topic, "orders"
			}
			if c.name == "-" {
				c.name = ""
			}
			if got := NewRules(c.policy, entriesOf(t, c.list...)).Decide(c.client, c.op, c.kind, c.name).String(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestDecideAny(t *testing.T) {
	alice := Client{Principal: "User:alice", Host: "10.0.0.1"}
	for name, c := range map[string]struct {
		list   []string
		policy Policy
		want   Verdict
	}{
		"nothing":                     {want: Denied},
		"nothing, everybody then":     {policy: Policy{AllowUnlisted: true}, want: Allowed},
		"one topic":                   {list: []string{"allow User:alice write topic orders"}, want: Allowed},
		"only from elsewhere":         {list: []string{"allow User:alice write topic orders from 10.0.0.2"}, want: Denied},
		"of another":                  {list: []string{"allow User:bob write topic orders"}, want: Denied},
		"all is implied by nothing":   {list: []string{"allow User:alice alter topic orders"}, want: Denied},
		"all of it":                   {list: []string{"allow User:alice all topic orders"}, want: Allowed},
		"that one is denied":          {list: []string{"allow User:alice write topic orders", "deny User:* write topic orders"}, want: Denied},
		"that prefix is denied":       {list: []string{"allow User:alice write topic orders*", "deny User:alice write topic orders*"}, want: Denied},
		"a name of a denied prefix":   {list: []string{"allow User:alice write topic orders", "deny User:alice write topic o*"}, want: Denied},
		"a prefix of a denied prefix": {list: []string{"allow User:alice write topic orders*", "deny User:alice write topic o*"}, want: Denied},
		"a name in a prefix":          {list: []string{"allow User:alice write topic orders*", "deny User:alice write topic orders"}, want: Allowed},
		"another one is left":         {list: []string{"allow User:alice write topic orders", "allow User:alice write topic carts", "deny User:alice write topic o*"}, want: Allowed},
		"all but one prefix":          {list: []string{"allow User:alice write topic *", "deny User:alice write topic o*"}, want: Allowed},
		"everything is denied":        {list: []string{"allow User:alice write topic orders", "deny User:* all topic *"}, want: Denied},
		"super user":                  {list: []string{"deny User:* all topic *"}, policy: Policy{SuperUsers: []string{"User:alice"}}, want: Allowed},
		"Kafka asks by that name":     {list: []string{"allow User:bob write topic hardcode"}, policy: Policy{AllowUnlisted: true}, want: Denied},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NewRules(c.policy, entriesOf(t, c.list...)).DecideAny(alice, Write, Topic); got.Verdict != c.want {
				t.Error(got)
			}
		})
	}
}

// twin is Kafka's rule in as many words, entry by entry.
func twin(p Policy, all []spillway.ACL, c Client, op Operation, kind Kind, name string) Verdict {
	for _, s := range p.SuperUsers {
		if s == c.Principal {
			return Allowed
		}
	}
	listed, allowed := false, false
	for _, e := range all {
		about := e.Name == name || e.Name == "*"
		if e.Pattern == "PREFIXED" {
			about = strings.HasPrefix(name, e.Name)
		}
		if e.Resource != string(kind) || !about {
			continue
		}
		listed = true
		if e.Principal != c.Principal && e.Principal != "User:*" || e.Host != c.Host && e.Host != "*" {
			continue
		}
		ops := map[Operation]bool{Operation(e.Operation): true}
		if e.Permission == "ALLOW" {
			switch e.Operation {
			case "READ", "WRITE", "DELETE", "ALTER":
				ops[Describe] = true
			case "ALTER_CONFIGS":
				ops[DescribeConfigs] = true
			}
		}
		if !ops[op] && e.Operation != "ALL" {
			continue
		}
		if e.Permission == "DENY" {
			return Denied
		}
		allowed = true
	}
	if allowed || !listed && p.AllowUnlisted {
		return Allowed
	}
	return Denied
}

// twinAny is Kafka's Authorizer.authorizeByResourceType, line by line.
func twinAny(p Policy, all []spillway.ACL, c Client, op Operation, kind Kind) Verdict {
	if twin(p, all, c, op, kind, "hardcode") == Allowed {
		return Allowed
	}
	denied, allowed := map[string]map[string]bool{"LITERAL": {}, "PREFIXED": {}}, map[string]map[string]bool{"LITERAL": {}, "PREFIXED": {}}
	everything := false
	for _, e := range all {
		if e.Resource != string(kind) || e.Host != c.Host && e.Host != "*" || e.Principal != c.Principal && e.Principal != "User:*" ||
			e.Operation != string(op) && e.Operation != "ALL" {
			continue
		}
		if e.Permission == "DENY" {
			if e.Pattern == "LITERAL" && e.Name == "*" {
				return Denied
			}
			denied[e.Pattern][e.Name] = true
			continue
		}
		if e.Pattern == "LITERAL" && e.Name == "*" {
			everything = true
			continue
		}
		allowed[e.Pattern][e.Name] = true
	}
	if everything {
		return Allowed
	}
	for pattern, names := range allowed {
		for name := range names {
			if pattern == "LITERAL" && denied["LITERAL"][name] {
				continue
			}
			dominated := false
			for i := range name {
				dominated = dominated || denied["PREFIXED"][name[:i+1]]
			}
			if !dominated {
				return Allowed
			}
		}
	}
	return Denied
}

var (
	someNames      = []string{"o", "or", "ord", "orders", "orders-eu", "carts", "hard", "hardcode", "*"}
	somePrincipals = []string{"User:alice", "User:bob", "User:*"}
	someHosts      = []string{"10.0.0.1", "10.0.0.2"}
	someOperations = []string{"READ", "WRITE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE", "ALL", "CREATE"}
)

func anyEntry(t *rapid.T) spillway.ACL {
	return spillway.ACL{
		Resource:   rapid.SampledFrom([]string{"TOPIC", "TOPIC", "GROUP", "CLUSTER"}).Draw(t, "kind"),
		Pattern:    rapid.SampledFrom([]string{"LITERAL", "PREFIXED"}).Draw(t, "pattern"),
		Name:       rapid.SampledFrom(someNames).Draw(t, "name"),
		Principal:  rapid.SampledFrom(somePrincipals).Draw(t, "principal"),
		Host:       rapid.SampledFrom(append(someHosts, "*", "*")).Draw(t, "host"),
		Operation:  rapid.SampledFrom(someOperations).Draw(t, "operation"),
		Permission: rapid.SampledFrom([]string{"ALLOW", "ALLOW", "DENY"}).Draw(t, "permission"),
	}
}

func TestRulesEqualTheirTwin(t *testing.T) {
	verdicts := make(map[Verdict]int)
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{AllowUnlisted: rapid.Bool().Draw(t, "unlisted")}
		if rapid.IntRange(0, 9).Draw(t, "super") == 0 {
			p.SuperUsers = []string{"User:bob"}
		}
		all := rapid.SliceOfN(rapid.Custom(anyEntry), 0, 12).Draw(t, "entries")
		r := NewRules(p, all)
		for range 20 {
			c := Client{Principal: rapid.SampledFrom(somePrincipals).Draw(t, "who"), Host: rapid.SampledFrom(someHosts).Draw(t, "where")}
			op := Operation(rapid.SampledFrom(someOperations[:8]).Draw(t, "what"))
			kind := rapid.SampledFrom([]Kind{Topic, Topic, Group, Cluster}).Draw(t, "of")
			name := rapid.SampledFrom(append(someNames, "", "orders-us", "x")).Draw(t, "which")
			got, want := r.Decide(c, op, kind, name), twin(p, all, c, op, kind, name)
			if got.Verdict != want {
				t.Fatalf("%v %s %s %q: %s", c, op, kind, name, got)
			}
			verdicts[want]++
			if got, want := r.DecideAny(c, op, kind), twinAny(p, all, c, op, kind); got.Verdict != want {
				t.Fatalf("%v %s any %s: %s", c, op, kind, got)
			}
		}
	})
	if verdicts[Allowed] < 50 || verdicts[Denied] < 50 {
		t.Errorf("the random lists say little: %v", verdicts)
	}
}

// Nothing is allocated for a decision, however many entries there are (invariant E).
func TestDecidingCostsLittle(t *testing.T) {
	r := manyRules()
	c := Client{Principal: "User:user-77", Host: "10.0.0.1"}
	if n := testing.AllocsPerRun(100, func() {
		if d := r.Decide(c, Write, Topic, "topic-77"); d.Verdict != Allowed {
			t.Fatal(d)
		}
		if d := r.Decide(c, Write, Topic, "topic-78"); d.Verdict != Denied {
			t.Fatal(d)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// manyRules are of 20,000 users, each with a topic and a prefix, who all may read one.
func manyRules() *Rules {
	var all []spillway.ACL
	for i := range 20_000 {
		user := fmt.Sprintf("User:user-%d", i)
		all = append(all,
			spillway.ACL{Resource: "TOPIC", Pattern: "LITERAL", Name: fmt.Sprintf("topic-%d", i), Principal: user, Host: "*", Operation: "WRITE", Permission: "ALLOW"},
			spillway.ACL{Resource: "TOPIC", Pattern: "PREFIXED", Name: fmt.Sprintf("team-%d.", i), Principal: user, Host: "*", Operation: "ALL", Permission: "ALLOW"},
			spillway.ACL{Resource: "TOPIC", Pattern: "LITERAL", Name: "*", Principal: user, Host: "*", Operation: "DESCRIBE", Permission: "ALLOW"})
	}
	return NewRules(Policy{}, all)
}

func BenchmarkDecide(b *testing.B) {
	r := manyRules()
	c := Client{Principal: "User:user-77", Host: "10.0.0.1"}
	b.ReportAllocs()
	for b.Loop() {
		r.Decide(c, Write, Topic, "team-77.orders")
	}
}

func TestHostOf(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:9092": "10.0.0.1", "[::1]:9092": "0:0:0:0:0:0:0:1", "[::ffff:10.0.0.1]:1": "10.0.0.1",
		"[2001:db8::a:0:1]:1": "2001:db8:0:0:0:a:0:1", "[fe80::1%eth0]:1": "fe80:0:0:0:0:0:0:1%eth0",
	} {
		if got := HostOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
	if got := HostOf(&net.UnixAddr{Name: "/tmp/x"}); got != "" {
		t.Error(got)
	}
}
