package namespace

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire/wiretest"
)

const payments = Namespace("payments.")

var update = flag.Bool("update", false, "write testdata")

// Each text of each message that is sent to sites is in the table, with what it names. Look
// at it when it changes: a name that is missed is one of another virtual cluster.
func TestEveryTextIsJudged(t *testing.T) {
	var table strings.Builder
	for key := range int16(kmsg.MaxKey + 1) {
		req := kmsg.RequestForKey(key)
		if req == nil || !named[key] && !unnamed[key] {
			continue
		}
		for _, m := range []any{req, req.ResponseKind()} {
			name := reflect.TypeOf(m).Elem().Name()
			judge(&table, name, reflect.TypeOf(m).Elem(), named[key])
		}
	}
	file := filepath.Join("testdata", "texts.txt")
	if *update {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if table.String() != string(want) {
		t.Errorf("texts of messages have changed: go test ./broker/namespace -update, and read the difference")
	}
}

func judge(table *strings.Builder, path string, t reflect.Type, names bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		inner, at := f.Type, path+"."+f.Name
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case f.Name == "UnknownTags":
		case inner.Kind() == reflect.Struct:
			judge(table, at, inner, names)
		case inner.Kind() == reflect.String:
			if !names {
				fmt.Fprintf(table, "%-90s none\n", at)
				continue
			}
			fmt.Fprintf(table, "%-90s %s\n", at, [...]string{"none", "topic", "group", "transactional id", "group or transactional id", "by its type", "expression", "quotes names"}[fields[f.Name]])
		}
	}
}

// Every request and answer of every version: what goes in comes out with the namespace before
// each name, and without it again (A, B).
func TestEveryMessage(t *testing.T) {
	wiretest.Every(func(kind string, m wiretest.Message) {
		if !named[m.Key()] {
			return
		}
		t.Run(fmt.Sprintf("%s %s v%d", kind, kmsg.NameForKey(m.Key()), m.GetVersion()), func(t *testing.T) {
			for seed := range uint64(20) {
				random := rand.New(rand.NewPCG(seed, 0))
				m := wiretest.Fresh(m)
				wiretest.Fill(random, m)
				prepare(random, reflect.ValueOf(m).Elem(), "")
				plain := m.AppendTo(nil)
				outside := wiretest.Fresh(m) // as the site has it
				if err := outside.ReadFrom(plain); err != nil {
					t.Fatal(err)
				}
				prepare(nil, reflect.ValueOf(outside).Elem(), string(payments))
				atSite := outside.AppendTo(nil)
				if kind == "request" {
					pieces, err := payments.Request(m.Key(), m.GetVersion(), [][]byte{plain[: len(plain)/2 : len(plain)/2], plain[len(plain)/2:]})
					if err != nil {
						t.Fatal(err)
					}
					if got := bytes.Join(pieces, nil); !bytes.Equal(got, atSite) {
						t.Fatalf("seed %d: %+v is sent as\n%x, want\n%x", seed, m, got, atSite)
					}
					continue
				}
				got, err := payments.Response(m.Key(), m.GetVersion(), atSite)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, plain) {
					t.Fatalf("seed %d: %+v is answered as\n%x, want\n%x", seed, m, got, plain)
				}
			}
		})
	})
}

// Nothing of another virtual cluster comes out of an answer (B).
func TestWhatBelongsToOthersIsLeftOut(t *testing.T) {
	wiretest.Every(func(kind string, m wiretest.Message) {
		if !named[m.Key()] || kind != "response" {
			return
		}
		for seed := range uint64(20) {
			random := rand.New(rand.NewPCG(seed, 1))
			m := wiretest.Fresh(m)
			wiretest.Fill(random, m)
			prepare(random, reflect.ValueOf(m).Elem(), "orders.")
			got, err := payments.Response(m.Key(), m.GetVersion(), m.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(got, []byte("orders.")) {
				t.Fatalf("%s v%d, seed %d: names of others are in %q", kmsg.NameForKey(m.Key()), m.GetVersion(), seed, got)
			}
		}
	})
}

// prepare puts a prefix before what is a name, by what fields are called and not by plans.
// With random numbers it draws types of resources first, and takes away texts that
// are not to be tried here.
func prepare(random *rand.Rand, v reflect.Value, prefix string) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if random != nil && name == "ResourceType" {
			kinds := []int64{2, 3, 5, 32, 4}
			if _, rights := f.Interface().(kmsg.ACLResourceType); rights {
				kinds = kinds[:3] // what else there is has tests of its own
			}
			f.SetInt(kinds[random.IntN(len(kinds))])
		}
		if random != nil && name == "ResourcePatternType" {
			f.SetInt(int64(kmsg.ACLResourcePatternTypeLiteral))
		}
		k := fields[name]
		if k == expression && random != nil {
			f.SetZero()
		}
		if k == resource && !slices.Contains([]int64{2, 3, 5, 32}, v.FieldByName("ResourceType").Int()) {
			continue
		}
		put(random, f, k, prefix)
	}
}

func put(random *rand.Rand, f reflect.Value, k kind, prefix string) {
	switch f.Kind() {
	case reflect.Struct:
		if _, tags := f.Interface().(kmsg.Tags); !tags {
			prepare(random, f, prefix)
		}
	case reflect.Pointer:
		if !f.IsNil() {
			put(random, f.Elem(), k, prefix)
		} else if random != nil && (k == resource || k == topic) { // null has meanings of its own
			s := prefix + "x"
			f.Set(reflect.ValueOf(&s))
		}
	case reflect.Slice:
		if f.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range f.Len() {
			put(random, f.Index(i), k, prefix)
		}
	case reflect.String:
		if k == 0 || k == expression || k == message {
			return
		}
		text := f.String()
		if random != nil && text == "" {
			text = "x" // TestTheGroupWithoutAName
		}
		f.SetString(prefix + text)
	}
}

func TestExpressions(t *testing.T) {
	for in, want := range map[string]string{
		"(unclosed": "[", "": "", "a^b": "[", "(^a)?b": "[", "x*^orders": "[",
		"orders.*": "?", "^orders": "?", "^a|^b$": "?", "(^a|b)c": "?", `\Aorders\.[ab]`: "?", "(?:^|x*)y": "?", "a|b": "?", "(?i)ORDERS": "?", ".*": "?", "^": "?",
	} {
		got := payments.expression(in)
		if in == "" || want == "[" {
			if got != want {
				t.Errorf("%q became %q, want %q", in, got, want)
			}
			continue
		}
		inside, alone := whole(t, got), whole(t, in)
		for _, topic := range []string{"orders", "orders-2", "orders.a", "a", "b", "ac", "bc", "ab", "xorders"} {
			if inside.MatchString("payments."+topic) != alone.MatchString(topic) {
				t.Errorf("%q: %q is taken differently by %q", in, topic, got)
			}
			if inside.MatchString(topic) || inside.MatchString("other."+topic) {
				t.Errorf("%q became %q, which reaches %q of others", in, got, topic)
			}
		}
		if back := whole(t, payments.unexpression(got)); !back.MatchString("orders") && alone.MatchString("orders") {
			t.Errorf("%q came back as %q", in, payments.unexpression(got))
		}
	}
}

// Who is in no group may commit under a group without a name: it is one of the namespace, and
// its coordinator is that of the same.
func TestTheGroupWithoutAName(t *testing.T) {
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKeys = 4, []string{""}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version = 8
	for _, req := range []kmsg.Request{find, commit} {
		body, err := payments.Request(req.Key(), req.GetVersion(), [][]byte{req.AppendTo(nil)})
		if err != nil || !bytes.Contains(joined(body), []byte("payments.")) {
			t.Errorf("%s: %q, %v", kmsg.NameForKey(req.Key()), body, err)
		}
	}
	found := kmsg.NewPtrFindCoordinatorResponse()
	found.Version, found.Coordinators = 4, []kmsg.FindCoordinatorResponseCoordinator{{Key: "payments."}}
	body, err := payments.Response(found.Key(), 4, found.AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := found.ReadFrom(body); err != nil || found.Coordinators[0].Key != "" {
		t.Errorf("%+v, %v", found, err)
	}
}

// A broker's words do not show how a topic of others is called.
func TestWordsOfBrokers(t *testing.T) {
	for text, want := range map[string]string{
		"Topic 'payments.orders' already exists.":                                       "Topic 'orders' already exists.",
		"Topic 'payments.orders' collides with existing topic: payments_orders":         payments.told("collides with"),
		"Unable to replicate the partition 3 time(s): only 1 broker(s) are registered.": "Unable to replicate the partition 3 time(s): only 1 broker(s) are registered.",
	} {
		if got := payments.told(text); got != want || strings.Contains(got, "payments") {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestParse(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "payments.": true, "a-b_": true, "payments": false, "pay ments.": false, "__spillway.": false, ".": false, "_": false, "-": false, strings.Repeat("a", 100) + ".": false} {
		if _, err := Parse(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What has no names is not looked at; what nobody knows is not sent (C, D).
func TestWhatIsNotKnown(t *testing.T) {
	body := [][]byte{{0xff}}
	for _, key := range []int16{17, 18, 36, 50, 60} {
		if got, err := payments.Request(key, 0, body); err != nil || &got[0][0] != &body[0][0] {
			t.Errorf("key %d: %v %v", key, got, err)
		}
	}
	for _, key := range []int16{5, 76, 88, 1000} {
		if _, err := payments.Request(key, 0, body); !errors.Is(err, ErrRefused) {
			t.Errorf("key %d: %v", key, err)
		}
	}
	for key := range int16(kmsg.MaxKey + 1) {
		if req := kmsg.RequestForKey(key); req != nil && named[key] && unnamed[key] {
			t.Errorf("key %d is in both lists", key)
		}
	}
}

func whole(t *testing.T, expression string) *regexp.Regexp {
	t.Helper()
	re, err := regexp.Compile("^(?:" + expression + ")$")
	if err != nil {
		t.Fatal(err)
	}
	return re
}

// Every request that is made anywhere in Spillway is one of which names are known.
func TestWhatSitesAreAsked(t *testing.T) {
	keys := make(map[string]int16)
	for key := range int16(kmsg.MaxKey + 1) {
		if req := kmsg.RequestForKey(key); req != nil {
			keys[reflect.TypeOf(req).Elem().Name()] = key
		}
	}
	made := regexp.MustCompile(`kmsg\.(?:NewPtr|New)?([A-Z]\w*Request)[({]`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range made.FindAllStringSubmatch(string(text), -1) {
			key, ok := keys[m[1]]
			if found++; ok && !named[key] && !unnamed[key] {
				t.Errorf("%s makes a %s, which is refused within a namespace", path, m[1])
			}
		}
		return err
	})
	if err != nil || found < 50 {
		t.Errorf("%d requests are made: %v", found, err)
	}
}
