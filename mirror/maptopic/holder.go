package maptopic

import (
	"strconv"
	"strings"
)

// Holder is the process of a worker, as far as another one on the same machine can look
// it up: after a crash nobody need wait until the time of the worker has run out.
// The zero value is a process of which nothing is known.
type Holder struct {
	Boot      string // of the machine
	Processes string // the namespace in which PID counts
	PID       int
	Started   string // since the machine booted, so that a PID given again is told from it
}

// Gone tells whether the process is known to have ended: it ran on this machine, and
// does not any more.
func (h Holder) Gone() bool {
	here := ThisProcess()
	if h.PID == 0 || h.Boot == "" || h.Boot != here.Boot || h.Processes != here.Processes {
		return false
	}
	started, lives := processStart(h.PID)
	return !lives || started != "" && started != h.Started
}

// String is what ParseHolder reads; "" for the zero value.
func (h Holder) String() string {
	if h == (Holder{}) {
		return ""
	}
	return strings.Join([]string{h.Boot, h.Processes, strconv.Itoa(h.PID), h.Started}, " ")
}

// ParseHolder reads what String wrote; of anything else nothing is known.
func ParseHolder(s string) Holder {
	f := strings.Fields(s)
	if len(f) != 4 {
		return Holder{}
	}
	pid, err := strconv.Atoi(f[2])
	if err != nil || pid <= 0 {
		return Holder{}
	}
	return Holder{Boot: f[0], Processes: f[1], PID: pid, Started: f[3]}
}
