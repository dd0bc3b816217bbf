//go:build e2e

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"spillway/tests/cluster/cache"
)

// testRun is one execution of the tests: a folder, which holds what its hosts
// write, and control groups of its name. Everything else ends with the
// namespaces. What a killed run leaves is removed by the next one, which knows
// that nobody uses it by the lock.
type testRun struct {
	dir  string
	lock *os.File
}

func newRun() (*testRun, error) {
	root, err := cache.Root()
	if err != nil {
		return nil, err
	}
	runs := filepath.Join(root, "deploy")
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(runs, "run-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		if old, err := lockRun(dir); err == nil {
			old.remove()
		}
	}
	dir := filepath.Join(runs, "run-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	made, err := lockRun(dir)
	if err != nil {
		return nil, err
	}
	hierarchies, err := controlGroups()
	if err != nil {
		return nil, errors.Join(err, made.lock.Close())
	}
	// Written down first: the run that removes them may itself be in another group.
	return made, os.WriteFile(made.groupList(), []byte(strings.Join(hierarchies, "\n")), 0o600)
}

func (r *testRun) groupList() string { return filepath.Join(r.dir, "groups") }

func lockRun(dir string) (*testRun, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use", dir), lock.Close())
	}
	return &testRun{dir: dir, lock: lock}, nil
}

// remove is called when no process of the run is left.
func (r *testRun) remove() {
	hierarchies, err := os.ReadFile(r.groupList())
	for hierarchy := range strings.Lines(string(hierarchies)) {
		hierarchy = strings.TrimSpace(hierarchy)
		err = errors.Join(err, removeGroup(filepath.Join(hierarchy, filepath.Base(r.dir))))
	}
	err = errors.Join(err, os.RemoveAll(r.dir), r.lock.Close())
	if err != nil {
		fmt.Fprintf(os.Stderr, "deploy: %s is not wholly removed: %v\n", r.dir, err)
	}
}

func removeGroup(group string) error {
	var groups []string
	err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, path := range slices.Backward(groups) {
		err = errors.Join(err, syscall.Rmdir(path))
	}
	return err
}

// sandbox runs the tests in namespaces of their own and returns their exit
// code. As the first process of its PID namespace dies, the kernel ends all others.
func (r *testRun) sandbox(made artifacts) (int, error) {
	encoded, err := made.encode()
	if err != nil {
		return 0, err
	}
	inside := exec.Command("/proc/self/exe", os.Args[1:]...)
	inside.Env = append(os.Environ(), insideVariable+"="+encoded)
	inside.Stdout, inside.Stderr = os.Stdout, os.Stderr
	inside.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = inside.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// The controller's address in the network of the test, which ends with it.
const (
	bridge            = "deploy0"
	controllerAddress = "10.77.0.1"
)

func enterSandbox() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to the sandbox: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, command := range []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"address add " + controllerAddress + "/24 dev " + bridge,
		"link set " + bridge + " up",
	} {
		if err := run(context.Background(), "ip", strings.Fields(command)...); err != nil {
			return err
		}
	}
	return nil
}

// controlGroups returns the folder of this process's group in each hierarchy.
func controlGroups() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var folders []string
	for line := range strings.Lines(string(memberships)) {
		// 4:memory:/path, 9:name=systemd:/path, or 0::/path for version 2.
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		if point := groupMount(string(mounts), part[1]); point != "" {
			folders = append(folders, filepath.Join(point, part[2]))
		}
	}
	if len(folders) == 0 {
		return nil, errors.New("no control groups are mounted; systemd cannot run in the hosts without them")
	}
	return folders, nil
}

// groupMount finds where the hierarchy of a controller, or version 2 for "", is mounted.
func groupMount(mounts, controller string) string {
	for line := range strings.Lines(mounts) {
		head, rest, _ := strings.Cut(line, " - ")
		kind := strings.Fields(rest) // type, source, options
		if len(kind) != 3 || len(strings.Fields(head)) < 5 {
			continue
		}
		match := kind[0] == "cgroup2" && controller == "" ||
			kind[0] == "cgroup" && controller != "" && slices.Contains(strings.Split(kind[2], ","), strings.Split(controller, ",")[0])
		if match {
			return strings.Fields(head)[4]
		}
	}
	return ""
}

// hostGroups makes a group for a host in each hierarchy: without one of its own,
// the systemd of one host would take the groups of another for its.
func hostGroups(run, host string) ([]string, error) {
	hierarchies, err := controlGroups()
	if err != nil {
		return nil, err
	}
	var groups []string
	for _, hierarchy := range hierarchies {
		parent := filepath.Join(hierarchy, run)
		group := filepath.Join(parent, host)
		if err := os.MkdirAll(group, 0o755); err != nil {
			return nil, err
		}
		// A new group of this controller may run nowhere until told otherwise.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			allowed, err := os.ReadFile(filepath.Join(hierarchy, name))
			if errors.Is(err, fs.ErrNotExist) || len(strings.TrimSpace(string(allowed))) == 0 {
				continue
			}
			for _, to := range []string{parent, group} {
				if err := errors.Join(err, os.WriteFile(filepath.Join(to, name), allowed, 0)); err != nil {
					return nil, err
				}
			}
		}
		groups = append(groups, group)
	}
	return groups, nil
}
