package selection

import (
	"maps"
	"strings"
	"testing"
)

func parse(t *testing.T, include, exclude string, rename ...string) Topics {
	t.Helper()
	topics, err := Parse(include, exclude, rename)
	if err != nil {
		t.Fatal(err)
	}
	return topics
}

func TestNames(t *testing.T) {
	source := []string{"orders", "orders.v2", "carts", "__consumer_offsets", "__spillway_map"}
	for name, c := range map[string]struct {
		topics Topics
		want   map[string]string
		err    string
	}{
		"all":           {Topics{}, map[string]string{"orders": "orders", "orders.v2": "orders.v2", "carts": "carts"}, ""},
		"whole names":   {parse(t, "orders", ""), map[string]string{"orders": "orders"}, ""},
		"alternatives":  {parse(t, "orders|carts", ""), map[string]string{"orders": "orders", "carts": "carts"}, ""},
		"excluded":      {parse(t, ".*", "car.*"), map[string]string{"orders": "orders", "orders.v2": "orders.v2"}, ""},
		"prefix":        {parse(t, ".*", "", "(.*)=east.$1"), map[string]string{"east.orders": "orders", "east.orders.v2": "orders.v2", "east.carts": "carts"}, ""},
		"first pattern": {parse(t, ".*", "", "orders=sales", "(orders.*)=old-${1}"), map[string]string{"sales": "orders", "old-orders.v2": "orders.v2", "carts": "carts"}, ""},
		"two of a name": {parse(t, ".*", "", "orders.*=sales"), nil, "orders and orders.v2 would both be called sales"},
		"meets another": {parse(t, ".*", "", "carts=orders"), nil, "both be called orders"},
		"no name":       {parse(t, "orders", "", "orders=a/b"), nil, `"a/b"`},
		"internal":      {parse(t, "orders", "", "(.*)=__$1"), nil, `"__orders"`},
	} {
		got, err := c.topics.names(source)
		if c.err == "" && (err != nil || !maps.Equal(got, c.want)) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, %v; want %v, %s", name, got, err, c.want, c.err)
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for _, c := range []struct{ include, exclude, rename, want string }{
		{"(", "", "", "topics"},
		{".*", "(", "", "exclude"},
		{".*", "", "orders", "PATTERN=NAME"},
		{".*", "", "orders=", "PATTERN=NAME"},
		{".*", "", "(=a", "rename"},
	} {
		var rename []string
		if c.rename != "" {
			rename = []string{c.rename}
		}
		if _, err := Parse(c.include, c.exclude, rename); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
