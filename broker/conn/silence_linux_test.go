package conn

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection gives up a peer that acknowledges nothing. How that works out is
// shown by tests/story, with a network that drops everything.
func TestConnectionsDoNotOutliveSilence(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct{ level, option, want int }{
		"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 6000},
		"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 3},
		"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
	} {
		var got int
		var fault error
		if err := raw.Control(func(fd uintptr) { got, fault = unix.GetsockoptInt(int(fd), o.level, o.option) }); err != nil || fault != nil {
			t.Fatal(err, fault)
		}
		if got != o.want {
			t.Errorf("%s is %d, want %d", name, got, o.want)
		}
	}
}
