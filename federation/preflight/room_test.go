package preflight

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
)

var orders0, orders1 = spillway.TopicPartition{Topic: "orders"}, spillway.TopicPartition{Topic: "orders", Partition: 1}

const mebi, gibi = int64(1 << 20), int64(1 << 30)

func disk(broker int32, usable int64, has ...spillway.TopicPartition) Disk {
	return Disk{Broker: broker, Path: "/data", TotalBytes: 100 * gibi, UsableBytes: usable, Has: has}
}

// judge compares two sites and expects findings, those that refuse first.
func judge(t *testing.T, name string, active *Site, target Site, l Limits, refuses int, want ...string) {
	t.Helper()
	found := Compare(active, target, l)
	if len(found) != len(want) || len(Refusals(found)) != refuses {
		t.Errorf("%s: %+v", name, found)
		return
	}
	for i, w := range want {
		if f := found[i]; !strings.Contains(f.What, w) || f.Refuses != (i < refuses) || f.About == "" {
			t.Errorf("%s: %+v, not %q", name, f, w)
		}
	}
}

func TestDisks(t *testing.T) {
	busy := Arrivals{orders0: 300 * mebi, orders1: 200 * mebi}
	for name, c := range map[string]struct {
		arrivals, atTarget Arrivals
		disks              []Disk
		unsure             []spillway.TopicPartition
		limits             Limits
		refuses            int
		want               []string
	}{
		"no room, if that is so":  {arrivals: busy, unsure: []spillway.TopicPartition{orders0}, disks: []Disk{disk(1, 280*mebi, orders0, orders1)}, want: []string{"disks of west have no room for 1h of what the group seems to write; but of that there are logs that hold nothing older than 2h, or had far less in the time before, so look at their retention and at the times of their records: disk of broker 1 (/data) has 280 MiB left, the group seems to write 500 MiB/h to it"}},
		"no room anyhow":          {arrivals: busy, unsure: []spillway.TopicPartition{orders1}, disks: []Disk{disk(1, 280*mebi, orders0, orders1)}, refuses: 1, want: []string{"the group writes 500 MiB/h to it"}},
		"room enough":             {arrivals: busy, disks: []Disk{disk(1, 50*gibi, orders0, orders1)}},
		"no room for an hour":     {arrivals: busy, disks: []Disk{disk(1, 280*mebi, orders0)}, refuses: 1, want: []string{"disks of west have no room for 1h of what the group writes: disk of broker 1 (/data) has 280 MiB left, the group writes 300 MiB/h to it; to go on all the same, give --accept disks"}},
		"for both partitions":     {arrivals: busy, disks: []Disk{disk(1, 450*mebi, orders0, orders1)}, refuses: 1, want: []string{"has 450 MiB left, the group writes 500 MiB/h to it"}},
		"for what lies there":     {arrivals: busy, disks: []Disk{disk(1, 1900*mebi, orders0), disk(2, 1900*mebi, orders1)}, limits: Limits{Room: 2 * time.Hour}, want: []string{"no room for 12h of what the group writes: disk of broker 1 (/data) has 1.9 GiB left, the group writes 300 MiB/h to it, disk of broker 2 (/data)"}},
		"for longer than that":    {arrivals: busy, disks: []Disk{disk(1, 1900*mebi, orders0)}, limits: Limits{Room: 24 * time.Hour}, refuses: 1, want: []string{"no room for 24h"}},
		"for some hours":          {arrivals: busy, disks: []Disk{disk(1, gibi, orders0)}, want: []string{"no room for 6h"}},
		"accepted":                {arrivals: busy, disks: []Disk{disk(1, 280*mebi, orders0)}, limits: Limits{Accepted: []string{AboutDisks}}, want: []string{"has 280 MiB left"}},
		"full":                    {disks: []Disk{disk(1, 12*mebi, orders0)}, refuses: 1, want: []string{"disks are full at west: disk of broker 1 (/data) has 12 MiB left"}},
		"full, for others":        {disks: []Disk{disk(1, 12*mebi)}, want: []string{"disks on which the group has nothing are full at west: disk of broker 1 (/data) has 12 MiB left"}},
		"full, and nothing comes": {arrivals: Arrivals{}, disks: []Disk{disk(1, 0, orders0)}, refuses: 1, want: []string{"has 0 B left"}},
		"by what the target has":  {atTarget: busy, disks: []Disk{disk(1, 280*mebi, orders0)}, refuses: 1, want: []string{"300 MiB/h"}},
		"the active site counts":  {arrivals: Arrivals{}, atTarget: busy, disks: []Disk{disk(1, 280*mebi, orders0)}},
		"offline":                 {disks: []Disk{{Broker: 3, Path: "/data2", Offline: true}}, want: []string{"directories are offline at west, with all replicas that lie there: broker 3 (/data2)"}},
		"not told":                {disks: []Disk{{Broker: 1, UsableBytes: -1, TotalBytes: -1}, {Broker: 1, UsableBytes: -1, TotalBytes: -1}, {Broker: 2, UsableBytes: -1, TotalBytes: -1}}, want: []string{"how much room the disks of west have is not told, and was not checked: broker 1, broker 2"}},
	} {
		judge(t, name, &Site{ID: "east", Arrivals: c.arrivals, Unsure: c.unsure}, Site{ID: "west", Arrivals: c.atTarget, Disks: c.disks}, c.limits, c.refuses, c.want...)
	}
	// Where the old site is lost the target is judged by itself.
	judge(t, "lost", nil, Site{ID: "west", Arrivals: busy, Disks: []Disk{disk(1, 280*mebi, orders0)}}, Limits{}, 1, "300 MiB/h", "west was looked at alone")
}

// Nobody waits for what neither a mirror nor a broker that starts mends.
func TestWhatLastsIsNotWaitedFor(t *testing.T) {
	entries := func(words string) Rights { return Rights{Read: true, Entries: list(t, words)} }
	for name, c := range map[string]struct {
		active, target Site
		lasts          bool
	}{
		"topics":                 {Site{Topics: map[string]Topic{"orders": {}}}, Site{}, false},
		"disks":                  {Site{}, Site{Disks: []Disk{disk(1, 0, orders0)}}, true},
		"KIP-848":                {Site{Protocol: Protocol{NextGroupsActive: []string{"shop"}}}, Site{Protocol: Protocol{Features: map[string]int16{}}}, true},
		"no authorizer":          {Site{Rights: Rights{Read: true}}, Site{Rights: Rights{Read: true, None: true}}, true},
		"what mirrors carry":     {Site{Rights: entries("ALLOW READ GROUP shop alice")}, Site{Rights: Rights{Read: true}}, false},
		"what no mirror carries": {Site{Rights: entries("ALLOW WRITE TRANSACTIONAL_ID pay-1 alice")}, Site{Rights: Rights{Read: true}}, true},
	} {
		found := Compare(&c.active, c.target, Limits{ByLists: lists, Scope: shop})
		if len(found) != 1 || !found[0].Refuses || found[0].Lasting != c.lasts {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// Nothing refuses a failover, which has no --accept.
func TestAFailoverIsNotToldToAccept(t *testing.T) {
	found := Compare(nil, Site{ID: "west", Disks: []Disk{disk(1, 0, orders0)}}, Limits{Failover: true})
	if len(found) != 2 || !found[0].Refuses || strings.Contains(found[0].What, "--accept") {
		t.Errorf("%+v", found)
	}
}

func TestWhatIsAcceptedIsSaid(t *testing.T) {
	target := Site{ID: "west", Disks: []Disk{disk(1, 0, orders0)}, Topics: map[string]Topic{"orders": topic(func(t *Topic) { t.Leaderless, t.InSync = []int32{1}, []int{3, 0, 3} })}}
	active := Site{ID: "east", Topics: map[string]Topic{"orders": topic(func(*Topic) {})}}
	found := Compare(&active, target, Limits{Accepted: []string{AboutDisks, AboutTopics}})
	if len(found) != 2 || !found[0].Refuses || found[0].About != AboutTopics || !found[1].Accepted || found[1].Refuses || strings.Contains(found[1].What, "--accept") {
		t.Errorf("%+v", found)
	}
}

func TestBrokersThatAreGone(t *testing.T) {
	judge(t, "gone", &Site{ID: "east", Brokers: Brokers{Alive: 3}}, Site{ID: "west", Brokers: Brokers{Alive: 1, Absent: []int32{12, 13}}}, Limits{}, 0,
		"brokers of west that have replicas of the group are not there, so one more that fails may stop its producers: 12, 13", "west has 1 broker now, east has 3")
	judge(t, "what refuses is first", &Site{ID: "east"}, Site{ID: "west", Brokers: Brokers{Alive: 1, Absent: []int32{12}}, Disks: []Disk{disk(1, 0, orders0)}}, Limits{}, 1, "disks are full", "are not there")
	judge(t, "more", &Site{ID: "east", Brokers: Brokers{Alive: 3}}, Site{ID: "west", Brokers: Brokers{Alive: 4}}, Limits{}, 0)
}

func TestProtocols(t *testing.T) {
	new := map[string]int16{"metadata.version": 27, "group.version": 1, "transaction.version": 2, "kraft.version": 1}
	with := func(name string, level int16) map[string]int16 {
		other := maps.Clone(new)
		other[name] = level
		return other
	}
	for name, c := range map[string]struct {
		active, target Protocol
		limits         Limits
		refuses        int
		want           []string
	}{
		"the same":                           {Protocol{Features: new, NextGroupsActive: []string{"shop"}}, Protocol{Features: new}, Limits{}, 0, nil},
		"a newer one":                        {Protocol{Features: new}, Protocol{Features: with("metadata.version", 30)}, Limits{}, 0, nil},
		"an older one":                       {Protocol{Features: new}, Protocol{Features: with("metadata.version", 21)}, Limits{}, 0, []string{"lower levels at west than at east, so its brokers may refuse or do otherwise what they concern: metadata.version (21, not 27)"}},
		"a feature is missing":               {Protocol{Features: new}, Protocol{Features: map[string]int16{"metadata.version": 27}}, Limits{}, 0, []string{"group.version (0, not 1), transaction.version (0, not 2)"}},
		"controllers among themselves":       {Protocol{Features: new}, Protocol{Features: with("kraft.version", 0)}, Limits{}, 0, nil},
		"nothing is known of one":            {Protocol{Features: new}, Protocol{}, Limits{}, 0, nil},
		"members would end":                  {Protocol{NextGroupsActive: []string{"shop", "stock"}}, Protocol{Features: with("group.version", 0)}, Limits{}, 1, []string{"west does not offer the consumer protocol of KIP-848 (the feature group.version), and members that speak it now would end: shop, stock; to go on all the same, give --accept features"}},
		"members would end, and it is meant": {Protocol{NextGroupsActive: []string{"shop"}}, Protocol{Features: with("group.version", 0)}, Limits{Accepted: []string{AboutFeatures}}, 0, []string{"would end: shop"}},
		"nobody speaks it":                   {Protocol{}, Protocol{Features: with("group.version", 0)}, Limits{}, 0, nil},
		"it is not known what is offered":    {Protocol{Features: new, NextGroupsActive: []string{"shop"}}, Protocol{}, Limits{}, 0, nil},
	} {
		judge(t, name, &Site{ID: "east", Protocol: c.active}, Site{ID: "west", Protocol: c.target}, c.limits, c.refuses, c.want...)
	}
}

// What could not be asked for is never taken for a good sign.
func TestWhatCouldNotBeCheckedIsSaid(t *testing.T) {
	judge(t, "unread", &Site{ID: "east", Unread: []Unread{{AboutGroups, "no answer"}}}, Site{ID: "west", Unread: []Unread{{AboutDisks, "not authorized"}}}, Limits{}, 0,
		"disks of west could not be checked: not authorized", "groups of east could not be checked: no answer")
}

// What comes is foretold from the last hour only where the time before was like it.
func TestWhatArrivesIsSure(t *testing.T) {
	for name, c := range map[string]struct {
		start, before, since, end int64
		room                      time.Duration
		want                      bool
	}{
		"an hour like the other":              {0, 500, 600, 700, time.Hour, true},
		"a busier one":                        {0, 500, 600, 1600, time.Hour, true},
		"far busier":                          {0, 500, 600, 1601, time.Hour, false},
		"a record of next year":               {0, 300, 300, 700, time.Hour, false},
		"nothing older is kept":               {500, 500, 600, 700, time.Hour, false},
		"a day before, as busy":               {0, 500, 2900, 3000, 24 * time.Hour, true},
		"a day before, a tenth as busy a day": {0, 500, 740, 841, 24 * time.Hour, false},
	} {
		if Sure(c.start, c.before, c.since, c.end, c.room) != c.want {
			t.Errorf("%s: not %v", name, c.want)
		}
	}
}

func TestArrived(t *testing.T) {
	for _, c := range []struct{ bytes, offsets, inLastHour, want int64 }{
		{1000, 100, 10, 100}, {1000, 100, 100, 1000}, {1000, 100, 200, 1000}, {1000, 0, 0, 0}, {1000, 100, 0, 0}, {0, 100, 10, 0}, {1 << 50, 1 << 40, 1 << 39, 1 << 49},
	} {
		if got := Arrived(c.bytes, c.offsets, c.inLastHour); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	var sizes []string
	for _, n := range []int64{12, 1536, 300 * mebi, 1288490188, 100 * gibi, 1 << 62} {
		sizes = append(sizes, Bytes(n))
	}
	if want := []string{"12 B", "1.5 KiB", "300 MiB", "1.2 GiB", "100 GiB", "4096 PiB"}; !slices.Equal(sizes, want) {
		t.Errorf("%q", sizes)
	}
}
