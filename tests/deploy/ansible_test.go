//go:build e2e

package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const playbookPatience = 10 * time.Minute

// The hosts of the example inventory. Their addresses there are for
// documentation; the test puts its own in their place and changes nothing else.
var (
	exampleAddresses = map[string]string{"east-1": "192.0.2.11", "west-1": "192.0.2.21", "north-1": "192.0.2.31"}
	addresses        = map[string]string{"east-1": "10.77.0.11", "west-1": "10.77.0.21", "north-1": "10.77.0.31"}
)

// playbook is one execution of playbooks/site.yml.
type playbook struct {
	output  string
	err     error
	changed int // tasks that changed something, over all hosts
	took    time.Duration
}

// inventory copies the example with the addresses of the test.
func inventory(t *testing.T, made artifacts) string {
	t.Helper()
	example := filepath.Join(made.Checkout, "ansible/inventories/two-sites-plus-witness")
	copied := filepath.Join(made.Run, "inventory")
	must(t, os.CopyFS(copied, os.DirFS(example)))
	must(t, os.RemoveAll(filepath.Join(copied, ".secrets"))) // of somebody's real deployment
	path := filepath.Join(copied, "hosts.yml")
	text, err := os.ReadFile(path)
	must(t, err)
	replaced := string(text)
	for name, address := range exampleAddresses {
		if !strings.Contains(replaced, address) {
			t.Fatalf("the example inventory has no address %s", address)
		}
		replaced = strings.ReplaceAll(replaced, address, addresses[name])
	}
	must(t, os.WriteFile(path, []byte(replaced), 0o644))
	return copied
}

// deploy runs the playbook over the inventory with further arguments.
func deploy(t *testing.T, made artifacts, inventory string, further ...string) playbook {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), playbookPatience)
	defer cancel()
	arguments := []string{"playbooks/site.yml", "--inventory", inventory,
		"--private-key", filepath.Join(made.Run, "id"),
		"--ssh-common-args", "-o UserKnownHostsFile=" + filepath.Join(made.Run, "known_hosts"),
		"-e", "kafka_artifacts=" + made.Folder, "-e", "consul_binary=" + made.Consul, "-e", "spillway_binary=" + made.program(),
		"-e", "kafka_heap=256m",
		// The packages wait in the hosts' apt caches, whose lists may be old.
		"-e", "kafka_apt_cache_seconds=1000000000", "-e", "prometheus_apt_cache_seconds=1000000000",
	}
	for _, words := range further {
		arguments = append(arguments, strings.Fields(words)...)
	}
	command := made.ansible(ctx, "ansible-playbook", arguments...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	started := time.Now()
	output, err := command.CombinedOutput()
	p := playbook{output: string(output), err: err, took: time.Since(started).Round(time.Second)}
	for _, match := range changedCount.FindAllStringSubmatch(p.output, -1) {
		count, err := strconv.Atoi(match[1])
		must(t, err)
		p.changed += count
	}
	return p
}

var changedCount = regexp.MustCompile(`(?m)^\S+ +: ok=\d+ +changed=(\d+) `)

// green fails the test unless the playbook reached its end on every host.
func (p playbook) green(t *testing.T) playbook {
	t.Helper()
	if p.err != nil || len(changedCount.FindAllString(p.output, -1)) != len(addresses) {
		t.Fatalf("playbook: %v\n%s", p.err, tail(p.output, 80))
	}
	return p
}

// refuses fails the test unless the playbook said why it stopped, and where.
func (p playbook) refuses(t *testing.T, why string) playbook {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || !strings.Contains(strings.Join(strings.Fields(p.output), " "), why) {
		t.Fatalf("playbook: got %v, want it to stop with %q\n%s", p.err, why, tail(p.output, 40))
	}
	return p
}

// changes lists the tasks that changed something.
func (p playbook) changes() string {
	var list strings.Builder
	task := ""
	for line := range strings.Lines(p.output) {
		switch {
		case strings.HasPrefix(line, "TASK ["), strings.HasPrefix(line, "RUNNING HANDLER ["):
			task = strings.Trim(line, " *\n")
		case strings.HasPrefix(line, "changed:"):
			fmt.Fprintf(&list, "%s %s", task, line)
		}
	}
	return list.String()
}
