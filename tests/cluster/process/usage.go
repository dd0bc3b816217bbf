package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what the kernel counts of a process (proc_pid_stat(5), proc_pid_status(5)).
type Usage struct {
	CPU             time.Duration // of all its threads, in user and kernel mode
	ResidentKiB     int64
	ResidentMostKiB int64 // so far
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// Use reads the usage of a process; a process that has ended has none.
func Use(pid int) (u Usage, lives bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, false
	}
	// The second field is the name in brackets; utime and stime are 14 and 15.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64)
		u.CPU += time.Duration(n) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, false
	}
	for line := range strings.Lines(string(status)) {
		for name, into := range map[string]*int64{"VmRSS:": &u.ResidentKiB, "VmHWM:": &u.ResidentMostKiB} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				*into, _ = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			}
		}
	}
	return u, u.ResidentMostKiB > 0 // a process that has ended has no memory
}
