package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spillway/app"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
)

func TestRowsOfADrain(t *testing.T) {
	done := control.SiteChange{Site: "east", Drained: true, Mark: &failover.Drained{Who: "ann", Why: "new switch"}, Groups: []control.GroupMove{
		{Group: "shop", From: "east", To: "west", Epoch: 4, Moved: true},
		{Group: "carts", From: "east", To: "north", Epoch: 2, Moved: true, PassedOver: "disks are full at west"},
		{Group: "logs", From: "east", Stays: "failover group logs has no other site"},
	}}
	want := []string{
		"site east is drained by ann: new switch: no switchover and no automatic failover goes there until spillway site return east",
		"GROUP\tFROM\tTO\tEPOCH\tMOVE",
		"shop\teast\twest\t4\tdone",
		"carts\teast\tnorth\t2\tdone; rather to another site, but: disks are full at west",
		"logs\teast\t-\t-\tstays: failover group logs has no other site",
	}
	if rows := siteRows(done); !slices.Equal(rows, want) {
		t.Errorf("%q", rows)
	}
	dry := control.SiteChange{Site: "east", DryRun: true}
	if rows := siteRows(dry); !slices.Equal(rows, []string{"site east would be not drained (dry run, nothing was changed)", "no failover group has to move"}) {
		t.Errorf("%q", rows)
	}
}

// The commands write into the store of the configuration: a site is drained for the
// next command too, until it is returned.
func TestSiteCommands(t *testing.T) {
	text, err := configs.Example("embedded")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "spillway.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "./spillway-data", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := configs.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	site := cfg.Sites[0].Name
	store, err := app.OpenStore(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	keys := failover.Keys(cfg.VirtualCluster.Name)
	for _, g := range cfg.Topology().Groups() { // served elsewhere, so none has to move
		share := failover.Share{Group: g.Name, State: failover.Stable, Epoch: 1, Active: "elsewhere", Terms: []failover.Term{{Epoch: 1, Site: "elsewhere"}}}
		if _, err := store.Put(t.Context(), keys.Share(share.ID()), share.Encode(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	say := func(args ...string) (change control.SiteChange) {
		t.Helper()
		if err := told(t, &change, append(args, "--config", file)...); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return change
	}
	if c := say("site", "drain", site, "--dry-run"); !c.Drained || !c.DryRun || c.Mark.Why != "" || len(c.Groups) != 0 {
		t.Errorf("dry run: %+v", c)
	}
	if c := say("site", "drain", site, "--why", "new switch"); !c.Drained || c.Mark.Why != "new switch" {
		t.Errorf("drain: %+v", c)
	}
	if c := say("site", "drain", site, "--why", "again"); c.Mark.Why != "new switch" {
		t.Errorf("drained twice: %+v", c)
	}
	if c := say("site", "return", site); c.Drained || c.Mark != nil {
		t.Errorf("return: %+v", c)
	}
	if c := say("site", "drain", site, "--dry-run"); c.Mark.Why != "" {
		t.Errorf("after the return: %+v", c)
	}
	if _, err := command(t, "site", "drain", "mars", "--config", file); err == nil || err.Error() != `there is no site "mars" in the configuration` {
		t.Errorf("%v", err)
	}
}
