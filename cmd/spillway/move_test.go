package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"spillway/federation/control"
	"spillway/federation/failover"
)

// What is unknown is said to be, and a long list ends with where the rest is.
func TestRowsOfWhatWouldBeLost(t *testing.T) {
	plan := control.Plan{From: "east", Unread: []string{"site north: it is down\nnode 0: refused"}, Losses: []failover.Loss{
		{Topic: "orders", Partition: 0, Site: "west", From: 1010, To: 1050, LogEnd: 1017, Records: 7},
		{Topic: "orders", Partition: 1, From: 1000, To: 1050, LogEnd: -1, Records: -1},
	}}
	want := []string{
		"  not read: site north: it is down", "",
		"MAY BE MISSING\tFROM\tAT MOST TO\tKEPT BY\tLOG END AT east\tRECORDS THERE",
		"orders-0\t1010\t1050\twest\t1017\t7",
		"orders-1\t1000\t1050\t-\tunknown\tunknown",
	}
	if rows := lossRows(plan); !slices.Equal(rows, want) {
		t.Errorf("%q", rows)
	}
	for p := range int32(100) {
		plan.Losses = append(plan.Losses, failover.Loss{Topic: "carts", Partition: p, To: 1})
	}
	rows := lossRows(plan)
	if last := rows[len(rows)-1]; len(rows) != 3+lossRowsMax+1 || last != fmt.Sprintf("and %d partitions more, see -o json", 102-lossRowsMax) {
		t.Errorf("%d rows, the last %q", len(rows), last)
	}
	if rows := lossRows(control.Plan{}); len(rows) != 0 {
		t.Errorf("without losses: %q", strings.Join(rows, "\n"))
	}
}
