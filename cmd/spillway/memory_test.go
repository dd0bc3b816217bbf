package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/broker/embedded"
)

// What a mirror takes at its most is what it may hold of records, and something beside:
// here with a backlog of large batches in many partitions of two brokers, of which each
// could bring much more than that in one answer.
func TestMemoryOfAMirror(t *testing.T) {
	const partitions, each, size = 48, 30, 100 << 10 // 144 MB
	const budget, beside = 16 << 20, 96 << 20
	east := largeSite(t, partitions)
	west := largeSite(t, partitions)
	cl, err := kgo.NewClient(kgo.SeedBrokers(east...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(size+1000))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for i := range partitions * each {
		cl.Produce(t.Context(), &kgo.Record{Topic: "orders", Partition: int32(i % partitions), Value: value}, nil)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "spillway")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, binary, "mirror", "run", "--from", strings.Join(east, ","), "--to", strings.Join(west, ","),
		"--topics", "orders", "--memory", "16MiB", "--until-caught-up")
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	run.Env = plainEnv(os.Environ())
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	rss := 0
	for alive := true; alive; {
		select {
		case err := <-ended:
			if alive = false; err != nil || !strings.Contains(out.String(), "1440") {
				t.Fatalf("%v: %s", err, out.String())
			}
		case <-time.After(20 * time.Millisecond):
			rss = max(rss, peak(run.Process.Pid))
		}
	}
	t.Logf("measured: %d MiB at most, of %d MiB for records", rss>>20, budget>>20)
	if rss == 0 || rss > budget+beside {
		t.Errorf("it took %d MiB at most, want %d for records and %d beside", rss>>20, budget>>20, beside>>20)
	}
}

// plainEnv leaves out what sets the garbage collector of a process from outside: the
// mirror's own settings are measured.
func plainEnv(env []string) []string {
	return slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "GOMEMLIMIT=") || strings.HasPrefix(e, "GOGC=") })
}

// peak is the most that a process had in memory so far, in bytes. What the system tells
// of one that has ended counts its parent too, from which it was forked.
func peak(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it has ended
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, _ = fmt.Sscan(after, &kib) // 0 while it ends
	return kib << 10
}

func largeSite(t *testing.T, partitions int32) []string {
	t.Helper()
	c, err := embedded.Start(embedded.Config{Site: "x", Brokers: 2, Topics: map[string]int32{"orders": partitions}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Addresses()
}

func TestPlainEnv(t *testing.T) {
	t.Parallel()
	got := plainEnv([]string{"HOME=/x", "GOMEMLIMIT=1GiB", "GOGCX=1", "GOGC=off"})
	if want := []string{"HOME=/x", "GOGCX=1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
