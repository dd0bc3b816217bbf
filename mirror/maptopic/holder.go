package maptopic

// Holder is the process that has a lease, as far as another one on the same machine can
// look it up: after a crash its successor need not wait until the lease has run out.
// The zero value is a process of which nothing is known.
type Holder struct {
	Boot      string `json:"boot,omitempty"`      // of the machine
	Processes string `json:"processes,omitempty"` // the namespace in which PID counts
	PID       int    `json:"pid,omitempty"`
	Started   string `json:"started,omitempty"` // since the machine booted, so that a PID given again is told from it
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
