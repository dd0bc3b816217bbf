package demo

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"spillway"
	"spillway/console/status"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/tests/cluster/process"
	"spillway/tests/orders/history"
)

const (
	// awakeMax is how long a process that hung may take until all is well again.
	awakeMax = 30 * time.Second
	// cutOffMax is how long a process that has woken up does not yet hear from
	// the coordinator store: time enough to answer what waits for it.
	cutOffMax = 2 * time.Second
)

// hang stops the process whose gateway clients speak to (SIGSTOP, as a long
// pause of its machine would) while the group moves away from a site whose
// brokers go on all the time. It wakes up behind that, hears nothing of the
// move yet, and finds requests that wait for it, a commit of the till among
// them. Nothing but its lease keeps it from serving (promise A): a commit that
// it lets the old site acknowledge is lost, and the till reads again.
func (s *story) hang(ctx context.Context) error {
	home, err := s.layoutHome(ctx)
	if err != nil {
		return err
	}
	from := groupOf(s.world.observer.Status()).Active
	to := s.other(from, home)
	t, err := openTill(ctx, s.world.bootstrap(), s.world.site(home).gateway, s.recorder)
	if err != nil {
		return err
	}
	defer t.close()
	if err := runAll(ctx, t.read, t.commit, t.read); err != nil {
		return err
	}
	gateway, store := s.world.site(home).gatewayProcess(), s.world.site(home).store
	s.say("-- the gateway that clients speak to hangs (%s), and a switchover from %s to %s does not wait for it", gateway.name, from, to)
	s.load.Mark(history.Event{Name: "hang", Note: gateway.name})
	store.hold()
	defer store.release()
	if err := gateway.pause(); err != nil {
		return err
	}
	committed := make(chan error, 1)
	go func() { committed <- t.commit(ctx) }()
	moved := s.move(ctx, from, to, "a gateway hangs")
	if len(committed) > 0 {
		moved = errors.Join(moved, fmt.Errorf("the till's commit did not wait for %s, which hangs", gateway.name))
	}
	s.say("   %s wakes up, and does not hear from the coordinator store", gateway.name)
	if err := errors.Join(moved, gateway.resume()); err != nil {
		return errors.Join(err, <-committed)
	}
	cutOff := time.NewTimer(cutOffMax)
	defer cutOff.Stop()
	select {
	case err := <-committed:
		committed <- err
	case <-cutOff.C:
	}
	store.release()
	if err := <-committed; err != nil {
		s.say("   refused: %v", err) // so it may read again
	}
	if _, err := s.world.await(ctx, awakeMax, home+" is well again", func(now status.Status) bool {
		return healthy(now) && followed(now, len(s.world.sites)-1)
	}); err != nil {
		return err
	}
	if err := s.goesOn(ctx, s.load.Progress().Acked); err != nil {
		return err
	}
	return runAll(ctx, t.again, t.read)
}

// runAll runs one after the other, up to the first that fails.
func runAll(ctx context.Context, steps ...func(context.Context) error) error {
	for _, run := range steps {
		if err := run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// layoutHome is the site whose gateways lead the group's partitions.
func (s *story) layoutHome(ctx context.Context) (string, error) {
	e, err := s.world.store.Get(ctx, failover.Keys(s.world.cfg.VirtualCluster.Name).Layout())
	if err != nil {
		return "", err
	}
	l, err := layout.Decode(e.Value)
	return string(l.Homes[spillway.ShareID{Group: group}.String()]), err
}

// gatewayProcess is the child with gateway, mirror and control loop.
func (s *site) gatewayProcess() *child { return s.children[len(s.children)-1] }

// pause holds the process up as a long pause of its machine would.
func (c *child) pause() error {
	if err := process.Pause(c.cmd.Process); err != nil {
		return fmt.Errorf("pause %s: %w", c.name, err)
	}
	return nil
}

func (c *child) resume() error {
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("resume %s: %w", c.name, err)
	}
	return nil
}
