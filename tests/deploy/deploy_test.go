//go:build e2e

package deploy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	moves "spillway/federation/history"
)

const targetsPatience = time.Minute

// TestDeploy tells the life of a deployment: refused with a wrong variable,
// made, left alone, used, changed with a fault in it, changed.
func TestDeploy(t *testing.T) {
	made, err := decodeArtifacts()
	must(t, err)
	started := time.Now()
	booted := boot(t, made, addresses)
	t.Logf("%d hosts up in %s", len(booted), time.Since(started).Round(time.Second))
	t.Cleanup(func() {
		if t.Failed() {
			booted.show(t)
		}
	})
	inventory := inventory(t, made)

	// Nothing is changed anywhere while anything is wrong anywhere.
	refused := deploy(t, made, inventory, "-e kafka_site=north").refuses(t, `kafka_site is "north", but east-1 is in no inventory group of that name`)
	if refused.changed != 0 {
		t.Fatalf("a refused run changed %d things:\n%s", refused.changed, refused.changes())
	}

	first := deploy(t, made, inventory).green(t)
	t.Logf("first run: changed=%d in %s", first.changed, first.took)
	booted.checkServices(t)

	second := deploy(t, made, inventory).green(t)
	t.Logf("second run: changed=%d in %s", second.changed, second.took)
	if second.changed != 0 {
		t.Fatalf("the second run changed %d things:\n%s", second.changed, second.changes())
	}

	sites := map[string]*site{}
	for _, name := range []string{"east", "west"} {
		sites[name] = openSite(t, inventory, booted[name+"-1"])
		sites[name].roundTrip(t, "deployed", 1000)
	}

	switchUnderLoad(t, booted, inventory)
	booted["north-1"].drills(t)

	// A configuration that Kafka would refuse is refused before it is installed.
	pids := booted.pids(t)
	deploy(t, made, inventory, `--tags kafka -e {"kafka_properties":{"num.partitions":"many"},"kafka_hide_secrets":false}`).
		refuses(t, "Invalid value many for configuration num.partitions")
	if now := booted.pids(t); now != pids {
		t.Fatalf("a refused configuration restarted something:\nbefore %s\nafter  %s", pids, now)
	}

	// A change is shown first, by a run that changes nothing.
	const change = `--tags kafka -e {"kafka_properties":{"log.retention.hours":"72"},"kafka_hide_secrets":false}`
	shown := deploy(t, made, inventory, "--check --diff", change).green(t)
	if shown.changed != len(sites) || strings.Count(shown.output, "+log.retention.hours=72") != len(sites) || booted.pids(t) != pids {
		t.Fatalf("--check --diff of one changed setting:\n%s%s", shown.changes(), tail(shown.output, 60))
	}

	// It restarts the brokers, and nothing else.
	third := deploy(t, made, inventory, change).green(t)
	t.Logf("with a changed setting: changed=%d in %s", third.changed, third.took)
	for name, s := range sites {
		if s.count(t, "deployed") != 1000 {
			t.Errorf("%s lost records over its restart", name)
		}
	}
	booted.checkRestarted(t, pids)
	booted.checkServices(t)
}

// checkServices asks the hosts, not Ansible, what runs.
func (hs hosts) checkServices(t *testing.T) {
	t.Helper()
	peers := hs["west-1"].run(t, "consul operator raft list-peers")
	if strings.Count(peers, " leader ") != 1 || strings.Count(peers, " true ") != len(hs) {
		t.Errorf("Consul has no leader, or not %d voters:\n%s", len(hs), peers)
	}
	if autopilot := hs["west-1"].run(t, "consul operator autopilot get-config"); !strings.Contains(autopilot, "CleanupDeadServers = false") {
		t.Errorf("servers that do not answer for a while count no more:\n%s", autopilot)
	}
	for name, services := range hardened {
		for _, service := range services {
			// The threshold is in tenths of systemd's exposure level, of which 10 is the worst.
			hs[name].run(t, "systemd-analyze security --no-pager --threshold=25 "+service)
		}
	}
	for name, h := range hs {
		var status struct{ Coordinator struct{ Up bool } }
		// 10 says that something is unhealthy: groups have no topics yet, for example.
		text := h.run(t, "spillway --config /etc/spillway/spillway.yaml status -o json || test $? = 10")
		if err := json.Unmarshal([]byte(text), &status); err != nil || !status.Coordinator.Up {
			t.Errorf("spillway status on %s: %v\n%s", name, err, text)
		}
		if failed := strings.TrimSpace(h.run(t, "systemctl --failed --no-legend --plain")); failed != "" {
			t.Errorf("units of %s failed:\n%s", name, failed)
		}
	}
	checkTargets(t, "http://"+addresses["north-1"]+":9090", 1+2*len(hs))
}

// drills has a host hold the drill that its timer would: a failover to west and the way
// home, under the load of the drill's own client.
func (h *host) drills(t *testing.T) {
	t.Helper()
	if timers := h.run(t, "systemctl list-timers --no-legend --plain spillway-drill.timer"); !strings.Contains(timers, "spillway-drill.service") {
		t.Errorf("no timer holds drills: %q", timers)
	}
	h.run(t, "systemd-analyze security --no-pager --threshold=25 spillway-drill.service")
	h.run(t, "systemctl start spillway-drill.service || { journalctl --no-pager -u spillway-drill.service; false; }")
	text := h.run(t, "spillway --config /etc/spillway/spillway.yaml drill list drill -o json")
	var drills []moves.Drill
	if err := json.Unmarshal([]byte(text), &drills); err != nil || len(drills) != 1 || drills[0].Outcome != moves.DrillPassed || len(drills[0].Moves) != 2 {
		t.Fatalf("the drill of the timer: %v\n%s", err, text)
	}
	recovery, _ := drills[0].Recovery()
	t.Logf("drill of the timer: clients waited %s in the failover; %d sent, %d acknowledged, %d lost", recovery, drills[0].Sent, drills[0].Acked, drills[0].Lost)
}

// What runs where, for the units that the roles wrote.
var hardened = map[string][]string{
	"east-1":  {"consul", "kafka", "spillway"},
	"west-1":  {"consul", "kafka", "spillway"},
	"north-1": {"consul", "spillway"},
}

// pids tells the main processes of all services, so that restarts show.
func (hs hosts) pids(t *testing.T) string {
	t.Helper()
	var all []string
	for _, name := range []string{"east-1", "west-1", "north-1"} {
		for _, service := range hardened[name] {
			pid := hs[name].run(t, "systemctl show --property=MainPID --value "+service)
			all = append(all, fmt.Sprintf("%s/%s=%s", name, service, strings.TrimSpace(pid)))
		}
	}
	return strings.Join(all, " ")
}

// checkRestarted expects that exactly the brokers have other processes now.
func (hs hosts) checkRestarted(t *testing.T, before string) {
	t.Helper()
	now := strings.Fields(hs.pids(t))
	for i, was := range strings.Fields(before) {
		if restarted := now[i] != was; restarted != strings.Contains(was, "/kafka=") {
			t.Errorf("after a change of Kafka's settings: %s before, %s now", was, now[i])
		}
	}
}

// checkTargets waits until Prometheus has as many targets, all of them up.
func checkTargets(t *testing.T, prometheus string, want int) {
	t.Helper()
	var state string
	deadline := time.Now().Add(targetsPatience)
	for time.Now().Before(deadline) {
		var answer struct {
			Data struct {
				ActiveTargets []struct {
					ScrapePool, ScrapeURL, Health, LastError string
				}
			}
		}
		up := 0
		state = ""
		if err := getJSON(prometheus+"/api/v1/targets?state=active", &answer); err != nil {
			state = err.Error()
		}
		for _, target := range answer.Data.ActiveTargets {
			state += fmt.Sprintf("%s %s %s %s\n", target.ScrapePool, target.ScrapeURL, target.Health, target.LastError)
			if target.Health == "up" {
				up++
			}
		}
		if up == want && len(answer.Data.ActiveTargets) == want {
			return
		}
		time.Sleep(500 * time.Millisecond) // between two polls
	}
	t.Errorf("Prometheus does not see %d targets up:\n%s", want, state)
}

func getJSON(url string, into any) error {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// show prints what the services said last.
func (hs hosts) show(t *testing.T) {
	for name, services := range hardened {
		for _, service := range services {
			// The test's context is over in a cleanup.
			output, _ := hs[name].try(backgroundContext, "systemctl status --no-pager --lines=0 "+service+"; journalctl --no-pager --output=cat --lines=25 --unit="+service)
			t.Logf("%s on %s:\n%s", service, name, output)
		}
	}
}

func secret(t *testing.T, inventory, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(inventory, ".secrets", name))
	must(t, err)
	return strings.TrimSpace(string(text))
}
