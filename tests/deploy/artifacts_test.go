//go:build e2e

package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"spillway/tests/cluster/cache"
	"spillway/tests/cluster/consul"
)

// artifacts is what is made outside and used inside.
type artifacts struct {
	Tools    string // Ansible and its linters, for PYTHONPATH
	Root     string // root file system of a bare host
	Folder   string // what playbooks/artifacts.yml made
	Consul   string // the Consul program
	Checkout string // of this repository
	Run      string // this run's folder
}

// A bare host: what the installer of Debian with "SSH server" leaves, about.
var hostPackages = []string{
	"systemd", "systemd-sysv", "dbus", "python3", "python3-apt", "openssh-server", "iproute2", "ca-certificates",
}

// What the roles install. The hosts have no way to a mirror, so the packages
// wait in apt's own cache; apt still resolves, checks and installs them.
var rolePackages = []string{"openjdk-17-jre-headless", "prometheus", "prometheus-node-exporter"}

// checkTools names all that is missing at once.
func checkTools() error {
	var missing []string
	for tool, pkg := range map[string]string{
		"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2", "ssh": "openssh-client",
		"ssh-keygen": "openssh-client", "python3": "python3", "mvn": "maven", "go": "go",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", tool, pkg))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s", strings.Join(missing, ", "))
	}
	if os.Getuid() != 0 {
		return errors.New("the hosts need namespaces and mounts: run as root")
	}
	return nil
}

func makeArtifacts(ctx context.Context, run string) (artifacts, error) {
	checkout, err := filepath.Abs("../..")
	if err != nil {
		return artifacts{}, err
	}
	made := artifacts{Checkout: checkout, Run: run}
	if made.Tools, err = ansibleTools(ctx, checkout); err != nil {
		return artifacts{}, err
	}
	if made.Root, err = bareRoot(ctx); err != nil {
		return artifacts{}, err
	}
	if made.Consul, err = consul.Binary(ctx); err != nil {
		return artifacts{}, err
	}
	root, err := cache.Root()
	if err != nil {
		return artifacts{}, err
	}
	made.Folder = filepath.Join(root, "ansible")
	playbook := made.ansible(ctx, "ansible-playbook", "playbooks/artifacts.yml", "-i", "localhost,",
		"-e", "kafka_artifacts="+made.Folder, "-e", "consul_binary="+made.Consul, "-e", "spillway_binary="+made.program())
	if output, err := playbook.CombinedOutput(); err != nil {
		return artifacts{}, fmt.Errorf("playbooks/artifacts.yml: %w\n%s", err, output)
	}
	return made, nil
}

// ansibleTools installs what ansible/requirements.txt pins.
func ansibleTools(ctx context.Context, checkout string) (string, error) {
	requirements := filepath.Join(checkout, "ansible", "requirements.txt")
	pinned, err := os.ReadFile(requirements)
	if err != nil {
		return "", err
	}
	return cache.Entry("ansible-tools-"+digest(string(pinned)), func(dir string) error {
		return run(ctx, "python3", "-m", "pip", "install", "--quiet", "--no-warn-script-location",
			"--target", dir, "--requirement", requirements)
	})
}

// bareRoot bootstraps Debian 12 and lets the roles' packages wait in it.
func bareRoot(ctx context.Context) (string, error) {
	key := "debian-12-" + digest(strings.Join(append(hostPackages, rolePackages...), " "))
	return cache.Entry(key, func(dir string) error {
		if err := run(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(hostPackages, ","), "bookworm", dir); err != nil {
			return err
		}
		if err := copyFile("/etc/resolv.conf", filepath.Join(dir, "etc/resolv.conf")); err != nil {
			return err
		}
		inside := func(command ...string) error { return run(ctx, "chroot", append([]string{dir}, command...)...) }
		steps := [][]string{
			{"apt-get", "clean"},
			// The lists may be those of a mirror that stands still.
			{"apt-get", "update", "-o", "Acquire::Check-Valid-Until=false"},
			append([]string{"apt-get", "install", "--yes", "--no-install-recommends", "--download-only"}, rolePackages...),
			{"systemctl", "enable", "systemd-networkd"},
			{"sh", "-c", "rm -f /etc/ssh/ssh_host_* /etc/resolv.conf && : > /etc/machine-id"},
		}
		for _, step := range steps {
			if err := inside(step...); err != nil {
				return err
			}
		}
		return nil
	})
}

// ansible returns a command of Ansible's that runs in ansible/ of the checkout.
func (a artifacts) ansible(ctx context.Context, command string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(a.Tools, "bin", command), arguments...)
	cmd.Dir = filepath.Join(a.Checkout, "ansible")
	cmd.Env = append(os.Environ(),
		"PYTHONPATH="+a.Tools,
		"PATH="+filepath.Join(a.Tools, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
		"ANSIBLE_HOME="+filepath.Join(a.Run, "ansible"),
		"ANSIBLE_NOCOLOR=1",
		"LC_ALL=C.UTF-8",
	)
	return cmd
}

// program is the path of the spillway program.
func (a artifacts) program() string { return filepath.Join(a.Run, "spillway") }

func (a artifacts) encode() (string, error) {
	text, err := json.Marshal(a)
	return string(text), err
}

func decodeArtifacts() (artifacts, error) {
	var a artifacts
	err := json.Unmarshal([]byte(os.Getenv(insideVariable)), &a)
	return a, err
}

func run(ctx context.Context, name string, arguments ...string) error {
	if output, err := exec.CommandContext(ctx, name, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(arguments, " "), err, tail(string(output), 30))
	}
	return nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
