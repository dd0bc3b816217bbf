//go:build e2e

package federation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/authorization"
	"spillway/federation/gatewaytest"
	"spillway/federation/router"
	cluster "spillway/tests/cluster/kafka"
)

// A real broker with the StandardAuthorizer and a gateway before it are asked the same by the
// same users, under random lists: what is refused, what is listed and what is hidden is equal,
// where everybody may do what no entry is about, and where nobody may.
func TestRealKafkaRights(t *testing.T) {
	for name, unlisted := range map[string]bool{"nobody may what is not listed": false, "everybody may what is not listed": true} {
		t.Run(name, func(t *testing.T) { gatewayEqualsBroker(t, unlisted) })
	}
}

// rightsRounds is how many lists are tried, rightsWarm how many are of few entries.
const (
	rightsRounds = 40
	rightsWarm   = 8
)

func gatewayEqualsBroker(t *testing.T, unlisted bool) {
	const site = "kafka-4.3.1"
	o := gatewaytest.RealSitesWith(t, func(c *cluster.Config) {
		c.Users["alice"], c.Users["bob"], c.Users["carol"] = "alice's", "bob's", "carol's"
		c.SuperUsers = append(c.SuperUsers, "carol")
		c.Properties = map[string]string{"allow.everyone.if.no.acl.found": strconv.FormatBool(unlisted)}
	}, map[string]int32{"orders": 1, "carts": 1}, "4.3.1")
	f := newFront(t)
	f.write("alice", "bob", "carol")
	if _, err := f.users.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Group = namesTransactions
	var looks atomic.Int64
	o.Gateway = func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		c.Router.Administration = router.TopicAdministration
		c.Authorization = &authorization.Config{
			Policy: authorization.Policy{SuperUsers: []string{"User:carol"}, AllowUnlisted: unlisted}, Every: 10 * time.Millisecond,
			Looked: func(_ spillway.SiteID, err error, _ []spillway.SiteID) {
				if err == nil {
					looks.Add(1)
				}
			},
		}
	}
	w := gatewaytest.Start(t, o)
	names, groups := []string{"carts", "orders"}, []string{"buyers", "sellers"}
	ids := make(map[string][16]byte)
	md, err := w.Direct[site].Metadata(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		ids[name] = md.Topics[name].ID
	}
	admin := w.Direct[site].Admin()
	for _, group := range groups {
		positions := map[spillway.TopicPartition]broker.GroupOffset{{Topic: "carts"}: {LeaderEpoch: -1}, {Topic: "orders"}: {LeaderEpoch: -1}}
		if err := admin.CommitGroupOffsets(within(t, soon), group, positions); err != nil {
			t.Fatal(err)
		}
	}
	type pair struct{ gateway, broker *asker }
	users := make(map[string]pair)
	for _, who := range []string{"alice", "bob", "carol"} {
		one := func(address string, ids map[string][16]byte) *asker {
			return &asker{t: t, conn: login(t, address, who, who+"'s"), ids: ids, topics: names, groups: groups, transactions: someTransactions}
		}
		users[who] = pair{one(w.Addrs[0], virtualIDs(w, names)), one(o.Real[site].Config.Bootstrap[0], ids)}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	var now []spillway.ACL
	asked, refused := 0, 0
	for round := range rightsRounds {
		now = replaceACLs(t, admin, now, randomACLs(random, round))
		seen := looks.Load()
		gatewaytest.Eventually(t, "the gateway has read the list", func() bool { return looks.Load() >= seen+2 })
		for who, u := range users {
			want := make(map[string]string)
			for _, q := range u.broker.questions() {
				want[q.name] = settled(q)
			}
			for _, q := range u.gateway.questions() {
				expected, known := want[q.name]
				if !known {
					t.Fatalf("the broker has no %s", q.name)
				}
				expected = ofGuessedIDs(q.name, expected, want["Metadata by name"], names)
				asked++
				refused += strings.Count(expected, " no-")
				if got := settled(q); got != expected {
					t.Errorf("seed %d, round %d: %s as %s:\n  gateway %s\n  broker  %s\n  list    %v", seed, round, q.name, who, got, expected, now)
				}
			}
		}
		if t.Failed() {
			return // one list is enough to look at
		}
	}
	if asked < rightsRounds*3*20 || refused < asked/4 {
		t.Errorf("%d questions and %d refusals say little", asked, refused)
	}
	fmt.Printf("| rights, unlisted allowed: %t | %d lists | %d questions | %d refusals |\n", unlisted, rightsRounds, asked, refused)
}

// settled is the answer once it is not to come later: what a broker keeps transactions in it
// makes when it is first asked, and a gateway follows it.
func settled(q question) (answer string) {
	for until := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		if answer = q.ask(); !strings.Contains(answer, " later") || time.Now().After(until) {
			return answer
		}
	}
}

// ofGuessedIDs is what a gateway answers where a broker says that a topic is there which the
// client may not know of: ids of brokers cannot be guessed, virtual ones can.
func ofGuessedIDs(question, answer, byName string, names []string) string {
	if !strings.HasSuffix(question, " by id") {
		return answer
	}
	parts := strings.Split(answer, ", ")
	for i, part := range parts {
		for _, name := range names {
			if slices.Contains(strings.Fields(part), name) && strings.Contains(byName, name+" no-id no-topic") {
				parts[i] = strings.Replace(strings.TrimSuffix(part, " to -1"), " no-topic", " unknown-id", 1)
			}
		}
	}
	return sorted(parts)
}

// replaceACLs returns when the broker decides by the new list: what it lists is what it
// decides by.
func replaceACLs(t *testing.T, admin broker.Admin, old, list []spillway.ACL) []spillway.ACL {
	t.Helper()
	ctx := within(t, soon)
	if err := admin.DeleteACLs(ctx, old); err != nil {
		t.Fatal(err)
	}
	if err := admin.CreateACLs(ctx, list); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Eventually(t, "the broker has the list", func() bool {
		has, err := admin.AllACLs(context.WithoutCancel(ctx))
		if err != nil {
			t.Fatal(err)
		}
		return slices.Equal(has, list)
	})
	return list
}

// randomACLs are sorted, each once.
func randomACLs(random *rand.Rand, round int) (list []spillway.ACL) {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	n := random.IntN(14)
	if round < rightsWarm {
		n = round / 2
	}
	for range n {
		e := spillway.ACL{
			Resource: pick("TOPIC", "TOPIC", "TOPIC", "GROUP", "GROUP", "TRANSACTIONAL_ID", "TRANSACTIONAL_ID", "CLUSTER"), Pattern: pick("LITERAL", "LITERAL", "PREFIXED"),
			Principal: pick("User:alice", "User:alice", "User:bob", "User:*", "User:carol"), Host: pick("*", "*", "*", "127.0.0.1", "10.1.2.3"),
			Permission: pick("ALLOW", "ALLOW", "ALLOW", "DENY"),
		}
		switch e.Resource {
		case "TOPIC":
			e.Name = pick("orders", "carts", "ord", "c", "hard", "nowhere")
			e.Operation = pick("READ", "WRITE", "CREATE", "DESCRIBE", "DELETE", "ALTER", "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "ALL")
		case "GROUP":
			e.Name = pick("buyers", "sellers", "buy", "s")
			e.Operation = pick("READ", "READ", "DESCRIBE", "DELETE", "ALL")
		case "TRANSACTIONAL_ID":
			e.Name = pick("app-1", "job-1", "app", "j")
			e.Operation = pick("WRITE", "WRITE", "DESCRIBE", "ALL")
		default:
			e.Name, e.Pattern = authorization.ClusterName, "LITERAL"
			e.Operation = pick("DESCRIBE", "IDEMPOTENT_WRITE", "CLUSTER_ACTION", "CREATE", "ALL")
		}
		if e.Pattern == "LITERAL" && e.Resource != "CLUSTER" && random.IntN(4) == 0 {
			e.Name = "*"
		}
		list = append(list, e)
	}
	slices.SortFunc(list, spillway.ACL.Compare)
	return slices.Compact(list)
}
