package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/selection"
)

// A child process is a mirror that kills itself at a crash point.
const (
	childEast  = "SPILLWAY_TEST_EAST" // addresses; set in children only
	childWest  = "SPILLWAY_TEST_WEST"
	childPoint = "SPILLWAY_TEST_CRASH_POINT"
	childCount = "SPILLWAY_TEST_CRASH_COUNT"
	childReal  = "SPILLWAY_TEST_REAL_KAFKA"
	childAlone = "SPILLWAY_TEST_WITHOUT_CONTROL"
	// childRewrites lets the child run the flow of newRewritten.
	childRewrites = "SPILLWAY_TEST_REWRITES"
	// childTopics has a child run like the command, until it is killed.
	childTopics = "SPILLWAY_TEST_TOPICS"
	childName   = "SPILLWAY_TEST_WORKER"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEast) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dialSite reaches an embedded site of another process.
func dialSite(id spillway.SiteID, addresses string) (broker.Cluster, error) {
	c := kafka.Config{Site: id, Bootstrap: strings.Split(addresses, ",")}
	if os.Getenv(childReal) == "" {
		c.Capabilities = embedded.Capabilities(false)
	}
	return kafka.New(c)
}

// child mirrors until the crash point was hit often enough.
func child() error {
	east, err := dialSite("east", os.Getenv(childEast))
	if err != nil {
		return err
	}
	west, err := dialSite("west", os.Getenv(childWest))
	if err != nil {
		return err
	}
	if pattern := os.Getenv(childTopics); pattern != "" {
		topics, err := selection.Parse(pattern, "", nil)
		if err != nil {
			return err
		}
		_, err = Run(context.Background(), RunConfig{From: east, To: west, Topics: topics, Mirror: Config{Worker: os.Getenv(childName)}})
		return err
	}
	left := new(atomic.Int64)
	n, err := strconv.Atoi(os.Getenv(childCount))
	if err != nil {
		return err
	}
	left.Store(int64(n))
	point := os.Getenv(childPoint)
	assignment := ordersAssignment("east", 1)
	alone := os.Getenv(childAlone) != ""
	if alone {
		assignment = aloneAssignment()
	}
	config := Config{
		Worker: fmt.Sprintf("child-%d", os.Getpid()), Local: west, Sources: map[spillway.SiteID]broker.Cluster{"east": east},
		FetchWait: 20 * time.Millisecond, TopicInterval: 50 * time.Millisecond, VerifyInterval: 20 * time.Millisecond, FetchBytesMax: 8 << 10, PartitionBytesMax: 4 << 10, IdentitySources: alone,
		Crash: func(at string) {
			if at == point && left.Add(-1) <= 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // it does not return from its own death
			}
		},
	}
	if os.Getenv(childRewrites) != "" {
		c, err := rewritingRun(east, west)
		if err != nil {
			return err
		}
		config.Rewrite, config.RepackBytes = c.Mirror.Rewrite, c.Mirror.RepackBytes
		c.Mirror, c.UntilCaughtUp = config, false
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		report, err := Run(ctx, c)
		return fmt.Errorf("crash point %q was not hit: %+v, %w", point, report, err)
	}
	m, err := New(context.Background(), config)
	if err != nil {
		return err
	}
	if err := m.Assign(context.Background(), assignment); err != nil {
		return err
	}
	time.Sleep(20 * time.Second)
	return fmt.Errorf("crash point %q was not hit %d times", point, n)
}

// TestKilledAtEveryStep kills the mirror ten times at each crash point while
// records, markers and aborted transactions come in, and then compares the
// sites (promises B, D, E, H).
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2}), embeddedSite(t, "west", nil)
	t.Log(killAtEveryStep(t, east, west, east.Addresses(), west.Addresses(), 10))
}

// killAtEveryStep returns what there was to see, for people.
func killAtEveryStep(t *testing.T, east, west broker.Cluster, eastAddresses, westAddresses []string, rounds int) string {
	t.Helper()
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	var stop atomic.Bool // between transactions: an open one would hold the rest back
	l := newLoad(t, eastAddresses, 11)
	loaded := make(chan error, 1)
	go func() {
		var err error
		for err == nil && !stop.Load() {
			err = l.write(t.Context(), "orders", 2, 1)
			time.Sleep(2 * time.Millisecond)
		}
		loaded <- err
	}()
	r := rand.New(rand.NewPCG(3, 4))
	tps := []spillway.TopicPartition{{Topic: "orders"}, {Topic: "orders", Partition: 1}}
	written := func() (offsets spillway.LocalOffset) {
		ends, err := east.Admin().HighWatermarks(t.Context(), tps)
		if err != nil {
			t.Fatal(err)
		}
		return ends[tps[0]] + ends[tps[1]]
	}
	var seen []string
	for _, point := range CrashPoints {
		before := written()
		for range rounds {
			runChild(t, eastAddresses, westAddresses, point, 1+r.IntN(4)) // ends the test unless the child died there
		}
		load := written() - before
		seen = append(seen, fmt.Sprintf("%s (%d offsets written meanwhile)", point, load))
		if load == 0 {
			t.Errorf("nothing was written between the kills at %s", point)
		}
	}
	seen = []string{fmt.Sprintf("killed %d times at each of %s", rounds, strings.Join(seen, ", "))}
	stop.Store(true)
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	westM := testMirror(t, west, east)
	assign(t, westM, ordersAssignment("east", 1))
	done := testContext(t)
	eventually(t, "west has what east has", func() bool { return caughtUp(done, east, eastM, westM, ordersAssignment("", 1)) })
	for _, tp := range tps {
		compareSites(t, east, west, eastM, westM, tp)
		records, err := read(done, west, tp)
		if err != nil {
			t.Fatal(err)
		}
		v := westM.Map().View(tp)
		hidden := 0
		for _, r := range records {
			if _, visible := v.ToVirtual(spillway.LocalOffset(r.offset)); !visible {
				hidden++
			}
		}
		ends, err := east.Admin().HighWatermarks(done, tps)
		if err != nil {
			t.Fatal(err)
		}
		holes := int(ends[tp]) - len(records) // markers, and what was aborted
		seen = append(seen, fmt.Sprintf("%s: %d records between %d holes, %d hidden", tp, len(records), holes, hidden))
		if holes < len(CrashPoints) {
			t.Errorf("%s has only %d holes", tp, holes)
		}
		if hidden > 0 {
			t.Errorf("%s: %d records were written twice", tp, hidden)
		}
	}
	if gaps := westM.Map().Gaps(); len(gaps) != 0 {
		t.Errorf("gaps: %v", gaps)
	}
	return strings.Join(seen, "; ")
}

// aloneAssignment is that of a flow without a control plane.
func aloneAssignment() Assignment {
	return Assignment{Share: ordersShare, Topics: []string{"orders*"}, Epoch: 1, Source: "east"}
}

// TestKilledWithoutAControlPlane kills a flow that describes records in the map before
// they come, at each step. Stretches without a hole are longer than what it fetches at
// once, and end in holes that it did not foretell (promises E, H).
func TestKilledWithoutAControlPlane(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2}), embeddedSite(t, "west", nil)
	var stop atomic.Bool
	l := newLoad(t, east.Addresses(), 12)
	loaded := make(chan error, 1)
	go func() {
		var err error
		for n := 0; err == nil && !stop.Load(); n++ {
			if n%20 == 0 {
				err = l.write(t.Context(), "orders", 2, 4) // with markers
			} else {
				err = l.plain.ProduceSync(t.Context(), l.records("orders", 2)...).FirstErr()
			}
			time.Sleep(2 * time.Millisecond)
		}
		loaded <- err
	}()
	r := rand.New(rand.NewPCG(5, 6))
	for _, point := range CrashPoints {
		for range 4 {
			runChild(t, east.Addresses(), west.Addresses(), point, 1+r.IntN(4), childAlone+"=1")
		}
	}
	stop.Store(true)
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	var saves atomic.Int64
	m := testMirrorWith(t, Config{Local: west, IdentitySources: true, Crash: func(at string) {
		if at == "beforeSaveRanges" {
			saves.Add(1)
		}
	}}, east)
	assign(t, m, aloneAssignment())
	tps := []spillway.TopicPartition{{Topic: "orders"}, {Topic: "orders", Partition: 1}}
	isThere := func() {
		t.Helper()
		eventually(t, "west has what east has", func() bool {
			ends, err := east.Admin().HighWatermarks(ctx, tps)
			have := m.Ends(ordersShare)
			if err != nil || m.Map().CaughtUp(ctx) != nil {
				return false
			}
			return !slices.ContainsFunc(tps, func(tp spillway.TopicPartition) bool {
				verified, _ := m.Map().View(tp).End() // said with some delay
				return int64(have[tp]) != int64(ends[tp]) || int64(verified) != int64(ends[tp])
			})
		})
	}
	isThere()
	before := saves.Load()
	for range 100 {
		if err := l.plain.ProduceSync(ctx, l.records("orders", 2)...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	isThere()
	if n := saves.Load() - before; n > 4 {
		t.Errorf("ranges were saved %d times for records that a map can foretell", n)
	}
	for _, tp := range tps {
		theirs, err1 := read(ctx, east, tp)
		ours, err2 := read(ctx, west, tp)
		if err := errors.Join(err1, err2); err != nil || len(ours) != len(theirs) {
			t.Fatalf("%s: %d records at the target, %d at the source: %v", tp, len(ours), len(theirs), err)
		}
		for i := range ours {
			if !ours[i].equal(theirs[i]) {
				t.Fatalf("%s: record %d differs", tp, i)
			}
			if at, exact := m.Map().View(tp).ToLocal(spillway.Offset(theirs[i].offset)); int64(at) != ours[i].offset || int64(exact) != theirs[i].offset {
				t.Fatalf("%s: offset %d is translated to %d, and lies at %d", tp, theirs[i].offset, at, ours[i].offset)
			}
		}
	}
	if gaps := m.Map().Gaps(); len(gaps) != 0 {
		t.Errorf("gaps: %v", gaps)
	}
}

// runChild starts a mirror and waits until it has killed itself.
func runChild(t *testing.T, east, west []string, point string, count int, env ...string) {
	t.Helper()
	switch point {
	case "afterClaim", "afterOpen":
		count = 1
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), env...), childEast+"="+strings.Join(east, ","), childWest+"="+strings.Join(west, ","), childPoint+"="+point, childCount+"="+strconv.Itoa(count))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the mirror did not die at %s: %v\n%s", point, err, out)
	}
}
