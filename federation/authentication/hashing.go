package authentication

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// Bounds of checks that wait for their turn: of one client address, and for how long.
const (
	hashHostMax = 32
	hashWaitMax = 5 * time.Second
)

// hashing bounds how many passwords are checked at a time: it is work that anybody can
// ask for. Equal logins (a client with all its connections, after a restart) are one
// check.
type hashing struct {
	slots chan struct{}

	mu struct {
		sync.Mutex
		checks map[string]*check    // by Users.sum, which differs where the users do
		hosts  map[netip.Prefix]int // checks of each
	}
}

type check struct {
	done  chan struct{}
	right bool
	err   error
}

func newHashing() *hashing {
	h := &hashing{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	h.mu.checks, h.mu.hosts = make(map[string]*check), make(map[netip.Prefix]int)
	return h
}

// check tells whether a password is right, errBusy if that could not be found out in time,
// and errGone when ctx ended.
func (h *hashing) check(ctx context.Context, users *Users, host netip.Prefix, name string, password []byte) (right bool, err error) {
	limited, cancel := context.WithTimeout(ctx, hashWaitMax)
	defer cancel()
	sum := string(users.sum(name, password))
	for !users.remembered(name, password) {
		c, mine, err := h.join(sum, host)
		if err != nil {
			return false, err
		}
		if mine {
			c.right, c.err = h.work(limited, users, name, password)
			h.leave(sum, host, c)
			if c.err == nil {
				return c.right, nil
			}
		}
		select {
		case <-c.done:
			if c.err == nil {
				return c.right, nil
			}
		case <-limited.Done():
		}
		switch {
		case ctx.Err() != nil:
			return false, errGone
		case limited.Err() != nil:
			return false, errBusy
		} // else whom it waited with had no more time: its own turn
	}
	return true, nil
}

// join finds the check of an equal login, or begins one.
func (h *hashing) join(sum string, host netip.Prefix) (c *check, mine bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.mu.checks[sum]; ok {
		return c, false, nil
	}
	if host.IsValid() && h.mu.hosts[host] >= hashHostMax {
		return nil, false, errBusy
	}
	c = &check{done: make(chan struct{})}
	h.mu.checks[sum] = c
	h.mu.hosts[host]++
	return c, true, nil
}

func (h *hashing) leave(sum string, host netip.Prefix, c *check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.checks, sum)
	if h.mu.hosts[host]--; h.mu.hosts[host] == 0 {
		delete(h.mu.hosts, host)
	}
	close(c.done)
}

func (h *hashing) work(ctx context.Context, users *Users, name string, password []byte) (right bool, err error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-h.slots }()
	return users.check(name, password), nil
}
