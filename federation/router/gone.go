package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"spillway"
	"spillway/federation/layout"
)

const (
	// releaseAfter is how long after the opening of a term a gateway that lives has
	// answered all that it held for the term before, and a client whose connection
	// was reset has sent again what was open there.
	releaseAfter = 3 * time.Second
	// knockEvery is how often gone gateways are looked for, knockMax how long one
	// may take to refuse, and knocksMax how many are asked.
	knockEvery = time.Second
	knockMax   = time.Second
	knocksMax  = 32
)

// goneFor looks, once for all batches that wait, whether a client can still have
// something open at a gateway that is gone.
type goneFor struct {
	mu      sync.Mutex
	looking map[spillway.ShareID]bool
}

// release ends the waits for sequences that were missing when the term opened, as
// soon as it is clear that they do not come: every gateway that has left the layout
// is a process that has ended, so its clients' connections were reset, and they have
// sent again what was open. Sequences that are missing then were acknowledged, and
// lost with their site. Behind a network that drops everything, or at a machine
// without power, nothing refuses, and the waits end by time. A machine that has
// booted again meanwhile refuses too: a client that waits there for an answer, and
// has sent a later batch elsewhere, finds the older one out of order.
func (r *Router) release(ctx context.Context, share spillway.ShareID, t Term) {
	r.gone.mu.Lock()
	if r.gone.looking[share] || r.contacts.isReleased(share, t.Base) {
		r.gone.mu.Unlock()
		return
	}
	if r.gone.looking == nil {
		r.gone.looking = make(map[spillway.ShareID]bool)
	}
	r.gone.looking[share] = true
	r.gone.mu.Unlock()
	defer func() {
		r.gone.mu.Lock()
		delete(r.gone.looking, share)
		r.gone.mu.Unlock()
	}()
	wait := time.NewTimer(time.Until(t.Opened.Add(releaseAfter)))
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		if r.allGone(ctx) {
			r.contacts.release(share, t.Base)
			return
		}
		wait.Reset(knockEvery)
	}
}

// allGone knocks at all gateways: those of the layout live, or refuse; those that
// have left it refuse, but where another process has taken the place.
func (r *Router) allGone(ctx context.Context) bool {
	l := r.layout.Current()
	listed := make(map[string]bool) // whether the layout has it, by address
	for _, n := range l.Past {
		listed[address(n)] = false
	}
	for _, n := range l.Nodes {
		listed[address(n)] = true
	}
	for _, n := range l.NodesOf(r.config.Gateway) {
		delete(listed, address(n))
	}
	if len(listed) > knocksMax {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, knockMax)
	defer cancel()
	clear := make(chan bool, len(listed))
	for at, lives := range listed {
		go func() {
			connected, refused := r.knock(ctx, at)
			clear <- refused || connected && lives
		}()
	}
	all := true
	for range listed {
		all = <-clear && all
	}
	return all
}

func address(n layout.Node) string { return net.JoinHostPort(n.Host, fmt.Sprint(n.Port)) }

// knock tells whether somebody listens, or the machine says that nobody does.
func (r *Router) knock(ctx context.Context, at string) (connected, refused bool) {
	c, err := r.config.Dial(ctx, "tcp", at)
	if err != nil {
		return false, errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = c.Close() // nothing was sent
	return true, false
}
