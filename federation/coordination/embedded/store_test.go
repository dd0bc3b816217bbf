package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/coordination/embedded"
)

func open(t *testing.T, path string) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // some tests close it themselves
	return s
}

// serve answers until the test ends or the returned function is called.
func serve(t *testing.T, s *embedded.Store, network, addr string) (string, func()) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	coordtest.Contract(t, func(t *testing.T) (coordination.Store, string) {
		return open(t, filepath.Join(t.TempDir(), "store")), "t/"
	})
}

func TestClientKeepsTheContract(t *testing.T) {
	t.Parallel()
	for network, addr := range map[string]func(*testing.T) string{
		"tcp":  func(*testing.T) string { return "127.0.0.1:0" },
		"unix": func(t *testing.T) string { return filepath.Join(t.TempDir(), "s") },
	} {
		t.Run(network, func(t *testing.T) {
			coordtest.Contract(t, func(t *testing.T) (coordination.Store, string) {
				addr, _ := serve(t, open(t, filepath.Join(t.TempDir(), "store")), network, addr(t))
				if network == "unix" {
					addr = "unix:" + addr
				}
				c := embedded.Dial(addr)
				t.Cleanup(func() { _ = c.Close() })
				return c, "t/"
			})
		})
	}
}

func TestFileIsLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	open(t, path)
	if _, err := embedded.Open(path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Fatalf("opened twice: %v", err)
	}
}

func TestOnlyLocalProcessesAreServed(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"))
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Serve(context.Background(), l); err == nil || !strings.Contains(err.Error(), "only loopback") {
		t.Fatalf("served on all addresses: %v", err)
	}
	addr, _ := serve(t, s, "tcp", "127.0.0.1:0")
	for kind, want := range map[string]int{"text/plain": http.StatusUnsupportedMediaType, "application/json": http.StatusBadRequest} {
		resp, err := http.Post("http://"+addr+"/v1/apply", kind, strings.NewReader("{"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", kind, resp.StatusCode, want)
		}
	}
}

// An answer without the entry that was asked for is a fault, and no entry of version 0: that
// would be a key that nobody has written yet.
func TestAnAnswerWithoutTheEntryIsAFault(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }() // ends with Close
	defer func() { _ = server.Close(); <-served }()
	if e, err := embedded.Dial(l.Addr().String()).Get(t.Context(), "shares/orders"); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("%+v, %v", e, err)
	}
}

// A watcher must hear of changes made while the process was away, deletions too.
func TestWatchOutlivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	addr, stop := serve(t, s, "tcp", "127.0.0.1:0")
	c := embedded.Dial(addr)
	defer c.Close()
	version, err := c.Put(context.Background(), "w/a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 100)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Watch(ctx, "w/", func(entries []coordination.Entry, err error) { // ends with ctx
			told <- fmt.Sprint(len(entries), errors.Is(err, coordination.ErrUnavailable))
		})
	}()
	defer func() { cancel(); <-ended }()
	if got := <-told; got != "1 false" {
		t.Fatalf("first %s", got)
	}
	stop()
	if got := <-told; got != "0 true" {
		t.Fatalf("interruption told as %s", got)
	}
	if err := s.Delete(context.Background(), "w/a", version); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, open(t, path), "tcp", addr)
	if got := <-told; got != "0 false" {
		t.Fatalf("after the restart %s", got)
	}
}

const childEnv = "SPILLWAY_TEST_EMBEDDED_STORE"

// TestMain lets the test binary be the process that owns the store.
func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		ownStore(path)
		return
	}
	os.Exit(m.Run())
}

func ownStore(path string) {
	s, err := embedded.Open(path)
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	if err := s.Serve(context.Background(), l); err != nil {
		panic(err)
	}
}

// Every answered write must be there after the owner was killed, and versions
// must go on rising.
func TestKilledOwnerLosesNothingAnswered(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store")
	start := func() (*exec.Cmd, *embedded.Client) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return cmd, embedded.Dial(strings.TrimSpace(line))
	}
	answered, last := map[string]int{}, uint64(0)
	for round := range 3 {
		cmd, c := start()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					key := fmt.Sprintf("r%d/w%d/%d", round, w, i)
					value, _ := json.Marshal(i)
					v, err := c.Put(context.Background(), key, value, 0)
					if err != nil {
						return
					}
					mu.Lock()
					answered[key], last = i, max(last, v)
					mu.Unlock()
				}
			})
		}
		time.Sleep(50 * time.Millisecond) // how long to write before the kill; nothing waits for it
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		_ = cmd.Wait() // killed
		_ = c.Close()
	}
	if len(answered) < 10 {
		t.Fatalf("only %d writes were answered", len(answered))
	}
	s := open(t, path)
	for key, want := range answered {
		if e, err := s.Get(context.Background(), key); err != nil || string(e.Value) != fmt.Sprint(want) {
			t.Fatalf("%s: %s, %v", key, e.Value, err)
		}
	}
	if v, err := s.Put(context.Background(), "next", nil, 0); err != nil || v <= last {
		t.Fatalf("version %d after %d, %v", v, last, err)
	}
}
