package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spillway/configs"
	"spillway/federation/coordination"
)

// A new token comes into force when the store has proved it, and not before; one that was
// refused is asked about again.
func TestStoreTokenIsProvedBeforeItIsTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	good, asked := map[string]error{"one": nil}, 0
	token, err := newStoreToken(configs.Consul{TokenFile: file}, func(_ context.Context, token string) error {
		asked++
		if err, known := good[token]; known {
			return err
		}
		return lackingError([]coordination.Rule{{Path: "spillway/shop/layout", Write: true, Why: "lay out"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	look := func(want string, changes bool, fault string, asks int) {
		t.Helper()
		asked = 0
		changed, refused, err := token.look(t.Context())
		err = errors.Join(refused, err)
		switch {
		case token.get() != want, changed != changes, asked != asks:
			t.Errorf("token %q, changed %v, asked %d times: want %q, %v, %d", token.get(), changed, asked, want, changes, asks)
		case fault == "" && err != nil, fault != "" && (err == nil || !strings.Contains(err.Error(), fault)):
			t.Errorf("%v, want %q", err, fault)
		}
	}
	look("one", false, "", 1) // proved once
	look("one", false, "", 0)
	write("two\n")
	look("one", false, `lacks key "spillway/shop/layout" { policy = "write" } (lay out)`, 1)
	look("one", false, "lacks", 1)
	write("")
	look("one", false, "the token is empty", 0)
	write("two")
	good["two"] = coordination.ErrUnavailable
	look("one", false, "unavailable", 1)
	good["two"] = nil
	look("two", true, "", 1)
	look("two", false, "", 0)
	token.doubt()
	good["two"] = errors.New("revoked")
	look("two", false, "revoked", 1)
	good["two"] = nil
	look("two", false, "", 1)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	look("two", false, "no such file", 0)
}

// A token that was proved is asked about again though nothing was refused: its rights may
// be gone before they are needed. While the store is away it is not called bad for that.
func TestAProvedTokenIsProvedAgain(t *testing.T) {
	t.Setenv("SHOP_TOKEN", "one")
	answer, asked := error(nil), 0
	token, err := newStoreToken(configs.Consul{TokenEnv: "SHOP_TOKEN"}, func(context.Context, string) error { asked++; return answer })
	if err != nil {
		t.Fatal(err)
	}
	look := func(asks int, want error) {
		t.Helper()
		asked = 0
		if _, refused, err := token.look(t.Context()); refused != nil || !errors.Is(err, want) || want == nil && err != nil || asked != asks {
			t.Errorf("asked %d times, %v, %v: want %d, %v", asked, refused, err, asks, want)
		}
	}
	look(1, nil)
	answer = coordination.ErrDenied
	look(0, nil)
	token.provedAt = token.provedAt.Add(-tokenProve)
	answer = coordination.ErrUnavailable
	look(1, nil)
	look(1, nil) // and soon again
	answer = coordination.ErrDenied
	look(1, coordination.ErrDenied)
	look(1, coordination.ErrDenied)
	answer = coordination.ErrUnavailable
	look(1, coordination.ErrUnavailable) // nobody knows
	answer = nil
	look(1, nil)
	look(0, nil)
}

// A new token that is not taken says nothing about the one in force.
func TestTheTokenInForceIsProvedBesideANewOne(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := map[string]error{}
	token, err := newStoreToken(configs.Consul{TokenFile: file}, func(_ context.Context, token string) error { return answers[token] })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	answers["two"] = coordination.ErrDenied
	token.doubt()
	if _, refused, err := token.look(t.Context()); !errors.Is(refused, coordination.ErrDenied) || err != nil || token.get() != "one" || !token.proved.Load() {
		t.Errorf("the new token: %v, the one in force: %v, proved %v", refused, err, token.proved.Load())
	}
	answers["one"] = coordination.ErrDenied
	token.doubt()
	if _, refused, err := token.look(t.Context()); refused == nil || err == nil {
		t.Errorf("both are bad: %v, %v", refused, err)
	}
	answers["two"] = nil
	if changed, refused, err := token.look(t.Context()); !changed || refused != nil || err != nil || token.get() != "two" {
		t.Errorf("changed %v, %v, %v", changed, refused, err)
	}
}

func TestAnEmptyTokenIsAFault(t *testing.T) {
	t.Setenv("SHOP_TOKEN", "")
	if _, err := newStoreToken(configs.Consul{TokenEnv: "SHOP_TOKEN"}, nil); err == nil || !strings.Contains(err.Error(), "the token is empty") {
		t.Errorf("%v", err)
	}
	if token, err := newStoreToken(configs.Consul{}, nil); err != nil || token.get() != "" {
		t.Errorf("without a token: %v", err)
	}
}

// What a process asks for at its start is what all its roles need.
func TestRulesOfAllRoles(t *testing.T) {
	cfg := parse(t, `
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: east-1, site: east, roles: [gateway, mirror, control], dataDir: $DIR}
sites: [{name: east, bootstrap: ["127.0.0.1:1"]}]
coordinator: {consul: {}}
failoverGroups: [{name: shop, topics: [orders], sites: [east]}]
`)
	writes := map[string]bool{}
	for _, r := range rulesOf(cfg) {
		writes[r.Path] = r.Write
	}
	for _, path := range []string{"gateways/east-1", "mirrors/east/east-1", "writers/east", "ballots/east", "shares/", "reserved/", "history/"} {
		if !writes["spillway/shop/"+path] {
			t.Errorf("%s is not asked for: %v", path, writes)
		}
	}
	cfg.Process.Roles = []string{configs.RoleBroker}
	for _, r := range rulesOf(cfg) {
		if r.Write {
			t.Errorf("brokers write %s", r.Path)
		}
	}
}
