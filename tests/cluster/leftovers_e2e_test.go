//go:build e2e

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spillway/tests/cluster/consul"
	"spillway/tests/cluster/kafka"
)

// The test runs its own binary as a child, which starts a cluster as any test
// does, and is then killed without a chance to clean up.
const childDir = "SPILLWAY_TEST_CHILD_DIR"

func TestAKilledTestLeavesNoProcess(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		startAndWait(t, dir)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAKilledTestLeavesNoProcess$", "-test.timeout=5m")
	child.Env = append(os.Environ(), childDir+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	started := pidsOf(output)
	if len(started) != 3 {
		t.Fatalf("the child started %v, want two brokers and one Consul", started)
	}
	for _, pid := range started {
		if !alive(pid) {
			t.Fatalf("process %d is not running before the kill; this test proves nothing", pid)
		}
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // killed, as wanted
	deadline := time.Now().Add(5 * time.Second)
	for _, pid := range started {
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d outlives the test that started it", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	fmt.Printf("killed one test process: its %d servers ended with it\n", len(started))
}

// pidsOf reads up to the line that says what the child started.
func pidsOf(output io.Reader) (pids []int) {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		list, ok := strings.CutPrefix(lines.Text(), "started ")
		if !ok {
			continue
		}
		for field := range strings.FieldsSeq(list) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil
			}
			pids = append(pids, pid)
		}
		return pids
	}
	return nil
}

func startAndWait(t *testing.T, dir string) {
	clusters, err := kafka.StartAll(t.Context(),
		kafka.Config{Name: "east", Dir: filepath.Join(dir, "east")}, kafka.Config{Name: "west", Dir: filepath.Join(dir, "west")})
	must(t, err)
	servers, err := consul.Start(t.Context(), consul.Config{Dir: filepath.Join(dir, "consul")})
	must(t, err)
	fmt.Println("started", clusters[0].Brokers[0].Pid(), clusters[1].Brokers[0].Pid(), servers.Servers[0].Pid())
	select {} // until the kill
}

// alive is false for a process that ended, also while nobody has waited for it.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
