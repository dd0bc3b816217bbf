package configs

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/lb"
)

var update = flag.Bool("update", false, "write the expected messages and docs/configuration.md anew")

func none(string) (string, bool) { return "", false }

func TestExamplesLoad(t *testing.T) {
	want := []string{"embedded", "one-site", "three-sites", "two-sites-plus-witness"}
	if got := Examples(); !reflect.DeepEqual(got, want) {
		t.Fatalf("examples %v, want %v", got, want)
	}
	for _, name := range Examples() {
		data, err := Example(name)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := Parse(name+".yaml", data, none)
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
			continue
		}
		if groups := cfg.Topology().Groups(); len(groups) == 0 || len(groups[0].Sites) == 0 {
			t.Errorf("%s: topology has no groups", name)
		}
	}
	if _, err := Example("three-site"); err == nil || !strings.Contains(err.Error(), "did you mean three-sites?") {
		t.Errorf("unknown example: %v", err)
	}
}

// TestShelfOfFaults reads every wrong file in testdata: the message of
// NAME.yaml stands in NAME.want.
func TestShelfOfFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data, none)
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("no faults, but %v", err)
			}
			got := faults.Error() + "\n"
			if strings.Contains(got, "hunter2") {
				t.Error("a secret is in the message")
			}
			wantFile := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestDefaultsFileEnvironment(t *testing.T) {
	data := []byte(`
virtualCluster: {name: shop, clusterID: shop-1}
sites:
  - {name: East, bootstrap: ["east:9092"]}
coordinator: {consul: {}}
failoverGroups:
  - {name: shop, topics: [Orders-*], sites: [East], ack: {onShortfall: degrade}}
gateway: {listen: "127.0.0.1:1"}
`)
	data = bytes.ReplaceAll(data, []byte("East"), []byte("east"))
	env := map[string]string{
		"SPILLWAY_GATEWAY_LISTEN":             "127.0.0.1:2",
		"SPILLWAY_GATEWAY_LEASE_TTL":          "9s",
		"SPILLWAY_PROCESS_ID":                 "east-7",
		"SPILLWAY_PROCESS_SITE":               "east",
		"SPILLWAY_PROCESS_ROLES":              "gateway, console",
		"SPILLWAY_COORDINATOR_CONSUL_ADDRESS": "10.0.0.1:8500",
	}
	cfg, err := Parse("x.yaml", data, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("environment over file", cfg.Gateway.Listen, "127.0.0.1:2")
	check("environment over default", cfg.Gateway.Lease.TTL, 9*time.Second)
	check("default", cfg.Gateway.Lease.Interval, time.Second)
	check("list from the environment", cfg.Roles(), []string{"gateway", "console"})
	check("optional section", cfg.Coordinator.Consul.Address, "10.0.0.1:8500")
	check("process", cfg.ReadyToServe("x.yaml"), nil)
	g := cfg.Topology().Groups()[0]
	check("default in a list", g.HoldMax, 8*time.Second)
	check("default in a section in a list", g.Ack, spillway.AckPolicy{Sites: 1, OnShortfall: "degrade", ShortfallAfter: 10 * time.Second, OnLag: "warn", LagMax: 30 * time.Second})
	check("names keep their case", g.Topics, []string{"Orders-*"})
	check("default of an absent section in a list", g.Failover.LossRecordsMax, int64(10000))

	env["SPILLWAY_GATEWAY_LEASE_TTL"] = "nine"
	_, err = Parse("x.yaml", data, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err == nil || !strings.Contains(err.Error(), `gateway.lease.ttl: "nine" is not a duration; try "5s" (from the environment, SPILLWAY_GATEWAY_LEASE_TTL)`) {
		t.Errorf("fault in the environment: %v", err)
	}
}

func TestAnUnorderedGroupHasABoundOfSites(t *testing.T) {
	var sites, names strings.Builder
	for i := range lb.TargetsMax + 1 {
		fmt.Fprintf(&sites, "  - {name: s%d, bootstrap: [\"s%d:9092\"]}\n", i, i)
		fmt.Fprintf(&names, "s%d, ", i)
	}
	_, err := Parse("x.yaml", []byte("virtualCluster: {name: shop, clusterID: shop-1}\ncoordinator: {consul: {}}\nsites:\n"+sites.String()+
		"failoverGroups:\n  - {name: clicks, order: unordered, partitions: 1, topics: [clicks], sites: ["+names.String()+"]}\n"), none)
	if err == nil || !strings.Contains(err.Error(), "failoverGroups[0].sites: there are 65, and an unordered group has 64 at most") {
		t.Errorf("%v", err)
	}
}

func TestServeNeedsAPlace(t *testing.T) {
	data, _ := Example("three-sites")
	cfg, err := Parse("three-sites.yaml", data, none)
	if err != nil {
		t.Fatal(err)
	}
	err = cfg.ReadyToServe("three-sites.yaml")
	if err == nil || !strings.Contains(err.Error(), "SPILLWAY_PROCESS_ID") || !strings.Contains(err.Error(), "SPILLWAY_PROCESS_SITE") {
		t.Errorf("serve without a place: %v", err)
	}
}

func TestWitnessRunsOnlyWhatItCan(t *testing.T) {
	data, _ := Example("two-sites-plus-witness")
	cfg, err := Parse("x.yaml", data, func(k string) (string, bool) {
		v, ok := map[string]string{"SPILLWAY_PROCESS_ID": "north-1", "SPILLWAY_PROCESS_SITE": "north"}[k]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Roles(); !reflect.DeepEqual(got, []string{"control", "console"}) {
		t.Errorf("roles of a witness: %v", got)
	}
}

func TestSecretsComeFromFilesAndEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := (SASL{Mechanism: "PLAIN", PasswordFile: file}).Password(); err != nil || p != "s3cret" {
		t.Errorf("password %q, %v", p, err)
	}
	t.Setenv("SHOP_TOKEN", "abc")
	if p, err := (Consul{TokenEnv: "SHOP_TOKEN"}).Token(); err != nil || p != "abc" {
		t.Errorf("token %q, %v", p, err)
	}
	if _, err := (SASL{Mechanism: "PLAIN", PasswordEnv: "SHOP_NOTHING"}).Password(); err == nil {
		t.Error("a missing secret is no fault")
	}
}

func TestSchemaNamesEveryKey(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	text := string(Schema())
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for _, f := range fieldsOf(typ) {
			if f.Key == "" || f.Doc == "" {
				t.Errorf("%s.%s has no key or no doc", typ, typ.Field(f.Index).Name)
			}
			if !strings.Contains(text, `"`+f.Key+`"`) {
				t.Errorf("schema lacks %s", f.Key)
			}
			if f.Default != "" && f.Type.Kind() != reflect.Slice {
				if p := scalarProblem(f.Default, f); p != "" {
					t.Errorf("default of %s: %s", f.Key, p)
				}
			}
			switch {
			case f.section():
				walk(f.elem())
			case f.sectionList():
				walk(f.Type.Elem())
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestReferenceIsCurrent(t *testing.T) {
	const file = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Error("docs/configuration.md is not what the structs say; run go test ./configs -update")
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Examples() {
		data, _ := Example(name)
		f.Add(data)
	}
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		data, _ := os.ReadFile(file)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("x.yaml", data, none)
		if err == nil && cfg.Topology() == nil {
			t.Error("no fault and no topology")
		}
	})
}
