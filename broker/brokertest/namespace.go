package brokertest

import (
	"slices"
	"strings"
	"testing"

	"spillway/broker"
	"spillway/broker/namespace"
)

// CheckNamespace looks, from outside, whether anything was left there that begins with none of
// some namespaces, and whether each of them has something; others are the topics of others.
func CheckNamespace(t *testing.T, outside broker.Cluster, of []namespace.Namespace, others ...string) {
	t.Helper()
	m, err := outside.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	topics, groups := map[namespace.Namespace]int{}, map[namespace.Namespace]int{}
	within := func(name string, counts map[namespace.Namespace]int) bool {
		i := slices.IndexFunc(of, func(n namespace.Namespace) bool { return strings.HasPrefix(name, string(n)) })
		if i >= 0 {
			counts[of[i]]++
		}
		return i >= 0
	}
	for name, topic := range m.Topics {
		if !within(name, topics) && !topic.Internal && !slices.Contains(others, name) {
			t.Errorf("topic %s is outside of %q", name, of)
		}
	}
	listed, err := outside.Admin().ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range listed {
		if !within(g.ID, groups) {
			t.Errorf("group %s is outside of %q", g.ID, of)
		}
	}
	for _, n := range of {
		if topics[n] == 0 || groups[n] == 0 {
			t.Errorf("%q has %d topics and %d groups", n, topics[n], groups[n])
		}
	}
}
