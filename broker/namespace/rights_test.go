package namespace

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	literal  = kmsg.ACLResourcePatternTypeLiteral
	prefixed = kmsg.ACLResourcePatternTypePrefixed
)

// Rights on everything are rights on the namespace (KIP-290).
func TestRightsAreMade(t *testing.T) {
	for _, c := range []struct {
		kind        kmsg.ACLResourceType
		name        string
		pattern     kmsg.ACLResourcePatternType
		wantName    string
		wantPattern kmsg.ACLResourcePatternType
	}{
		{kmsg.ACLResourceTypeTopic, "orders", literal, "payments.orders", literal},
		{kmsg.ACLResourceTypeGroup, "shop-", prefixed, "payments.shop-", prefixed},
		{kmsg.ACLResourceTypeTransactionalId, "*", literal, "payments.", prefixed},
	} {
		req := kmsg.NewPtrCreateACLsRequest()
		req.Version = 3
		req.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: c.kind, ResourceName: c.name, ResourcePatternType: c.pattern, Principal: "User:a", Host: "*"}}
		body, err := payments.Request(req.Key(), 3, [][]byte{req.AppendTo(nil)})
		if err != nil {
			t.Fatal(err)
		}
		sent := kmsg.NewPtrCreateACLsRequest()
		sent.Version = 3
		if err := sent.ReadFrom(joined(body)); err != nil {
			t.Fatal(err)
		}
		if got := sent.Creations[0]; got.ResourceName != c.wantName || got.ResourcePatternType != c.wantPattern || got.Principal != "User:a" {
			t.Errorf("%+v became %+v", c, got)
		}
	}
}

func TestRightsAreListed(t *testing.T) {
	for _, c := range []struct {
		kind    kmsg.ACLResourceType
		name    string
		pattern kmsg.ACLResourcePatternType
		want    string // empty: not shown
		as      kmsg.ACLResourcePatternType
	}{
		{kmsg.ACLResourceTypeTopic, "payments.orders", literal, "orders", literal},
		{kmsg.ACLResourceTypeTopic, "payments.o", prefixed, "o", prefixed},
		{kmsg.ACLResourceTypeTopic, "orders", literal, "", 0},
		{kmsg.ACLResourceTypeTopic, "payments.*", literal, "", 0}, // a right on one topic, which cannot be
		{kmsg.ACLResourceTypeTopic, "pay", literal, "", 0},
		{kmsg.ACLResourceTypeTopic, "pay", prefixed, "*", literal},
		{kmsg.ACLResourceTypeGroup, "payments.", prefixed, "*", literal},
		{kmsg.ACLResourceTypeGroup, "*", literal, "*", literal},
		{kmsg.ACLResourceTypeCluster, "kafka-cluster", literal, "kafka-cluster", literal},
	} {
		resp := kmsg.NewPtrDescribeACLsResponse()
		resp.Version = 3
		resp.Resources = []kmsg.DescribeACLsResponseResource{{ResourceType: c.kind, ResourceName: c.name, ResourcePatternType: c.pattern}}
		body, err := payments.Response(resp.Key(), 3, resp.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		shown := kmsg.NewPtrDescribeACLsResponse()
		shown.Version = 3
		if err := shown.ReadFrom(body); err != nil {
			t.Fatal(err)
		}
		if (len(shown.Resources) == 1) != (c.want != "") {
			t.Errorf("%+v became %+v", c, shown.Resources)
			continue
		}
		if len(shown.Resources) == 1 && (shown.Resources[0].ResourceName != c.want || shown.Resources[0].ResourcePatternType != c.as) {
			t.Errorf("%+v became %+v", c, shown.Resources[0])
		}
	}
}

// A deletion of rights of which nobody has said on what would reach those of others.
func TestRightsAreDeletedByName(t *testing.T) {
	name, cluster := "*", "kafka-cluster"
	for _, c := range []struct {
		filter kmsg.DeleteACLsRequestFilter
		want   string // empty: refused
	}{
		{kmsg.DeleteACLsRequestFilter{ResourceType: kmsg.ACLResourceTypeAny, ResourceName: &name, ResourcePatternType: literal}, ""},
		{kmsg.DeleteACLsRequestFilter{ResourceType: kmsg.ACLResourceTypeTopic, ResourcePatternType: literal}, ""},
		{kmsg.DeleteACLsRequestFilter{ResourceType: kmsg.ACLResourceTypeCluster, ResourceName: &cluster, ResourcePatternType: literal}, ""},
		{kmsg.DeleteACLsRequestFilter{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: &name, ResourcePatternType: kmsg.ACLResourcePatternTypeMatch}, ""},
		{kmsg.DeleteACLsRequestFilter{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: &name, ResourcePatternType: literal}, "payments."},
	} {
		req := kmsg.NewPtrDeleteACLsRequest()
		req.Version = 3
		req.Filters = []kmsg.DeleteACLsRequestFilter{c.filter}
		body, err := payments.Request(req.Key(), 3, [][]byte{req.AppendTo(nil)})
		if c.want == "" {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%+v: %v", c.filter, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		sent := kmsg.NewPtrDeleteACLsRequest()
		sent.Version = 3
		if err := sent.ReadFrom(joined(body)); err != nil {
			t.Fatal(err)
		}
		if f := sent.Filters[0]; *f.ResourceName != c.want || f.ResourcePatternType != prefixed {
			t.Errorf("%+v became %q, %d", c.filter, *f.ResourceName, f.ResourcePatternType)
		}
	}
}

// What else would reach beyond the namespace, or could not be answered rightly, is refused.
func TestRightsThatAreNotOfANamespace(t *testing.T) {
	name := "*"
	create := kmsg.NewPtrCreateACLsRequest()
	create.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: kmsg.ACLResourceTypeCluster, ResourceName: "kafka-cluster", ResourcePatternType: literal}}
	everything, typeless := kmsg.NewPtrDescribeACLsRequest(), kmsg.NewPtrDescribeACLsRequest()
	everything.ResourceType, everything.ResourceName = kmsg.ACLResourceTypeTopic, &name
	typeless.ResourceType, typeless.ResourceName = kmsg.ACLResourceTypeAny, &name
	for _, req := range []kmsg.Request{create, everything, typeless} {
		req.SetVersion(3)
		if _, err := payments.Request(req.Key(), 3, [][]byte{req.AppendTo(nil)}); !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
