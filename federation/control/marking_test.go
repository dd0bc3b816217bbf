package control

import (
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// A standby that is alive gives no marks if it stands while the active site goes
// on; one that stands because there is nothing to do gives them, wherever it is.
func TestStandbyThatStandsGivesNoMarks(t *testing.T) {
	share := failover.Share{Group: "orders", State: failover.Stable, Epoch: 4, Active: "east"}
	limits := failover.Limits{Group: spillway.FailoverGroup{Sites: []spillway.SiteID{"east", "west"}, Ack: spillway.AckPolicy{Sites: 2}}}
	began := time.Now()
	var m marking
	look := func(second int, east, west int64, change func(*failover.Following)) (marks bool, since time.Duration) {
		f := failover.Following{Epoch: 4, Source: "east", EndSum: west}
		if change != nil {
			change(&f)
		}
		v := failover.View{Sites: map[spillway.SiteID]failover.SiteView{
			"east": {Mirror: true, Following: &failover.Following{Epoch: 4, EndSum: east}},
			"west": {Mirror: true, Following: &f},
		}}
		since = m.look(share, &v, limits, coordination.Instant{Time: began.Add(time.Duration(second) * time.Second)})
		return v.Sites["west"].Marks, since
	}
	for _, c := range []struct {
		second     int
		east, west int64
		change     func(*failover.Following)
		marks      bool
		since      time.Duration
		why        string
	}{
		{0, 100, 90, nil, true, 0, "seen for the first time"},
		{60, 100, 90, nil, true, 60 * time.Second, "nothing is written: behind for ever, below a burnt range"},
		{61, 110, 90, nil, true, 61 * time.Second, "a moment behind"},
		{63, 120, 90, nil, false, 0, "three seconds behind a site that goes on"},
		{70, 130, 90, nil, false, 7 * time.Second, "still"},
		{71, 130, 91, nil, true, 0, "moves again"},
		{75, 130, 130, nil, true, 4 * time.Second, "has everything"},
		{76, 130, 130, func(f *failover.Following) { f.Problem = "topic is missing" }, false, 0, "follows with a fault"},
		{77, 130, 130, func(f *failover.Following) { f.Epoch = 3 }, false, time.Second, "follows an epoch that is over"},
		{78, 130, 130, func(f *failover.Following) { f.Source = "north" }, false, 2 * time.Second, "follows another site"},
		{79, 130, 130, nil, true, 0, "follows again"},
	} {
		if marks, since := look(c.second, c.east, c.west, c.change); marks != c.marks || since != c.since {
			t.Errorf("%d s, %s: %v for %v, want %v for %v", c.second, c.why, marks, since, c.marks, c.since)
		}
	}
}
