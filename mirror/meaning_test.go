package mirror

import (
	"regexp"
	"strings"
	"testing"

	"spillway"
	"spillway/mirror/selection"
)

// What a worker says it means is understood by others as it is meant.
func TestMeaningsAreUnderstood(t *testing.T) {
	t.Parallel()
	topics, err := selection.Parse("orders|carts.*", "carts-old", []string{"(carts.*)=east.$1"})
	if err != nil {
		t.Fatal(err)
	}
	groups := regexp.MustCompile("^(?:app-.*)$")
	m := newMeanings()
	at := func(source, here string) string {
		return partitionKey(source, spillway.TopicPartition{Topic: here, Partition: 3})
	}
	for key, want := range map[string]bool{
		at("orders", "orders"):            true,
		at("carts-1", "east.carts-1"):     true,
		at("carts-1", "carts-1"):          false, // it would give it another name
		at("carts-old", "east.carts-old"): false,
		at("stock", "stock"):              false,
		groupKey("app-1"):                 true,
		groupKey("app-1/3>4"):             true,
		groupKey("other"):                 false,
	} {
		for range 2 { // what was found out is kept
			if got := m.covers(meaningOf(topics, groups), key); got != want {
				t.Errorf("%s: %v", key, got)
			}
		}
	}
	if m.covers(meaningOf(topics, nil), groupKey("app-1")) {
		t.Error("without groups it is there for one")
	}
	if all := meaningOf(selection.Topics{}, nil); !m.covers(all, at("stock", "stock")) || m.covers(all, at("__consumer_offsets", "__consumer_offsets")) {
		t.Error("without patterns all topics are meant, but for Kafka's own")
	}
}

// What an assignment names is what its worker means.
func TestMeaningsOfShares(t *testing.T) {
	t.Parallel()
	a := Assignment{Topics: []string{"orders", "carts-*", "a.b"}, ConsumerGroups: []string{"app-*", "one"}}
	m := newMeanings()
	at := func(source, here string) string {
		return partitionKey(source, spillway.TopicPartition{Topic: here, Partition: 3})
	}
	for key, want := range map[string]bool{
		at("orders", "orders"):        true,
		at("east.orders", "orders"):   true, // which a run had brought here
		at("orders-2", "orders-2"):    false,
		at("carts-1", "carts-1"):      true,
		at("carts", "carts"):          false,
		at("a.b", "a.b"):              true,
		at("axb", "axb"):              false,
		groupKey("app-1/3>4\n"):       true,
		groupKey("one"):               true,
		groupKey("one-more"):          false,
		"g/p/" + at("app-", "orders"): false,
	} {
		if got := m.ofShare(meaningOfShare(a), key); got != want {
			t.Errorf("%q: %v", key, got)
		}
		if !m.ofShare("", key) {
			t.Errorf("%q: who says nothing is not there for it", key)
		}
	}
	if m.ofShare(meaningOfShare(Assignment{Topics: a.Topics}), groupKey("one")) {
		t.Error("without groups it is there for one")
	}
	for range 12 {
		a.Topics = append(a.Topics, a.Topics...)
	}
	if means := meaningOfShare(a); means != "" {
		t.Errorf("%d bytes are said", len(means))
	}
}

// Whoever cannot be understood is there for nothing: others do its work.
func TestWhoCannotBeUnderstoodMeansNothing(t *testing.T) {
	t.Parallel()
	m := newMeanings()
	key := partitionKey("orders", spillway.TopicPartition{Topic: "orders"})
	for _, means := range []string{"", "{", `{"include":"("}`, `{"rename":[["(","x"]]}`, `{"include":"` + strings.Repeat("a|", meaningBytesMax) + `"}`} {
		if m.covers(means, key) {
			t.Errorf("%.40s means %s", means, key)
		}
	}
}
