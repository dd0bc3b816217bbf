package federation

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"spillway/federation/quota"
	"spillway/federation/session"
)

// quietPause keeps a failing listener from spinning.
const quietPause = 10 * time.Millisecond

// listen accepts clients until ctx ends or the listener fails, then lets the
// sessions finish what they have begun. Until then the port stays open: that it
// refuses is a proof to other gateways that nothing is on its way here any more.
func (g *Gateway) listen(ctx context.Context) error {
	l := g.config.Listener
	stop := context.AfterFunc(ctx, func() { wake(l) })
	defer stop()
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	err := g.accept(ctx, func(c net.Conn, known, release func()) {
		wg.Go(func() {
			defer release()
			g.serve(inner, c, known)
		})
	})
	stop()
	turnedAway := make(chan struct{})
	go func() {
		defer close(turnedAway)
		turnAway(l)
	}()
	g.router.Leave()
	g.drainSessions()
	wg.Wait()
	l.Close()
	<-turnedAway
	return err
}

// deadliner is a listener whose Accept ends at a time, as those of TCP are.
type deadliner interface{ SetDeadline(time.Time) error }

// wake ends the Accept that waits; the listener stays open, if it can.
func wake(l net.Listener) {
	if d, ok := l.(deadliner); !ok || d.SetDeadline(time.Unix(1, 0)) != nil {
		l.Close()
	}
}

// turnAway closes connections as soon as they are made, until the listener is closed.
func turnAway(l net.Listener) {
	for {
		c, err := l.Accept()
		switch d, ok := l.(deadliner); {
		case err == nil:
			c.Close()
		case errors.Is(err, net.ErrClosed):
			return
		case ok && errors.Is(err, os.ErrDeadlineExceeded): // by wake
			_ = d.SetDeadline(time.Time{}) // it fails only where it is closed
		default:
			time.Sleep(quietPause)
		}
	}
}

func (g *Gateway) accept(ctx context.Context, serve func(c net.Conn, known, release func())) error {
	slots := make(chan struct{}, g.config.ConnectionsMax)
	clients := newAddresses(g.config)
	strangers := newStrangers(g.config, func() { g.connectionRefused("too-many-unknown") })
	for {
		c, err := g.config.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of file descriptors, or the client was faster
			g.problem("accept a connection", err)
			select {
			case <-time.After(quietPause):
			case <-ctx.Done():
			}
			continue
		}
		leave, refused := clients.enter(c.RemoteAddr())
		if refused != quota.None {
			c.Close()
			g.connectionRefused(ofAddress[refused])
			continue
		}
		select {
		case slots <- struct{}{}:
			known := strangers.enter(c)
			serve(c, known, func() { known(); <-slots; leave() })
		default:
			leave()
			c.Close()
			g.connectionRefused("too-many")
		}
	}
}

func (g *Gateway) serve(ctx context.Context, c net.Conn, known func()) {
	defer c.Close()
	limits, accepted := g.config.Limits, time.Now()
	if g.config.TLS != nil {
		secured, err := shake(ctx, c, g.config.TLS)
		if err != nil {
			g.connectionRefused("tls")
			return
		}
		c = secured
		limits.AdmitMax = max(time.Millisecond, limits.WithDefaults().AdmitMax-time.Since(accepted)) // in all
	}
	client, events := g.router.Connect(c), g.events.Session
	if client.Admitted() { // by a certificate, or because nobody is asked
		known()
		if !client.Enter() {
			client.Close()
			return
		}
	}
	events.Admitted = known
	s := session.New(c, client, limits, g.budget, events)
	g.mu.Lock()
	g.mu.sessions[s] = true
	draining := g.mu.draining
	g.mu.Unlock()
	if draining {
		s.Drain()
	}
	s.Run(ctx)
	g.mu.Lock()
	delete(g.mu.sessions, s)
	g.mu.Unlock()
}

func (g *Gateway) drainSessions() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.draining = true
	for s := range g.mu.sessions {
		s.Drain()
	}
}

func (g *Gateway) connectionRefused(reason string) {
	if g.events.ConnectionRefused != nil {
		g.events.ConnectionRefused(reason)
	}
}
