package history

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
)

var update = flag.Bool("update", false, "write the reports into the files")

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func after(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

func planned() Record {
	return Record{
		Group: "shop", Epoch: 4, Kind: failover.Switchover, From: "east", To: "west", Who: "ann", Why: "new power supply | in east", Fence: "acl",
		Started: noon, Ended: after(1900), HeldMillis: 96,
		Passages: []failover.Passage{
			{State: failover.Draining, At: noon, Why: "ann asked for a switchover from east to west: new power supply | in east"},
			{State: failover.Fencing, At: after(700), Why: "all members of the consumer groups wait"},
			{State: failover.Fenced, At: after(730), Why: "all 2 gateways hold"},
			{State: failover.Cutover, At: after(730), Why: "east ends at the log ends of 2 partitions, fence: acl"},
			{State: failover.CaughtUp, At: after(796), Why: "west has everything below the cutover"},
			{State: failover.Open, At: after(796), Why: "west serves in epoch 4"},
			{State: failover.Stable, At: after(1900), Why: "west serves, all gateways and mirrors follow"},
		},
		Verified: failover.PartitionOffsets{"orders": {1204, 1180}}, Start: failover.PartitionOffsets{"orders": {1204, 1180}},
		Known: &Known{At: noon, Evidence: []Evidence{{Site: "east", Why: "east is up: 3 votes, none against it"}, {Site: "west", Why: "west is up: 3 votes, none against it"}},
			Forecast: Forecast{PauseMillis: 104, PauseWhy: "the median of the last 3 switchovers", Reread: "nothing"}},
	}
}

func lossy() Record {
	return Record{
		Group: "shop", Epoch: 5, Kind: failover.Failover, From: "west", To: "north", Who: "automation", Why: "west is down to east, north: no broker answers\n  10.0.0.1: refused", Fence: "lease-only",
		Started: noon, Ended: after(9000), HeldMillis: 5210, LostMost: 61,
		Passages: []failover.Passage{
			{State: failover.Fencing, At: noon, Why: "automation asked for a failover from west to north: west is down to east, north: no broker answers"},
			{State: failover.Fenced, At: after(4980), Why: "1 of 2 gateways hold cleanly, west-1: its lease ran out"},
			{State: failover.Cutover, At: after(5100), Why: "2 sites heard, between 0 and 61 records are missing"},
			{State: failover.CaughtUp, At: after(5200), Why: "north has everything below the cutover"},
			{State: failover.Open, At: after(5210), Why: "north serves in epoch 5"},
			{State: failover.Stable, At: after(9000), Why: "north serves, all gateways and mirrors follow"},
		},
		Gateways: []failover.WaitGateway{{ID: "east-1", Done: true}, {ID: "west-1", Done: true, LeftOut: "its lease ran out"}},
		Verified: failover.PartitionOffsets{"orders": {1300, 1290}}, Start: failover.PartitionOffsets{"orders": {1350, 1301}},
		PrefixSite: map[string][]spillway.SiteID{"orders": {"north", "east"}},
		Known: &Known{At: noon, Evidence: []Evidence{{Site: "west", Down: true, Why: "west is down to east, north: no broker answers"}, {Site: "north", Why: "north is up: 2 votes, none against it"}},
			Forecast: Forecast{PauseMillis: 4100, PauseWhy: "the median of the last 3 switchovers, after 4s for the leases of gateways that are not heard", LostLeast: 0, LostMost: 61,
				Reread: "up to one commit interval of each consumer group", Silent: []string{"site west is down", "gateway west-1"}}},
		Found: []Found{{Site: "west", At: after(3600_000), Records: 7, First: after(-1210), Last: after(-40), Ranges: []Range{{Topic: "orders", From: 1300, To: 1305, Records: 5}, {Topic: "orders", Partition: 1, From: 1290, To: 1293, Records: 2}}}},
	}
}

func aborted() Record {
	r := planned()
	r.Epoch, r.Aborted, r.HeldMillis, r.Start, r.Verified, r.Fence = 6, "automation: clients were held for 7s in CUTOVER, at most 7s", -1, nil, nil, ""
	r.Undrained = []spillway.GatewayID{"east-1"}
	r.Passages = append(r.Passages[:3:3], failover.Passage{State: failover.Stable, At: after(7700), Why: "given up in CUTOVER: automation: clients were held for 7s in CUTOVER, at most 7s; east goes on in epoch 7"})
	r.Ended, r.Known = after(7700), nil // begun by an older version
	return r
}

// acked is a failover of a group with ack.sites 2, of which the old site had more.
func acked() Record {
	r := lossy()
	r.LostMost, r.Start, r.Known.Forecast.LostMost = 0, r.Verified, 0
	return r
}

// stood is a failover that was given up while it waited for a person.
func stood() Record {
	r := lossy()
	r.Who, r.Why, r.Aborted = "ann", "east burns\n## nothing was lost\n- at all", "ann: a false alarm\n# really"
	r.Passages = append(r.Passages[:2:2], failover.Passage{State: failover.Stable, At: after(60_000), Why: "given up in FENCED: ann: a false alarm\n# really; west goes on in epoch 6"})
	r.Ended, r.HeldMillis, r.LostMost, r.Fence, r.Verified, r.Start, r.Found, r.Known = after(60_000), -1, 0, "", nil, nil, nil, nil
	return r
}

// unread is a loss of which the old site has not been heard yet.
func unread() Record {
	r := lossy()
	r.Found, r.Known.Forecast.PauseMillis, r.Known.Forecast.PauseWhy, r.Known.Forecast.LostLeast = nil, -1, "no earlier move was measured", -1
	return r
}

// go test ./federation/history -update writes what the reports say now into the files.
func TestReports(t *testing.T) {
	for name, r := range map[string]Record{"planned": planned(), "lossy": lossy(), "aborted": aborted(), "unread": unread(), "acked": acked(), "stood": stood()} {
		file, got := filepath.Join("testdata", name+".md"), r.Report()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || string(want) != got {
			t.Errorf("%s, %v: the report says\n%s", file, err, got)
		}
	}
}

// A page stays a page however many partitions there are.
func TestAReportOfManyPartitionsIsShort(t *testing.T) {
	r := lossy()
	r.Verified, r.Start, r.LostMost = failover.PartitionOffsets{"orders": make([]spillway.Offset, 5000)}, failover.PartitionOffsets{"orders": make([]spillway.Offset, 5000)}, 5000
	for i := range r.Start["orders"] {
		r.Start["orders"][i] = 1
		r.Found[0].Ranges = append(r.Found[0].Ranges, Range{Topic: "orders", Partition: int32(i), To: 1, Records: 1})
	}
	if got := r.Report(); len(got) > 8000 {
		t.Errorf("%d bytes", len(got))
	}
}
