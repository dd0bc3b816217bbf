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
	"spillway/tests/orders/history"
)

// awakeMax is how long a process that hung may take until all is well again.
const awakeMax = 30 * time.Second

// hang stops the process whose gateway clients speak to (SIGSTOP, as a long
// pause of its machine would) while the group moves away from a site whose
// brokers go on all the time, and lets it wake up behind that. Nothing but its
// lease keeps it from acknowledging what clients sent to it meanwhile (promise A).
func (s *story) hang(ctx context.Context) error {
	home, err := s.layoutHome(ctx)
	if err != nil {
		return err
	}
	from := groupOf(s.world.observer.Status()).Active
	to := s.other(from, home)
	gateway := s.world.site(home).gatewayProcess()
	s.say("-- the gateway that clients speak to hangs (%s), and a switchover from %s to %s does not wait for it", gateway.name, from, to)
	s.load.Mark(history.Event{Name: "hang", Note: gateway.name})
	if err := gateway.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	moved := s.move(ctx, from, to, "a gateway hangs")
	s.say("   %s wakes up", gateway.name)
	if err := errors.Join(moved, gateway.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	_, err = s.world.await(ctx, awakeMax, home+" is well again", func(now status.Status) bool {
		return healthy(now) && followed(now, len(s.world.sites)-1)
	})
	return err
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

func (c *child) signal(sig syscall.Signal) error {
	if err := c.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, c.name, err)
	}
	return nil
}
