package kafka

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the file system of one broker's data, in memory, and of a size that changes
// while the broker runs. The broker's files are lost with it, not with the broker.
type disk struct{ dir string }

const (
	diskPrefix = "spillway-disk-" // and the process id of the test, in the list of mounts
	diskBytes  = 1 << 30          // nothing of it is taken before it is written
)

// newDisk needs root. What killed tests left is removed first.
func newDisk(dir string) (*disk, error) {
	if err := removeStaleDisks(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := diskPrefix + strconv.Itoa(os.Getpid())
	return &disk{dir}, Run("mount", "-t", "tmpfs", "-o", sizeOption(diskBytes), name, dir)
}

// fill leaves no room at all: the disk becomes as large as what is on it.
func (d *disk) fill() error {
	var last error
	for range 20 { // the broker may write between the look and the change
		var s unix.Statfs_t
		if err := unix.Statfs(d.dir, &s); err != nil {
			return &fs.PathError{Op: "statfs", Path: d.dir, Err: err}
		}
		if last = d.resize(int64(s.Blocks-s.Bfree) * s.Bsize); last == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return last
}

// free gives the room back.
func (d *disk) free() error { return d.resize(diskBytes) }

func (d *disk) resize(bytes int64) error {
	return Run("mount", "-o", "remount,"+sizeOption(bytes), d.dir)
}

// remove gives the memory back; a process that has it open still keeps it until it ends.
func (d *disk) remove() error { return Run("umount", "-l", d.dir) }

func sizeOption(bytes int64) string { return "size=" + strconv.FormatInt(bytes, 10) }

// removeStaleDisks removes the disks of tests that do not run any more.
func removeStaleDisks() error {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer func() { _ = mounts.Close() }()
	var faults []error
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		pid, ours := strings.CutPrefix(name, diskPrefix)
		if !ours {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			dir, _, _ := strings.Cut(rest, " ")
			faults = append(faults, (&disk{dir}).remove())
		}
	}
	return errors.Join(faults...)
}

// Run runs a command of the machine; its error has what the command printed.
func Run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
