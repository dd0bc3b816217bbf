package mirror

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/selection"
)

// withACLs reaches an embedded site as one that has an authorizer: it keeps entries,
// and enforces none.
func withACLs(t *testing.T, c *embedded.Cluster) broker.Cluster {
	t.Helper()
	can := *embedded.Capabilities(false)
	can.ACLs = true
	k, err := kafka.New(kafka.Config{Site: c.Site(), Bootstrap: c.Addresses(), Capabilities: &can})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func allow(resource, pattern, name, principal, operation string) spillway.ACL {
	return spillway.ACL{Resource: resource, Pattern: pattern, Name: name, Principal: principal, Host: "*", Operation: operation, Permission: "ALLOW"}
}

// rights is a pair of sites whose entries and quotas are compared.
type rights struct {
	*testing.T
	east, west broker.Cluster
}

func (r *rights) acls(c broker.Cluster) []spillway.ACL {
	r.Helper()
	all, err := c.Admin().ACLs(testContext(r.T))
	if err != nil {
		r.Fatal(err)
	}
	return all
}

func (r *rights) awaitACLs(what string, want ...spillway.ACL) {
	r.Helper()
	slices.SortFunc(want, spillway.ACL.Compare)
	eventually(r.T, what, func() bool { return slices.Equal(r.acls(r.west), want) })
}

func (r *rights) create(c broker.Cluster, entries ...spillway.ACL) {
	r.Helper()
	if err := c.Admin().CreateACLs(testContext(r.T), entries); err != nil {
		r.Fatal(err)
	}
}

func (r *rights) delete(c broker.Cluster, entries ...spillway.ACL) {
	r.Helper()
	if err := c.Admin().DeleteACLs(testContext(r.T), entries); err != nil {
		r.Fatal(err)
	}
}

func (r *rights) quota(c broker.Cluster, user string, values map[string]*float64) {
	r.Helper()
	if err := c.Admin().SetQuota(testContext(r.T), broker.NewQuotaEntity(map[string]*string{"user": &user}), values); err != nil {
		r.Fatal(err)
	}
}

func (r *rights) awaitQuota(user string, want map[string]float64) {
	r.Helper()
	eventually(r.T, "the quota of "+user+" is as it should be", func() bool {
		all, err := r.west.Admin().Quotas(testContext(r.T))
		if err != nil {
			r.Fatal(err)
		}
		return maps.Equal(all[broker.NewQuotaEntity(map[string]*string{"user": &user})], want)
	})
}

// Entries about what a flow means follow the source, writers' ones too, over a
// restart of the mirror. Those that others made stay, and the fence stays where it is.
func TestRightsAreCarried(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1, "other": 1}), embeddedSite(t, "west", nil)
	carryRights(&rights{t, withACLs(t, east), withACLs(t, west)})
}

func carryRights(r *rights) {
	r.Helper()
	write := allow(spillway.ACLTopic, spillway.ACLLiteral, "orders", "User:shop", "WRITE")
	every := allow(spillway.ACLTopic, spillway.ACLLiteral, "*", "User:audit", "READ")
	prefix := allow(spillway.ACLTopic, spillway.ACLPrefixed, "orders", "User:shop", "DESCRIBE")
	group := allow(spillway.ACLGroup, spillway.ACLLiteral, "app-1", "User:shop", "READ")
	other := allow(spillway.ACLTopic, spillway.ACLLiteral, "other", "User:shop", "READ")
	mine := allow(spillway.ACLTopic, spillway.ACLLiteral, "orders", "User:operator", "ALL")
	fence := spillway.ACL{Resource: spillway.ACLTopic, Pattern: spillway.ACLLiteral, Name: "orders", Principal: "User:gateway", Host: "*", Operation: "WRITE", Permission: spillway.ACLDeny}
	auditOrders := every
	auditOrders.Name = "orders"
	r.create(r.east, write, every, prefix, group, other, fence)
	r.create(r.west, mine)
	rate, more := 1000.0, 2000.0
	r.quota(r.east, "shop", map[string]*float64{"producer_byte_rate": &rate, "consumer_byte_rate": &rate})
	r.quota(r.west, "shop", map[string]*float64{"consumer_byte_rate": &more})

	config := Config{Local: r.west, ACLs: true, Quotas: true, PrincipalsExcluded: []string{"User:gateway", "User:mirror"}}
	config.Events.Metadata = func(i MetadataInfo) {
		if i.Problem != "" {
			r.Errorf("problem of %s %s: %s", i.Kind, i.Name, i.Problem)
		}
	}
	eastM := testMirror(r.T, r.east, r.west)
	assign(r.T, eastM, ordersAssignment("", 1))
	m := testMirrorWith(r.T, config, r.east)
	assign(r.T, m, ordersAssignment("east", 1))
	r.awaitACLs("the entries are carried", write, auditOrders, prefix, group, mine)
	r.awaitQuota("shop", map[string]float64{"producer_byte_rate": 1000, "consumer_byte_rate": 2000})
	m.Close()

	r.delete(r.east, write, every)
	r.create(r.east, mine)
	r.quota(r.east, "shop", map[string]*float64{"producer_byte_rate": nil})
	m = testMirrorWith(r.T, config, r.east)
	assign(r.T, m, ordersAssignment("east", 1))
	r.awaitACLs("what the source took back is gone", prefix, group, mine)
	r.awaitQuota("shop", map[string]float64{"consumer_byte_rate": 2000})
	r.delete(r.east, mine, prefix)
	r.awaitACLs("what somebody else made stays", group, mine)
	m.Close()
}

// After a move an entry that a person takes back at the new site is taken back at
// the old one, though it was made there by hand.
func TestRightsFollowTheShareHome(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	eastSite, westSite := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	r := &rights{t, withACLs(t, eastSite), withACLs(t, westSite)}
	entry := allow(spillway.ACLTopic, spillway.ACLLiteral, "orders", "User:shop", "WRITE")
	stranger := allow(spillway.ACLTopic, spillway.ACLLiteral, "carts", "User:shop", "WRITE") // of no flow here
	r.create(r.east, entry, stranger)
	eastM := testMirrorWith(t, Config{Local: r.east, ACLs: true}, r.west)
	westM := testMirrorWith(t, Config{Local: r.west, ACLs: true}, r.east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, eastSite.Addresses(), 7).write(ctx, "orders", 1, 5); err != nil {
		t.Fatal(err)
	}
	r.awaitACLs("the entry is carried", entry)
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, r.east, eastM, westM, ordersAssignment("", 1)) })
	cutover := virtualEnds(t, r.east, eastM, ordersAssignment("", 1))
	if _, err := westM.CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	if _, err := westM.OpenEpoch(ctx, ordersShare, 2, 5, cutover); err != nil {
		t.Fatal(err)
	}
	terms := []Term{{Epoch: 1, Site: "east"}, term(2, "west", cutover)}
	assign(t, westM, ordersAssignment("", 2, terms...))
	r.delete(r.west, entry)
	assign(t, eastM, ordersAssignment("west", 2, terms...))
	eventually(t, "it is taken back at the old site", func() bool { return slices.Equal(r.acls(r.east), []spillway.ACL{stranger}) })
}

// A run reports which users a person has to bring to the target, and a preview shows
// the rights that it would carry.
func TestARunCarriesRightsUnderOtherNames(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	r := &rights{t, withACLs(t, east), withACLs(t, west)}
	r.create(r.east, allow(spillway.ACLTopic, spillway.ACLPrefixed, "ord", "User:shop", "WRITE"), allow(spillway.ACLGroup, spillway.ACLPrefixed, "app", "User:shop", "READ"))
	for user, site := range map[string]*embedded.Cluster{"shop": east, "both": east, "west-only": west} {
		addUser(t, site, user)
	}
	addUser(t, west, "both")
	topics, err := selection.Parse("orders", "", []string{"(.*)=east.$1"})
	if err != nil {
		t.Fatal(err)
	}
	c := RunConfig{From: r.east, To: r.west, Topics: topics, Groups: regexp.MustCompile("app.*"), UntilCaughtUp: true, Mirror: Config{ACLs: true, Quotas: true}}
	want := []spillway.ACL{
		allow(spillway.ACLGroup, spillway.ACLPrefixed, "app", "User:shop", "READ"),
		allow(spillway.ACLTopic, spillway.ACLLiteral, "east.orders", "User:shop", "WRITE"),
	}
	would, err := PreviewRun(ctx, c)
	if err != nil || !slices.Equal(would.CreateACLs, want) || len(would.MissingUsers) != 1 || len(r.acls(r.west)) != 0 {
		t.Errorf("%+v, %v", would, err)
	}
	report, err := Run(ctx, c)
	if err != nil || !slices.Equal(r.acls(r.west), want) {
		t.Errorf("%v, %v", r.acls(r.west), err)
	}
	if len(report.MissingUsers) != 1 || report.MissingUsers[0].User != "shop" || !strings.HasPrefix(report.MissingUsers[0].Mechanisms[0], "SCRAM-SHA-") {
		t.Errorf("users that are missing: %+v, %s", report.MissingUsers, report.UsersUnknown)
	}
}

// addUser gives a user SCRAM credentials.
func addUser(t *testing.T, site *embedded.Cluster, user string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(site.Addresses()...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	u := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
	u.Name, u.Mechanism, u.Iterations, u.Salt, u.SaltedPassword = user, 1, 4096, []byte("salt"), []byte("salted password")
	req.Upsertions = append(req.Upsertions, u)
	resp, err := req.RequestWith(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Results[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
}
