package policies

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

var update = flag.Bool("update", false, "write configs/consul anew")

const folder = "../../configs/consul"

// The files are what the command prints for the example: nobody mends one of them alone.
func TestPolicyFiles(t *testing.T) {
	var want []string
	for _, role := range Roles() {
		file := filepath.Join(folder, string(role)+".hcl")
		text := Policy(role, ForExample)
		want = append(want, filepath.Base(file))
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != text {
			t.Errorf("%s is not what the role %s needs; run go test ./federation/policies -update", file, role)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(want, e.Name()) {
			t.Errorf("%s/%s is of no role", folder, e.Name())
		}
	}
}

// covers finds the rule that decides about a key: the longest that fits, as in Consul.
func covers(rules []coordination.Rule, key string) (found coordination.Rule) {
	for _, r := range rules {
		if (r.Path == key || r.Prefix && strings.HasPrefix(key, r.Path)) && len(r.Path) > len(found.Path) {
			found = r
		}
	}
	return found
}

// A token with several policies may do what each of them allows: none that lies below
// another one may allow less, or the longer one would win and take a right away.
func TestRolesGoTogether(t *testing.T) {
	for _, a := range Roles() {
		for _, b := range Roles() {
			both := Together([]Role{a, b}, ForExample)
			for _, r := range append(Of(a, ForExample), Of(b, ForExample)...) {
				if got := covers(both, r.Path); r.Write && !got.Write {
					t.Errorf("%s with %s: %s is taken away by %s", a, b, Stanza(r), Stanza(got))
				}
			}
			for _, r := range both {
				for _, below := range both {
					if r.Prefix && below.Path != r.Path && strings.HasPrefix(below.Path, r.Path) && r.Write && !below.Write {
						t.Errorf("%s with %s: %s takes from %s", a, b, Stanza(below), Stanza(r))
					}
				}
			}
		}
	}
}

// What would be dangerous in the wrong hands, said once more and apart from the table.
func TestWhoMayNot(t *testing.T) {
	may := map[string][]Role{ // write
		"spillway/shop/shares/orders/0":              {Control, Operator},
		"spillway/shop/gateways/east-1":              {Gateway},
		"spillway/shop/gateways/west-1":              nil,
		"spillway/shop/mirrors/east/east-1":          {Mirror},
		"spillway/shop/mirrors/west/west-1":          nil,
		"spillway/shop/writers/east":                 {Mirror},
		"spillway/shop/writers/west":                 nil,
		"spillway/shop/ballots/east":                 {Control},
		"spillway/shop/ballots/west":                 nil,
		"spillway/shop/layout":                       {Control},
		"spillway/shop/history/orders/0/0000000002":  {Control},
		"spillway/shop/automation":                   {Operator},
		"spillway/shop/drained/east":                 {Operator},
		"spillway/shop/replays/orders/0":             {Operator},
		"spillway/shop/audit/20260304T120000-abc":    {Operator},
		"spillway/other/shares/orders/0":             nil,
		"spillway/shop2/shares/orders/0":             nil,
		"spillway/shop/anything-else":                nil,
		"spillway/shop/client-audit/20260304T12-abc": {Gateway, Control},
	}
	for key, want := range may {
		for _, role := range Roles() {
			if got := covers(Of(role, ForExample), key).Write; got != slices.Contains(want, role) {
				t.Errorf("%s may write %s: %v", role, key, got)
			}
		}
	}
}

// Rules of one role are told apart by their reasons, in the end-to-end test and by people.
func TestReasonsAreUnique(t *testing.T) {
	for _, role := range Roles() {
		of := map[string]string{}
		for _, r := range Of(role, ForExample) {
			if other, twice := of[r.Why]; twice {
				t.Errorf("%s: %s and %s have one reason", role, other, r.Path)
			}
			of[r.Why] = r.Path
		}
	}
}

// Every key that there is has somebody who may write it, and every prefix somebody who may
// read it: a key that is new is forgotten neither here nor in the files.
func TestEveryKeyIsSomebodys(t *testing.T) {
	samples := map[reflect.Type]any{
		reflect.TypeFor[spillway.SiteID]():    ForExample.Site,
		reflect.TypeFor[spillway.GatewayID](): spillway.GatewayID(ForExample.Process),
		reflect.TypeFor[spillway.ShareID]():   spillway.ShareID{Group: "orders"},
		reflect.TypeFor[spillway.Epoch]():     spillway.Epoch(7),
		reflect.TypeFor[string]():             ForExample.Process,
		reflect.TypeFor[int]():                1,
		reflect.TypeFor[time.Time]():          time.Unix(0, 0),
	}
	keys := reflect.ValueOf(failover.Keys(ForExample.VirtualCluster))
	all, count := Together(Roles(), ForExample), 0
	for i := range keys.NumMethod() {
		name, method := keys.Type().Method(i).Name, keys.Method(i)
		if method.Type().NumOut() != 1 || method.Type().Out(0) != reflect.TypeFor[string]() {
			continue // takes keys apart
		}
		var args []reflect.Value
		for n := range method.Type().NumIn() {
			sample, ok := samples[method.Type().In(n)]
			if !ok {
				t.Fatalf("%s: no sample of %s", name, method.Type().In(n))
			}
			args = append(args, reflect.ValueOf(sample))
		}
		count++
		key := method.Call(args)[0].String()
		if rule := covers(all, key); rule.Path == "" && !holds(all, key) || !strings.HasSuffix(key, "/") && !rule.Write {
			t.Errorf("%s: no role may do anything with %s", name, key)
		}
	}
	if count < 20 {
		t.Errorf("%d keys", count)
	}
}

// holds tells whether a rule is about something below a prefix.
func holds(rules []coordination.Rule, prefix string) bool {
	return slices.ContainsFunc(rules, func(r coordination.Rule) bool {
		return strings.HasSuffix(prefix, "/") && strings.HasPrefix(r.Path, prefix)
	})
}
