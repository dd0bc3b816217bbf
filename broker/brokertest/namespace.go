package brokertest

import (
	"slices"
	"strings"
	"testing"

	"spillway/broker"
	"spillway/broker/namespace"
)

// CheckNamespace looks, from outside, whether anything was left there that does not begin with
// a namespace; others are the topics of others.
func CheckNamespace(t *testing.T, outside broker.Cluster, prefix namespace.Namespace, others ...string) {
	t.Helper()
	m, err := outside.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	within := 0
	for name, topic := range m.Topics {
		switch {
		case strings.HasPrefix(name, string(prefix)):
			within++
		case !topic.Internal && !slices.Contains(others, name):
			t.Errorf("topic %s is outside of the namespace", name)
		}
	}
	groups, err := outside.Admin().ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if !strings.HasPrefix(g.ID, string(prefix)) {
			t.Errorf("group %s is outside of the namespace", g.ID)
		}
	}
	if within == 0 || len(groups) == 0 {
		t.Errorf("%d topics and %d groups are there at all", within, len(groups))
	}
}
