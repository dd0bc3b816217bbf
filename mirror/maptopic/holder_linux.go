package maptopic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
)

// ThisProcess is the process that runs.
var ThisProcess = sync.OnceValue(func() Holder {
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	processes, err2 := os.Readlink("/proc/self/ns/pid")
	started, lives := processStart(os.Getpid())
	if err1 != nil || err2 != nil || started == "" || !lives {
		return Holder{}
	}
	return Holder{Boot: strings.TrimSpace(string(boot)), Processes: processes, PID: os.Getpid(), Started: started}
})

// processStart is when a process began, "" where that cannot be told, and whether it
// lives. One that has ended and was not waited for yet does nothing any more.
func processStart(pid int) (started string, lives bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		// It may be another user's, and hidden (hidepid): then it may not be sent signals.
		return "", !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	// The second field is the name in brackets; behind it come the state, as field 3,
	// and the start, as field 22 (proc(5)).
	_, rest, ok := cutLast(string(stat), ')')
	fields := strings.Fields(rest)
	if err != nil || !ok || len(fields) < 20 {
		return "", true
	}
	return fields[19], fields[0] != "Z" && fields[0] != "X"
}
