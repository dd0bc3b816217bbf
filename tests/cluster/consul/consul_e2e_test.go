//go:build e2e

package consul

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// A datacenter of three keeps what was written when its leader is killed, and
// takes the killed server back on its old ports.
func TestThreeServersSurviveTheirLeader(t *testing.T) {
	c := ForTest(t, 3)
	leader, err := c.Leader(t.Context())
	must(t, err)
	put(t, leader, "epoch", "1")
	must(t, leader.Kill())

	var survivor *Server
	for _, s := range c.Servers {
		if s != leader {
			survivor = s
		}
	}
	put(t, survivor, "epoch", "2")
	must(t, leader.Start(t.Context()))
	if got := get(t, leader, "epoch"); got != "2" {
		t.Errorf("the server that came back reads %q, want 2", got)
	}
}

// A server that was dead for longer than Consul takes to find it so counts as soon as it is
// back: with two others gone, and one of these back, there are two of three. By Consul's
// default it would have been taken out of the voters, and nobody would lead until the third
// came as well.
func TestAServerThatWasDeadCountsAgainAtOnce(t *testing.T) {
	c := ForTest(t, 3)
	dead := c.Servers[2]
	must(t, dead.Kill())
	eventually(t, func() error { return failed(t, c.Servers[0], dead.Name) })
	time.Sleep(autopilotInterval + time.Second)
	must(t, dead.Start(t.Context()))
	must(t, c.Servers[0].Kill())
	must(t, c.Servers[1].Kill())
	must(t, c.Servers[0].Start(t.Context()))
	put(t, dead, "epoch", "1")
	must(t, c.Servers[1].Start(t.Context()))
}

// autopilotInterval is how often a leader looks for servers that are dead.
const autopilotInterval = 10 * time.Second

// failed says whether a server has found another one dead.
func failed(t *testing.T, s *Server, name string) error {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: s.HTTP})
	must(t, err)
	members, err := client.Agent().Members(false)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name == name && m.Status != memberFailed {
			return fmt.Errorf("%s has status %d", name, m.Status)
		}
	}
	return nil
}

// memberFailed is serf's StatusFailed.
const memberFailed = 4

func TestAPausedServerAnswersNothingAndGoesOn(t *testing.T) {
	c := ForTest(t, 1)
	s := c.Servers[0]
	put(t, s, "epoch", "1")
	must(t, s.Pause())
	if _, err := s.get(t.Context(), "/v1/status/leader"); err == nil {
		t.Error("a paused server answered")
	}
	must(t, s.Resume())
	if got := get(t, s, "epoch"); got != "1" {
		t.Errorf("after the pause it reads %q, want 1", got)
	}
	must(t, s.Stop())
	must(t, s.Start(t.Context()))
	if got := get(t, s, "epoch"); got != "1" {
		t.Errorf("after a restart it reads %q, want 1", got)
	}
}

func kv(t *testing.T, s *Server) *api.KV {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: s.HTTP})
	must(t, err)
	return client.KV()
}

// put waits out an election.
func put(t *testing.T, s *Server, key, value string) {
	t.Helper()
	eventually(t, func() error {
		_, err := kv(t, s).Put(&api.KVPair{Key: key, Value: []byte(value)}, nil)
		return err
	})
}

func get(t *testing.T, s *Server, key string) string {
	t.Helper()
	var value string
	eventually(t, func() error {
		pair, _, err := kv(t, s).Get(key, &api.QueryOptions{RequireConsistent: true})
		if err == nil && pair != nil {
			value = string(pair.Value)
		}
		return err
	})
	return value
}

func eventually(t *testing.T, act func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := act()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
