package session

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Gone tells whether the client has closed its side, also while nobody reads
// from the connection. A request held for long must not be forwarded for a
// client that gave up and sent it again elsewhere (C29).
func Gone(c net.Conn) bool {
	for { // TLS and what is below it
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = t.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}
