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
	events, ok := poll(c, unix.POLLRDHUP)
	return !ok || events&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// readable tells whether something of a connection has come that nobody has read.
func readable(c net.Conn) bool {
	events, ok := poll(c, unix.POLLIN)
	return ok && events&unix.POLLIN != 0
}

// poll tells which events hold now; none where the connection is no socket. False: it is closed.
func poll(c net.Conn, events int16) (hold int16, ok bool) {
	for { // TLS and what is below it
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = t.NetConn()
	}
	sc, is := c.(syscall.Conn)
	if !is {
		return 0, true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			hold = fds[0].Revents
		}
	})
	return hold, err == nil
}
