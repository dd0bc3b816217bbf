package demo

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"spillway/console/status"
	"spillway/tests/orders/history"
)

// awakeMax is how long a process that hung may take until all is well again.
const awakeMax = 30 * time.Second

// hang stops the process that serves (SIGSTOP, as a long pause of its machine
// would) while the group moves away, and lets it wake up behind that. Its
// brokers go on all the time, so nothing but its lease keeps it from
// acknowledging what clients sent to it meanwhile (promise A).
func (s *story) hang(ctx context.Context) error {
	from := groupOf(s.world.observer.Status()).Active
	to := s.other(from)
	serving := s.world.site(from).serving()
	s.say("-- the process that serves %s hangs, and a switchover to %s does not wait for it", from, to)
	s.load.Mark(history.Event{Name: "hang", Note: serving.name})
	if err := serving.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	moved := s.move(ctx, from, to, "its gateway hangs")
	s.say("   %s wakes up", serving.name)
	if err := errors.Join(moved, serving.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	_, err := s.world.await(ctx, awakeMax, from+" is well again", func(now status.Status) bool {
		return healthy(now) && followed(now, len(s.world.sites)-1)
	})
	return err
}

// serving is the child with the gateway.
func (s *site) serving() *child { return s.children[len(s.children)-1] }

func (c *child) signal(sig syscall.Signal) error {
	if err := c.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, c.name, err)
	}
	return nil
}
