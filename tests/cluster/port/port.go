// Package port hands out TCP ports that stay ours until this process ends, so
// that a server can be killed and started again on the same port.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// The kernel takes ports for outgoing connections and for "port 0" from 32768
// up. Below that nobody takes the port of a server that is down at the moment.
const (
	first = 20000
	last  = 32000
)

var held struct {
	sync.Mutex
	locks []*os.File // open until the process ends: closing one gives the port away
}

// Reserve returns n ports that no other caller, also in other processes, gets
// while this process lives.
func Reserve(n int) ([]int, error) {
	dir := filepath.Join(os.TempDir(), "spillway-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("reserve ports: %w", err)
	}
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 1000 {
			return nil, fmt.Errorf("reserve ports: found %d of %d between %d and %d", len(ports), n, first, last)
		}
		port := first + rand.IntN(last-first)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			return nil, fmt.Errorf("reserve port %d: %w", port, err)
		}
		if !free(lock, port) {
			_ = lock.Close()
			continue
		}
		held.Lock()
		held.locks = append(held.locks, lock)
		held.Unlock()
		ports = append(ports, port)
	}
	return ports, nil
}

// free locks the port's file and looks whether somebody who does not know
// about these files listens on it.
func free(lock *os.File, port int) bool {
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
