//go:build e2e

package mirrors

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// links is where a contender runs to whom brokers seem far away: a network namespace of
// its own, in which the address of each broker belongs to a proxy. It needs root and ip.
type links struct {
	name string // of the namespace
}

const linksPrefix = "spillway-bench-"

func newLinks(t *testing.T) *links {
	t.Helper()
	left, _ := filepath.Glob("/run/netns/" + linksPrefix + "*")
	for _, path := range left { // of tests that were killed
		name := filepath.Base(path)
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(name, linksPrefix)); errors.Is(err, os.ErrNotExist) {
			_ = ip("netns", "delete", name)
		}
	}
	l := &links{linksPrefix + strconv.Itoa(os.Getpid())}
	if err := ip("netns", "add", l.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("netns", "delete", l.name); err != nil {
			t.Error(err)
		}
	})
	if err := ip("netns", "exec", l.name, "ip", "link", "set", "lo", "up"); err != nil {
		t.Fatal(err)
	}
	return l
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s (it needs root, and iproute2: apt-get install iproute2)", strings.Join(args, " "), err, out)
	}
	return nil
}

// link is the way to one broker, of any length and without a limit for the bytes on it: it
// delays, and knows nothing of windows and of lost packets.
type link struct {
	trip    atomic.Int64 // there and back, in nanoseconds
	fetched atomic.Int64 // bytes that came from the broker
	sent    atomic.Int64 // bytes that went to it
}

// to puts a link before a broker.
func (l *links) to(t *testing.T, address string) *link {
	t.Helper()
	listener, err := l.listen(address)
	if err != nil {
		t.Fatal(err)
	}
	k := new(link)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { k.join(c, address) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait() // who used it was killed, so both ends are closed
	})
	return k
}

// listen opens a listener in the namespace, on a thread that ends afterwards.
func (l *links) listen(address string) (listener net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var there *os.File
		if there, err = os.Open("/run/netns/" + l.name); err != nil {
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			listener, err = net.Listen("tcp", address)
		}
	}()
	<-done
	return listener, err
}

// join carries what passes between a contender and a broker.
func (k *link) join(c net.Conn, address string) {
	defer c.Close()
	b, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer b.Close()
	time.Sleep(time.Duration(k.trip.Load())) // what it takes to connect
	var both sync.WaitGroup
	both.Go(func() { k.carry(b, c, &k.sent) })
	both.Go(func() { k.carry(c, b, &k.fetched) })
	both.Wait()
}

// onLink is how many pieces of at most 64 KiB may be on a link in one direction.
const onLink = 4096

// carry hands on what it reads after half of a trip.
func (k *link) carry(to, from net.Conn, count *atomic.Int64) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	way := make(chan piece, onLink)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(way)
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if n > 0 {
				count.Add(int64(n))
				way <- piece{bytes.Clone(b[:n]), time.Now().Add(time.Duration(k.trip.Load()) / 2)}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range way {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range way { // until the reader has seen it
	}
	reading.Wait()
}
