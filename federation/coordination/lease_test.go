package coordination_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/coordination/embedded"
)

func owner(value []byte) string {
	who, _, _ := strings.Cut(string(value), " ")
	return who
}

func config(s coordination.Store, self string) coordination.LeaseConfig {
	return coordination.LeaseConfig{
		Store: s, Key: "lease", Self: self, Owner: owner, Exclusive: true, Clock: coordination.GoClock{},
		Value: func(beat uint64) []byte { return fmt.Appendf(nil, "%s %d", self, beat) },
	}
}

// run runs a lease in a bubble.
func run(t *testing.T, cfg coordination.LeaseConfig) (*coordination.Lease, func()) {
	l := coordination.NewLease(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return l, stop
}

func TestHolderCountsFromSend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coordtest.NewMemory()
		var slow atomic.Int64
		s.Fail(func(when coordtest.Moment, _ []coordination.Op) error {
			if when == coordtest.AfterWrite {
				time.Sleep(time.Duration(slow.Load()))
			}
			return nil
		})
		slow.Store(int64(1500 * time.Millisecond))
		l, _ := run(t, config(s, "a"))
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if left := l.Left(); left != coordination.LeaseTTL-1500*time.Millisecond {
			t.Fatalf("C1: %v left after an answer that took 1.5s", left)
		}
	})
}

// A renewal that was written but whose answer was lost must neither extend the
// lease nor make the holder fight itself.
func TestLostAnswersEndTheLeaseInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coordtest.NewMemory()
		var lost, ended atomic.Bool
		s.Fail(func(when coordtest.Moment, _ []coordination.Op) error {
			if lost.Load() && when == coordtest.AfterWrite {
				return errors.New("answer lost")
			}
			return nil
		})
		cfg := config(s, "a")
		cfg.Changed = func(err error) { ended.Store(err != nil) }
		l, _ := run(t, cfg)
		synctest.Wait()
		lost.Store(true)
		time.Sleep(coordination.LeaseTTL - time.Millisecond)
		if !l.Valid() || l.Term() != 1 {
			t.Fatal("ended too early")
		}
		time.Sleep(2 * time.Millisecond)
		if l.Valid() {
			t.Fatal("an unanswered renewal extended the lease")
		}
		time.Sleep(time.Second)
		if !ended.Load() {
			t.Fatal("nobody was told that the lease ended")
		}
		lost.Store(false)
		time.Sleep(time.Second)
		if !l.Valid() || ended.Load() {
			t.Fatal("the holder could not take its own lease again")
		}
		if l.Term() != 2 {
			t.Fatalf("term %d after a lapse; work begun before it would be finished", l.Term())
		}
	})
}

func TestConfirmComesBeforeExtension(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		cfg := config(coordtest.NewMemory(), "a")
		cfg.Confirm = func(context.Context) error {
			if fails.Load() {
				return errors.New("share records cannot be read")
			}
			return nil
		}
		l, _ := run(t, cfg)
		synctest.Wait()
		fails.Store(true)
		time.Sleep(coordination.LeaseTTL + time.Millisecond)
		if l.Valid() {
			t.Fatal("extended although the records were not read")
		}
	})
}

// The waiter may go on only after the holder has stopped, whatever is lost and
// however late writes come (C3): all combinations of when the store goes away for
// the holder and how long writes take.
func TestHolderStopsBeforeWaiterGoesOn(t *testing.T) {
	t.Parallel()
	for away := 500 * time.Millisecond; away < 3*time.Second; away += 190 * time.Millisecond {
		for _, delay := range []time.Duration{0, 300 * time.Millisecond, 1900 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				shared := coordtest.NewMemory()
				start := time.Now()
				far := &farStore{Store: shared, delay: delay, lost: func() bool { return time.Since(start) > away }}
				holder, _ := run(t, config(far, "holder"))
				time.Sleep(delay + 10*time.Millisecond)
				waiter, _ := run(t, config(shared, "waiter"))
				for waited := time.Duration(0); !waiter.Valid(); waited += time.Millisecond {
					if waited > 20*time.Second {
						t.Fatal("the waiter never went on")
					}
					time.Sleep(time.Millisecond)
				}
				for range 100 {
					if holder.Valid() && waiter.Valid() {
						t.Fatalf("C3: two owners (away after %v, delay %v)", away, delay)
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
}

// farStore delays each write on the way there, and loses all answers once the
// holder is cut off while writes still arrive.
type farStore struct {
	coordination.Store
	delay time.Duration
	lost  func() bool
}

func (f *farStore) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	time.Sleep(f.delay)
	v, err := f.Store.Put(ctx, key, value, version)
	if f.lost() {
		return 0, coordination.ErrUnavailable
	}
	return v, err
}

func (f *farStore) Get(ctx context.Context, key string) (coordination.Entry, error) {
	if f.lost() {
		return coordination.Entry{}, coordination.ErrUnavailable
	}
	return f.Store.Get(ctx, key)
}

// C4: a key deleted by an operator ends the wait no sooner.
func TestVanishedKeyIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := coordtest.NewMemory()
		clock := coordination.GoClock{}
		w := coordination.NewWaiter(4*time.Second, time.Second, clock)
		v, err := s.Put(t.Context(), "g/1", []byte("boot1 0"), 0)
		if err != nil {
			t.Fatal(err)
		}
		look := func() {
			started := clock.Now()
			entries, err := s.List(t.Context(), "g/")
			if err != nil {
				t.Fatal(err)
			}
			w.Observe(started, "g/", entries, owner)
		}
		look()
		time.Sleep(4900 * time.Millisecond)
		if err := s.Delete(t.Context(), "g/1", v); err != nil {
			t.Fatal(err)
		}
		look()
		time.Sleep(4900 * time.Millisecond)
		if w.Over("g/1", "boot1") {
			t.Fatal("C4: 4.9s after the key vanished")
		}
		time.Sleep(200 * time.Millisecond)
		if !w.Over("g/1", "boot1") {
			t.Fatal("still not over 5.1s after the key vanished")
		}
		if w.Over("g/1", "boot0") {
			t.Fatal("an owner never seen is over")
		}
		w.Expect("g/1", "boot0")
		time.Sleep(5100 * time.Millisecond)
		if !w.Over("g/1", "boot0") {
			t.Fatal("an expected owner is never over")
		}
	})
}

// C2: a waiter that was stopped itself must read again before it believes.
func TestWaiterBelievesOnlyALateRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := coordination.GoClock{}
		w := coordination.NewWaiter(4*time.Second, time.Second, clock)
		entries := []coordination.Entry{{Key: "g/1", Value: []byte("boot1 0"), Version: 1}}
		w.Observe(clock.Now(), "g/", entries, owner)
		early := clock.Now()
		time.Sleep(time.Minute) // the read was sent before the pause
		w.Observe(early, "g/", entries, owner)
		if w.Over("g/1", "boot1") {
			t.Fatal("C2: over by a read from before the pause")
		}
		w.Observe(clock.Now(), "g/", entries, owner)
		if !w.Over("g/1", "boot1") {
			t.Fatal("not over after a fresh read")
		}
		w.Observe(clock.Now(), "g/", []coordination.Entry{{Key: "g/1", Value: []byte("boot1 1"), Version: 2}}, owner)
		if w.Over("g/1", "boot1") {
			t.Fatal("a renewal was ignored")
		}
	})
}

type brokenClock struct {
	at atomic.Pointer[coordination.Instant]
}

func (c *brokenClock) Now() coordination.Instant { return *c.at.Load() }

func TestClocks(t *testing.T) {
	t.Parallel()
	base := time.Now() // with a monotonic part
	at := func(mono, boot time.Duration) coordination.Instant {
		return coordination.Instant{Time: base.Add(mono), Boot: time.Hour + boot}
	}
	a := at(0, 0)
	if got := a.Longest(at(time.Second, time.Minute)); got != time.Minute {
		t.Errorf("a holder that was suspended counts %v", got)
	}
	if got := a.Shortest(at(time.Second, time.Minute)); got != time.Second {
		t.Errorf("a waiter that was suspended counts %v", got)
	}
	clock := &brokenClock{}
	start := coordination.SystemClock{}.Now()
	clock.at.Store(&start)
	cfg := config(coordtest.NewMemory(), "a")
	cfg.Clock = clock
	l, _ := run(t, cfg)
	for !l.Valid() {
		time.Sleep(time.Millisecond)
	}
	// time.Time cannot be given a wall clock that jumped against its monotonic
	// part; without the monotonic part it is the boot clock that tells.
	suspended := start
	suspended.Boot += coordination.LeaseTTL + time.Millisecond
	clock.at.Store(&suspended)
	if l.Valid() {
		t.Error("C1: the lease outlived a suspend")
	}
	if now := (coordination.SystemClock{}).Now(); now.Boot == 0 {
		t.Error("CLOCK_BOOTTIME cannot be read here")
	}
}

const childEnv = "SPILLWAY_TEST_LEASE_HOLDER"

// TestMain lets the test binary be the process that holds the lease.
func TestMain(m *testing.M) {
	if addr := os.Getenv(childEnv); addr != "" {
		holdAndTell(addr)
		return
	}
	os.Exit(m.Run())
}

const (
	shortTTL    = 600 * time.Millisecond
	shortEvery  = 100 * time.Millisecond
	shortMargin = 200 * time.Millisecond
)

func short(s coordination.Store, self string) coordination.LeaseConfig {
	cfg := config(s, self)
	cfg.Clock, cfg.TTL, cfg.Every, cfg.Margin = nil, shortTTL, shortEvery, shortMargin
	return cfg
}

// machineTime is CLOCK_MONOTONIC, which all processes of a machine share.
func machineTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// holdAndTell prints the time of each instant at which it believes that it holds
// the lease. The time is read first: a stop in between makes it too early, never
// too late.
func holdAndTell(addr string) {
	l := coordination.NewLease(short(embedded.Dial(addr), "child"))
	go l.Run(context.Background())
	out := bufio.NewWriter(os.Stdout)
	for {
		at := machineTime()
		if l.Valid() {
			fmt.Fprintln(out, at)
		} else {
			fmt.Fprintln(out, "-")
		}
		if err := out.Flush(); err != nil {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// A process stopped by SIGSTOP wakes up long after its lease was over. It must
// not believe for an instant that it still holds it.
func TestStoppedHolderNeverBelieves(t *testing.T) {
	t.Parallel()
	s, err := embedded.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(ctx, listener) }() // ends with ctx
	defer func() { cancel(); <-served }()

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+listener.Addr().String())
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1<<20)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()

	for line := range lines {
		if line != "-" {
			break // the child holds the lease
		}
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := machineTime()
	waiter, stop := run(t, short(s, "waiter"))
	for !waiter.Valid() {
		if machineTime()-stopped > int64(20*time.Second) {
			t.Fatal("the waiter never took over")
		}
		time.Sleep(time.Millisecond)
	}
	taken := machineTime()
	if took := time.Duration(taken - stopped); took < shortTTL {
		t.Fatalf("taken over after %v, sooner than the lease of %v", took, shortTTL)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	believed, awake := 0, 0
	for deadline := time.After(2 * shortTTL); awake < 2000; {
		select {
		case line := <-lines:
			var at int64
			if line == "-" {
				awake++
			} else if _, err := fmt.Sscan(line, &at); err == nil && at > taken {
				believed++
			}
			continue
		case <-deadline:
		}
		break
	}
	stop()
	if awake < 100 {
		t.Fatalf("the child told only %d times after it went on", awake)
	}
	if believed > 0 {
		t.Fatalf("the stopped holder believed %d times that it holds the lease", believed)
	}
}
