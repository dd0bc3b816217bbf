//go:build e2e

package deploy

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	bootPatience   = time.Minute
	remotePatience = time.Minute
)

// host is one booted container.
type host struct {
	name    string
	address string
	log     string // its console

	remote []string // ssh and its arguments, up to the command
}

// hosts by the names that the example inventory gives them.
type hosts map[string]*host

// boot boots a bare host for each name, reachable by SSH with a key of its own
// run, and returns when all answer.
func boot(t *testing.T, made artifacts, addresses map[string]string) hosts {
	t.Helper()
	ctx := t.Context()
	key := filepath.Join(made.Run, "id")
	must(t, run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key))
	booted := hosts{}
	var known strings.Builder
	for name, address := range addresses {
		h := &host{name: name, address: address, log: filepath.Join(made.Run, name+".console")}
		root := h.root(t, made)
		public, err := os.ReadFile(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key.pub"))
		must(t, err)
		fmt.Fprintf(&known, "%s %s", address, public)
		h.remote = []string{"ssh", "-i", key, "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + filepath.Join(made.Run, "known_hosts"),
			"-o", "ConnectTimeout=5", "root@" + address}
		h.start(t, made, root)
		booted[name] = h
	}
	must(t, os.WriteFile(filepath.Join(made.Run, "known_hosts"), []byte(known.String()), 0o644))
	for _, h := range booted {
		h.await(t)
	}
	return booted
}

// root lays a writable layer over the bare root file system.
func (h *host) root(t *testing.T, made artifacts) string {
	t.Helper()
	layer := filepath.Join(made.Run, h.name)
	root, upper, work := filepath.Join(layer, "root"), filepath.Join(layer, "upper"), filepath.Join(layer, "work")
	for _, dir := range []string{root, upper, work} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, syscall.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", made.Root, upper, work)))
	authorized, err := os.ReadFile(filepath.Join(made.Run, "id.pub"))
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(root, "root/.ssh"), 0o700))
	for path, text := range map[string]string{
		"etc/hostname":                         h.name + "\n",
		"etc/hosts":                            "127.0.0.1 localhost\n" + h.address + " " + h.name + "\n",
		"etc/systemd/network/10-host0.network": "[Match]\nName=host0\n[Network]\nAddress=" + h.address + "/24\n",
		"root/.ssh/authorized_keys":            string(authorized),
	} {
		must(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o644))
	}
	must(t, run(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(root, "etc/ssh/ssh_host_ed25519_key")))
	return root
}

// start boots the host. It ends with the sandbox, at the latest.
func (h *host) start(t *testing.T, made artifacts, root string) {
	t.Helper()
	groups, err := hostGroups(filepath.Base(made.Run), h.name)
	must(t, err)
	console, err := os.Create(h.log)
	must(t, err)
	// The shell enters the groups and becomes nspawn.
	enter := `while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	arguments := append([]string{"-c", enter, "enter"}, groups...)
	arguments = append(arguments, "--", "systemd-nspawn", "--directory="+root, "--machine="+h.name, "--boot", "--register=no",
		"--keep-unit", "--network-bridge="+bridge, "--console=pipe", "--resolv-conf=off")
	nspawn := exec.Command("/bin/sh", arguments...)
	nspawn.Stdout, nspawn.Stderr = console, console
	must(t, nspawn.Start())
	must(t, console.Close())
	t.Cleanup(func() {
		_ = nspawn.Process.Kill() // its hosts' processes die with its PID namespace
		_ = nspawn.Wait()
	})
}

func (h *host) await(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(bootPatience)
	for {
		connection, err := net.DialTimeout("tcp", net.JoinHostPort(h.address, "22"), time.Second)
		if err == nil {
			_ = connection.Close()
			return
		}
		if time.Now().After(deadline) {
			console, _ := os.ReadFile(h.log)
			t.Fatalf("%s does not answer on SSH after %s: %v\nend of its console:\n%s", h.name, bootPatience, err, tail(string(console), 30))
		}
		time.Sleep(200 * time.Millisecond) // between two polls
	}
}

// run runs a shell command on the host and returns what it printed.
func (h *host) run(t *testing.T, command string) string {
	t.Helper()
	output, err := h.try(t.Context(), command)
	if err != nil {
		t.Fatalf("on %s: %s: %v\n%s", h.name, command, err, output)
	}
	return output
}

func (h *host) try(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	output, err := exec.CommandContext(ctx, h.remote[0], append(h.remote[1:], command)...).CombinedOutput()
	return string(output), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
