package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"

	"spillway"
	"spillway/federation/layout"
	"spillway/mirror/sitelog"
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
	silent  map[string]time.Time // when the machine of a gateway last did not answer, by address
}

// release ends the waits for sequences that were missing when the term opened, as
// soon as it is clear that they do not come: every gateway that has left the layout
// is a process that has ended, so its clients' connections were reset, and they have
// sent again what was open. Sequences that are missing then were acknowledged, and
// lost with their site. Behind a network that drops everything, or at a machine
// without power, nothing refuses, and the waits end by time.
//
// What proves that a process has ended is a refusal of a machine that has answered
// all the time. A gateway that stops in order keeps its port until its sessions are
// over. A machine that was silent when it was asked may have booted again, and has
// told nobody that his connection is over: its refusals count when OutstandingMax is
// over. It is asked from the moment in which its gateway has left the layout, a few
// seconds after its end. What stays open is a machine that boots in less, or before
// this gateway has started; a refusal by something in between (a proxy, a rule of a
// firewall); and a client to whom the network is another than to this gateway.
// Nothing false is acknowledged then: a client that waits there for an answer, and
// has sent a later batch elsewhere, is told that the older one is out of order.
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
	clear := make(chan bool, len(listed))
	for at, lives := range listed {
		go func() {
			connected, refused := r.knock(ctx, at)
			clear <- refused && !r.wasSilent(at) || connected && lives
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
	within, cancel := context.WithTimeout(ctx, knockMax)
	defer cancel()
	c, err := r.config.Dial(within, "tcp", at)
	if err == nil {
		_ = c.Close() // nothing was sent
		return true, false
	}
	if refused = errors.Is(err, syscall.ECONNREFUSED); !refused && ctx.Err() == nil { // else nobody waited for it
		r.gone.mu.Lock()
		defer r.gone.mu.Unlock()
		if r.gone.silent == nil {
			r.gone.silent = make(map[string]time.Time)
		}
		r.gone.silent[at] = time.Now()
	}
	return false, refused
}

// wasSilent tells whether a machine did not answer lately.
func (r *Router) wasSilent(at string) bool {
	r.gone.mu.Lock()
	defer r.gone.mu.Unlock()
	maps.DeleteFunc(r.gone.silent, func(_ string, last time.Time) bool { return time.Since(last) >= r.config.OutstandingMax })
	_, lately := r.gone.silent[at]
	return lately
}

// watchLeaving knocks at gateways that leave the layout, until their machines answer.
func (r *Router) watchLeaving() {
	before := make(map[string]bool)
	var last layout.Layout
	for {
		changed := r.layout.Changed()
		if l := r.layout.Current(); l.Version != last.Version {
			r.relaid(last, l)
			now := make(map[string]bool)
			for _, n := range l.Nodes {
				now[address(n)] = n.Gateway != r.config.Gateway
			}
			for at, other := range before {
				if _, stays := now[at]; other && !stays {
					r.background.Go(func() { r.knockOn(at) })
				}
			}
			before, last = now, l
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return
		}
	}
}

// knockOn knocks until there is an answer, or it does not matter any more.
func (r *Router) knockOn(at string) {
	ctx, cancel := context.WithTimeout(r.ctx, r.config.OutstandingMax)
	defer cancel()
	for {
		if connected, refused := r.knock(ctx, at); connected || refused || sitelog.Pause(ctx, knockEvery) != nil {
			return
		}
	}
}
