package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/preflight"
)

// What is unknown is said to be, and a long list ends with where the rest is.
func TestRowsOfWhatWouldBeLost(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	plan := control.Plan{From: "east", Unread: []string{"site north: it is down\nnode 0: refused"}, Losses: []failover.Loss{
		{Topic: "orders", Partition: 0, Site: "west", From: 1010, To: 1050, LogEnd: 1017, Records: 7, First: at, Last: at.Add(time.Second)},
		{Topic: "orders", Partition: 1, From: 1000, To: 1050, LogEnd: -1, Records: -1},
		{Topic: "orders", Partition: 2, Site: "west", From: 1010, To: 1050, LogEnd: -1, Records: -1, Kept: at},
		{Topic: "orders", Partition: 3, Site: "west", From: 1010, To: 1050, LogEnd: 1010, Records: 0, Kept: at},
	}}
	want := []string{
		"  not read: site north: it is down", "",
		"MAY BE MISSING\tFROM\tAT MOST TO\tKEPT BY\tLOG END AT east\tRECORDS THERE\tWRITTEN",
		"orders-0\t1010\t1050\twest\t1017\t7\t2026-03-04T12:00:00.000Z to 2026-03-04T12:00:01.000Z",
		"orders-1\t1000\t1050\t-\tunknown\tunknown\tunknown",
		"orders-2\t1010\t1050\twest\tunknown\tunknown\tafter 2026-03-04T12:00:00.000Z",
		"orders-3\t1010\t1050\twest\t1010\t0\t-",
	}
	if rows := lossRows(plan); !slices.Equal(rows, want) {
		t.Errorf("%q", rows)
	}
	for p := range int32(100) {
		plan.Losses = append(plan.Losses, failover.Loss{Topic: "carts", Partition: p, To: 1})
	}
	rows := lossRows(plan)
	if last := rows[len(rows)-1]; len(rows) != 3+lossRowsMax+1 || last != fmt.Sprintf("and %d partitions more, see -o json", 104-lossRowsMax) {
		t.Errorf("%d rows, the last %q", len(rows), last)
	}
	if rows := lossRows(control.Plan{}); len(rows) != 0 {
		t.Errorf("without losses: %q", strings.Join(rows, "\n"))
	}
}

// A person sees what was found, and what was accepted of it.
func TestRowsOfFindings(t *testing.T) {
	plan := control.Plan{Findings: []preflight.Finding{
		{About: preflight.AboutRights, Refuses: true, What: "a right is missing"},
		{About: preflight.AboutDisks, Accepted: true, What: "disks are full"},
		{About: preflight.AboutQuotas, What: "quotas differ"},
	}, Refused: []string{"a right is missing"}}
	want := []string{"  found: a right is missing", "  accepted: disks are full", "  found: quotas differ", "  would be refused: a right is missing"}
	if rows := planRows(plan); !slices.Equal(rows[2:], want) {
		t.Errorf("%q", rows)
	}
}

func TestFlagsOfTargets(t *testing.T) {
	for _, c := range []struct {
		flags, want string
	}{
		{"", ""},
		{"--room 24h --accept disks,rights --accept features", ""},
		{"--accept topics", `--accept: "topics" is none of disks, features, rights`},
		{"--room 0s", "--room: 0s must be more than 0s"},
	} {
		ch, o := change{}, control.Operator{}
		cmd := &cobra.Command{}
		ch.targetFlags(cmd)
		if err := cmd.ParseFlags(strings.Fields(c.flags)); err != nil {
			t.Fatal(err)
		}
		switch err := ch.judgeTargets(&o); {
		case c.want == "" && (err != nil || o.Room != ch.room || o.Room <= 0 || !slices.Equal(o.Accept, ch.accept)):
			t.Errorf("%q: %v, %s, %q", c.flags, err, o.Room, o.Accept)
		case c.want != "" && (err == nil || err.Error() != c.want):
			t.Errorf("%q: %v", c.flags, err)
		}
	}
}

// Rights refuse a move only where gateways decide by lists.
func TestCommandsKnowByWhatGatewaysDecide(t *testing.T) {
	for rules, want := range map[string]bool{"none": false, "acls": true} {
		cfg, o := &configs.Config{}, control.Operator{}
		cfg.Gateway.Authorization = configs.Authorization{Rules: rules, SuperUsers: []string{"User:admin"}, AllowUnlisted: true, NotClients: []string{"User:backup"}}
		readSites(cfg, &o)()
		if (o.ByLists != nil) != want || want && (!o.ByLists.AllowUnlisted || !slices.Equal(o.ByLists.SuperUsers, []string{"User:admin"}) || !slices.Equal(o.NotClients, []string{"User:backup"})) {
			t.Errorf("%s: %+v, %q", rules, o.ByLists, o.NotClients)
		}
	}
}
