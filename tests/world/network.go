package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"spillway/tests/cluster/kafka"
)

// network is the network of one site: a namespace joined with the rest of the
// machine by a pair of virtual devices. A cut drops what passes between them, in
// both directions and without a word: what is on its way is lost, nobody is told
// that a connection ended, and what runs at the site goes on. Nothing of it
// leaves the machine.
type network struct {
	name   string // of the namespace, and of the table of rules while it is cut
	device string // on this side
	here   string // address of everybody else
	there  string // address of the site
}

const networkPrefix = "spillway-world-"

// newNetwork needs root, ip and nft. What a killed test left is removed first.
func newNetwork() (*network, error) {
	for tool, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("a network for a site needs %s: apt-get install %s", tool, pkg)
		}
	}
	if err := removeStale(); err != nil {
		return nil, err
	}
	pid := os.Getpid()
	subnet := fmt.Sprintf("10.89.%d", pid%250)
	n := &network{name: networkPrefix + strconv.Itoa(pid), device: fmt.Sprintf("spw%d", pid), here: subnet + ".1", there: subnet + ".2"}
	inside := "netns exec " + n.name + " ip "
	for _, line := range []string{
		"netns add " + n.name,
		"link add " + n.device + " type veth peer name site netns " + n.name,
		"address add " + n.here + "/24 dev " + n.device,
		"link set " + n.device + " up",
		inside + "address add " + n.there + "/24 dev site",
		inside + "link set site up",
		inside + "link set lo up",
	} {
		if err := kafka.Run("ip", strings.Fields(line)...); err != nil {
			return nil, errors.Join(fmt.Errorf("make a network for a site: %w", err), n.remove())
		}
	}
	return n, nil
}

// cut drops what the site sends, what it is sent, or both: then it is a black hole to
// everybody else, and everybody else to it.
func (n *network) cut(sends, isSent bool) error {
	rules := ""
	if sends {
		rules += fmt.Sprintf("chain in { type filter hook input priority 0; iifname %q drop; }\n", n.device)
	}
	if isSent {
		rules += fmt.Sprintf("chain out { type filter hook output priority 0; oifname %q drop; }\n", n.device)
	}
	return n.rules(rules)
}

// cutPorts drops what the site sends to ports elsewhere, and what is sent to ports of it.
func (n *network) cutPorts(elsewhere, there []int) error {
	return n.rules(fmt.Sprintf("chain in { type filter hook input priority 0; iifname %[1]q tcp dport { %[2]s } drop; }\n"+
		"chain out { type filter hook output priority 0; oifname %[1]q tcp dport { %[3]s } drop; }\n", n.device, list(elsewhere), list(there)))
}

// lose drops so many of a hundred packets, drawn at random, each way.
func (n *network) lose(percent int) error {
	return n.rules(fmt.Sprintf("chain in { type filter hook input priority 0; iifname %[1]q numgen random mod 100 < %[2]d drop; }\n"+
		"chain out { type filter hook output priority 0; oifname %[1]q numgen random mod 100 < %[2]d drop; }\n", n.device, percent))
}

func (n *network) rules(chains string) error {
	return kafka.Run("nft", "table inet "+n.name+" {\n"+chains+"}")
}

func list(ports []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]")
}

func (n *network) heal() error { return kafka.Run("nft", "delete table inet "+n.name) }

// remove takes everything away; the devices go with the namespace.
func (n *network) remove() error {
	_ = n.heal() // it need not be cut
	return kafka.Run("ip", "netns", "delete", n.name)
}

// removeStale removes the networks of tests that do not run any more.
func removeStale() error {
	left, err := filepath.Glob("/run/netns/" + networkPrefix + "*")
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range left {
		name := filepath.Base(path)
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(name, networkPrefix)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, (&network{name: name}).remove())
		}
	}
	return errors.Join(errs...)
}
