package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/federation/control"
	"spillway/federation/failover"
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
