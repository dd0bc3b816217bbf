package conn

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// boundSilence bounds how long sent bytes may stay unacknowledged (RFC 5482),
// also after the socket was closed: nothing of it arrives later.
func boundSilence(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silenceMax.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return set
}
