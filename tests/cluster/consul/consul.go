// Package consul starts real Consul servers for tests.
package consul

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"spillway/tests/cluster/cache"
	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
)

// Version is the newest that builds from the Go proxy; later ones need
// submodules that were never published there.
const Version = "1.13.9"

// The server is built in a module of its own: its dependencies are none of
// Spillway's. The sums pin every one of them.
var (
	//go:embed server.mod
	serverMod []byte
	//go:embed server.sum
	serverSum []byte
)

const (
	startPatience = time.Minute
	stopPatience  = 15 * time.Second
)

// Binary returns the path of the Consul program, which is built on the first
// call (3 to 6 minutes on two cores) and kept in the cache.
func Binary(ctx context.Context) (string, error) {
	digest := sha256.Sum256(append(append([]byte{}, serverMod...), serverSum...))
	dir, err := cache.Entry("consul-"+Version+"-"+hex.EncodeToString(digest[:4]), func(dir string) error {
		return build(ctx, dir)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "consul"), nil
}

func build(ctx context.Context, dir string) error {
	module, err := os.MkdirTemp("", "spillway-consul-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(module) }()
	for name, text := range map[string][]byte{"go.mod": serverMod, "go.sum": serverSum} {
		if err := os.WriteFile(filepath.Join(module, name), text, 0o644); err != nil {
			return err
		}
	}
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w",
		"-o", filepath.Join(dir, "consul"), "github.com/hashicorp/consul")
	command.Dir = module
	command.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build Consul %s: %w\n%s", Version, err, output)
	}
	return nil
}

// Config describes one Consul datacenter.
type Config struct {
	Servers int    // 1 if 0; three survive the loss of one
	Dir     string // data and logs; what is there already is used again

	// Token, if given, is the management token: access is ruled by policies then, and
	// who has none may do nothing. It is a UUID.
	Token string

	// Places say where each server is; empty: all on 127.0.0.1.
	Places []Place
}

// Place is where a server listens, and the network namespace that it runs in
// (empty: that of the test).
type Place struct{ Host, Network string }

// Cluster is one Consul datacenter of servers without agents.
type Cluster struct {
	Servers []*Server
}

// Server is one Consul server. It keeps its ports while it is down. Use it from
// one goroutine at a time.
type Server struct {
	Name string
	HTTP string // host:port of its HTTP API
	Log  string

	binary  string
	config  string
	token   string
	network string
	process *process.Process
}

// Start starts all servers and returns when they have elected a leader that
// every one of them knows. On an error nothing is left running.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	c := &Cluster{}
	if err := c.start(ctx, config); err != nil {
		return nil, errors.Join(fmt.Errorf("consul: %w", err), c.Kill())
	}
	return c, nil
}

// memory is the folder of Linux whose files are in memory.
const memory = "/dev/shm"

// ForTest starts a datacenter of n servers for one test and kills it at its
// end. If the test failed, the ends of the logs are shown. Its data is in memory
// where the machine has a folder for that: a server forces each write to its disk, and
// a disk that builds share takes ten times as long for that as those that a
// service is given.
func ForTest(t testing.TB, n int, places ...Place) *Cluster {
	t.Helper()
	return forTest(t, Config{Servers: n, Places: places})
}

// WithPolicies starts one server for one test, with a management token: all others need
// tokens with policies.
func WithPolicies(t testing.TB, token string) *Cluster {
	t.Helper()
	return forTest(t, Config{Servers: 1, Token: token})
}

func forTest(t testing.TB, config Config) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp(memory, "spillway-consul-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	config.Dir = dir
	c, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
		for _, s := range c.Servers {
			if t.Failed() {
				t.Logf("end of the log of %s:\n%s", s.Name, s.process.Tail(30))
			}
		}
	})
	return c
}

func (c *Cluster) start(ctx context.Context, config Config) error {
	binary, err := Binary(ctx)
	if err != nil {
		return err
	}
	servers := max(1, config.Servers)
	numbers, err := port.Reserve(4 * servers)
	if err != nil {
		return err
	}
	places := config.Places
	if len(places) == 0 {
		places = []Place{{Host: "127.0.0.1"}}
	}
	var gossip []string
	for i := range servers {
		gossip = append(gossip, net.JoinHostPort(places[i%len(places)].Host, strconv.Itoa(numbers[4*i+2])))
	}
	for i := range servers {
		s := &Server{
			Name:   fmt.Sprintf("consul-%d", i+1),
			HTTP:   net.JoinHostPort(places[i%len(places)].Host, strconv.Itoa(numbers[4*i])),
			binary: binary, token: config.Token, network: places[i%len(places)].Network,
			config: filepath.Join(config.Dir, fmt.Sprintf("consul-%d.json", i+1)),
			Log:    filepath.Join(config.Dir, fmt.Sprintf("consul-%d.log", i+1)),
		}
		settings, err := json.MarshalIndent(serverConfig(s.Name, places[i%len(places)].Host, filepath.Join(config.Dir, s.Name), servers, numbers[4*i:4*i+4], gossip, config.Token), "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(config.Dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(s.config, settings, 0o644); err != nil {
			return err
		}
		c.Servers = append(c.Servers, s)
		if err := s.start(); err != nil {
			return err
		}
	}
	for _, s := range c.Servers {
		if err := s.process.Await(startPatience, func() error { return s.ready(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// serverConfig takes four ports: HTTP, server RPC, LAN gossip, WAN gossip.
func serverConfig(name, host, dataDir string, servers int, numbers []int, gossip []string, token string) map[string]any {
	settings := map[string]any{
		"node_name":        name,
		"server":           true,
		"bootstrap_expect": servers,
		"data_dir":         dataDir,
		"bind_addr":        host,
		"client_addr":      host,
		"retry_join":       gossip,
		"retry_interval":   "1s",
		"log_level":        "INFO",
		// The default of 5 is for small shared machines and makes an election take up to 10 s.
		"performance": map[string]any{"raft_multiplier": 1},
		// A server that was away counts again at once. Otherwise the next one to fail may take
		// the quorum along, though two of three are there (docs/operate/deploy.md).
		"autopilot":               map[string]any{"cleanup_dead_servers": false},
		"disable_update_check":    true,
		"leave_on_terminate":      false, // a server that is stopped comes back as the same one
		"skip_leave_on_interrupt": true,
		"ports": map[string]any{
			"http": numbers[0], "server": numbers[1], "serf_lan": numbers[2], "serf_wan": numbers[3],
			"dns": -1, "grpc": -1, "https": -1,
		},
	}
	if token != "" {
		settings["acl"] = map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{"initial_management": token, "agent": token}}
	}
	return settings
}

// Addresses lists the HTTP addresses of all servers, running or not.
func (c *Cluster) Addresses() []string {
	var all []string
	for _, s := range c.Servers {
		all = append(all, s.HTTP)
	}
	return all
}

// Kill ends all servers with SIGKILL.
func (c *Cluster) Kill() error {
	var faults []error
	for _, s := range c.Servers {
		if s.process != nil {
			faults = append(faults, s.Kill())
		}
	}
	return errors.Join(faults...)
}

// Stop ends all servers in order.
func (c *Cluster) Stop() error {
	var faults []error
	for _, s := range c.Servers {
		if s.process != nil {
			faults = append(faults, s.Stop())
		}
	}
	return errors.Join(faults...)
}

// Leader returns the server that leads now.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	for _, s := range c.Servers {
		self, err := s.get(ctx, "/v1/agent/self")
		if err != nil {
			continue // down, or paused
		}
		var answer struct {
			Stats struct {
				Consul struct{ Leader string }
			}
		}
		if err := json.Unmarshal(self, &answer); err == nil && answer.Stats.Consul.Leader == "true" {
			return s, nil
		}
	}
	return nil, errors.New("no Consul server says that it leads")
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() error { return s.process.Kill() }

// Stop ends the server in order.
func (s *Server) Stop() error { return s.process.Stop(stopPatience) }

// Pause stops the server with SIGSTOP.
func (s *Server) Pause() error { return s.process.Pause() }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.process.Resume() }

// Pid is the server's process id, of its last start.
func (s *Server) Pid() int { return s.process.Pid() }

// Start starts a server that was killed or stopped and waits until it knows a leader.
func (s *Server) Start(ctx context.Context) error {
	if err := s.start(); err != nil {
		return err
	}
	return s.process.Await(startPatience, func() error { return s.ready(ctx) })
}

func (s *Server) start() error {
	if s.process != nil {
		select {
		case <-s.process.Done():
		default:
			return fmt.Errorf("start %s: it runs already as process %d", s.Name, s.process.Pid())
		}
	}
	p, err := process.Start(process.Spec{Name: s.Name, Path: s.binary, Args: []string{"agent", "-config-file=" + s.config}, Log: s.Log, Network: s.network})
	s.process = p
	return err
}

// ready writes nothing; it asks for the leader and then reads the store through it.
func (s *Server) ready(ctx context.Context) error {
	leader, err := s.get(ctx, "/v1/status/leader")
	if err != nil {
		return err
	}
	if strings.Trim(string(leader), "\"\n") == "" {
		return errors.New("no leader yet")
	}
	if _, err = s.get(ctx, "/v1/catalog/nodes?consistent"); err != nil || s.token == "" {
		return err
	}
	_, err = s.get(ctx, "/v1/acl/token/self") // the leader has made it
	return err
}

func (s *Server) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTP+path, nil)
	if err != nil {
		return nil, err
	}
	if s.token != "" {
		request.Header.Set("X-Consul-Token", s.token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := readBounded(response)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s%s: %s: %s", s.HTTP, path, response.Status, body)
	}
	return body, nil
}

func readBounded(response *http.Response) ([]byte, error) {
	return io.ReadAll(io.LimitReader(response.Body, 1<<20))
}
