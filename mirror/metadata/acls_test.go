package metadata

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway"
)

func entry(resource, pattern, name string) spillway.ACL {
	return spillway.ACL{Resource: resource, Pattern: pattern, Name: name, Principal: "User:app", Host: "*", Operation: "WRITE", Permission: "ALLOW"}
}

func TestWantedACLs(t *testing.T) {
	cover := Cover{
		Topic: func(name string) string {
			if strings.HasPrefix(name, "orders") {
				return "east." + name
			}
			return ""
		},
		Group:  func(name string) bool { return strings.HasPrefix(name, "app") },
		Topics: []string{"orders", "orders-audit", "other"}, Groups: []string{"app-1", "else"},
		GroupPrefixes: []string{"app"}, Skip: []string{"User:gateway"},
	}
	fence := entry(spillway.ACLTopic, spillway.ACLLiteral, "orders")
	fence.Principal, fence.Permission = "User:gateway", "DENY"
	frozen := entry(spillway.ACLTopic, spillway.ACLLiteral, "orders")
	frozen.Principal, frozen.Permission = "User:*", "DENY"
	for name, test := range map[string]struct {
		entry spillway.ACL
		want  []string // pattern and name
	}{
		"a topic that is meant":                   {entry(spillway.ACLTopic, spillway.ACLLiteral, "orders"), []string{"LITERAL east.orders"}},
		"one that does not exist yet":             {entry(spillway.ACLTopic, spillway.ACLLiteral, "orders-new"), []string{"LITERAL east.orders-new"}},
		"one that is not meant":                   {entry(spillway.ACLTopic, spillway.ACLLiteral, "other"), nil},
		"a prefix becomes one for each name":      {entry(spillway.ACLTopic, spillway.ACLPrefixed, "orders-"), []string{"LITERAL east.orders-audit"}},
		"all topics become those that are meant":  {entry(spillway.ACLTopic, spillway.ACLLiteral, "*"), []string{"LITERAL east.orders", "LITERAL east.orders-audit"}},
		"a prefix that is meant as a whole stays": {entry(spillway.ACLGroup, spillway.ACLPrefixed, "app-x"), []string{"PREFIXED app-x"}},
		"a prefix that is wider does not":         {entry(spillway.ACLGroup, spillway.ACLPrefixed, "ap"), []string{"LITERAL app-1"}},
		"all groups":                              {entry(spillway.ACLGroup, spillway.ACLLiteral, "*"), []string{"LITERAL app-1"}},
		"the fence":                               {fence, nil},
		"what would stop the mirror":              {frozen, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, refused := WantedACLs([]spillway.ACL{test.entry}, cover)
			var got []string
			for _, e := range wanted {
				got = append(got, e.Pattern+" "+e.Name)
				e.Pattern, e.Name = test.entry.Pattern, test.entry.Name
				if e != test.entry {
					t.Errorf("%+v of %+v", e, test.entry)
				}
			}
			if !slices.Equal(got, test.want) || len(refused) > 0 != (test.entry == frozen) {
				t.Errorf("%v, refused %v", got, refused)
			}
		})
	}
}

var ordersOnly = Cover{Fed: func(topic string) bool { return topic == "orders" }, Group: func(string) bool { return false }}

var allNames = Cover{Fed: func(string) bool { return true }, Group: func(string) bool { return true }}

// What other flows made from the same cluster is theirs.
func TestACLsOfOtherFlowsStay(t *testing.T) {
	other, wide := entry(spillway.ACLTopic, spillway.ACLLiteral, "carts"), entry(spillway.ACLTopic, spillway.ACLPrefixed, "ord")
	owned := map[spillway.ACL]OwnedACL{other: {From: "src", Made: true}, wide: {From: "src", Made: true}}
	p := PlanACLs("src", ordersOnly, nil, []spillway.ACL{other, wide}, owned, nil)
	if len(p.Delete) != 0 || !maps.Equal(p.Done, owned) {
		t.Errorf("%+v", p)
	}
	if p := PlanACLs("src", ordersOnly, nil, []spillway.ACL{other, wide}, nil, owned); len(p.Delete) != 0 {
		t.Errorf("%+v", p)
	}
}

func TestPlanACLs(t *testing.T) {
	e := entry(spillway.ACLTopic, spillway.ACLLiteral, "orders")
	made := func(from string) *OwnedACL { return &OwnedACL{From: from, Made: true} }
	for name, test := range map[string]struct {
		wanted, here   bool
		owned, agreed  *OwnedACL
		create, delete bool
		done           *OwnedACL
	}{
		"new at the source":                       {wanted: true, create: true, done: made("src")},
		"by hand at both":                         {wanted: true, here: true},
		"by hand here":                            {here: true},
		"ours and still there":                    {wanted: true, here: true, owned: made("src"), done: made("src")},
		"ours and removed at the source":          {here: true, owned: made("src"), delete: true},
		"ours, of another cluster":                {here: true, owned: made("other"), done: made("other")},
		"ours, and removed here":                  {wanted: true, owned: made("src"), create: true, done: made("src")},
		"meant and not made":                      {wanted: true, owned: &OwnedACL{From: "src"}, create: true, done: made("src")},
		"made and not settled":                    {wanted: true, here: true, owned: &OwnedACL{From: "src"}, done: made("src")},
		"removed at the source after it served":   {here: true, agreed: made("x"), delete: true},
		"never made at the source before it died": {here: true, agreed: &OwnedACL{From: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			list := func(there bool) []spillway.ACL {
				if there {
					return []spillway.ACL{e}
				}
				return nil
			}
			of := func(o *OwnedACL) map[spillway.ACL]OwnedACL {
				if o != nil {
					return map[spillway.ACL]OwnedACL{e: *o}
				}
				return nil
			}
			p := PlanACLs("src", ordersOnly, list(test.wanted), list(test.here), of(test.owned), of(test.agreed))
			if len(p.Create) > 0 != test.create || len(p.Delete) > 0 != test.delete || !maps.Equal(p.Done, of(test.done)) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Entries of others are never removed, wherever the mirror dies, and in the end
// all that the source has is here and nothing of what it took back.
func TestACLsFollowAndNeverTakeWhatOthersMade(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		source, here, byHand := map[spillway.ACL]bool{}, map[spillway.ACL]bool{}, map[spillway.ACL]bool{}
		owned := map[spillway.ACL]OwnedACL{}
		round := func(steps int) {
			p := PlanACLs("src", allNames, slices.Collect(maps.Keys(source)), slices.Collect(maps.Keys(here)), owned, nil)
			if steps--; steps >= 0 {
				owned = p.Intent
			}
			for _, e := range p.Create {
				if steps--; steps >= 0 {
					here[e] = true
				}
			}
			for _, e := range p.Delete {
				if steps--; steps >= 0 {
					if byHand[e] {
						t.Fatalf("removed what somebody else made: %v", e)
					}
					delete(here, e)
				}
			}
			if steps--; steps >= 0 {
				owned = p.Done
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			e := entry(spillway.ACLTopic, spillway.ACLLiteral, rapid.SampledFrom(names).Draw(t, "name"))
			switch rapid.SampledFrom([]string{"source adds", "source removes", "hand adds", "hand removes", "round", "crash"}).Draw(t, "step") {
			case "source adds":
				source[e] = true
			case "source removes":
				delete(source, e)
			case "hand adds":
				if _, ours := owned[e]; !ours && !here[e] { // the same as the mirror's cannot be told from it
					here[e], byHand[e] = true, true
				}
			case "hand removes":
				delete(here, e)
				delete(byHand, e)
			case "round":
				round(allSteps)
			case "crash":
				round(rapid.IntRange(0, 5).Draw(t, "dies after"))
			}
		}
		round(allSteps)
		for _, name := range names {
			e := entry(spillway.ACLTopic, spillway.ACLLiteral, name)
			if here[e] != (source[e] || byHand[e]) {
				t.Fatalf("%v: source %v, by hand %v, here %v", e, source[e], byHand[e], here[e])
			}
		}
	})
}
