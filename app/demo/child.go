package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// stopMax is how long a child may take to end in order.
const stopMax = 15 * time.Second

// child is one process of the demo. Its standard input is a tether: when this
// process ends, however it ends, the tether breaks and the child ends too.
type child struct {
	name   string
	log    string // file with its output
	cmd    *exec.Cmd
	tether io.Closer
	done   chan struct{} // closed once it has ended
	once   sync.Once
	err    error // of Wait, after done
}

// spawn starts this program again with other arguments.
func spawn(program, dir, name string, env []string, args ...string) (*child, error) {
	log := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	defer func() { _ = out.Close() }() // the child has its own
	c := &child{name: name, log: log, cmd: exec.Command(program, args...), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	// A child in a group of its own does not get the terminal's Ctrl-C: the
	// demo ends its children itself, in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	tether, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("tether of %s: %w", name, err)
	}
	c.tether = tether
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// kill ends the process as a power cut would, and waits for its end.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	<-c.done
	return nil
}

// stop asks the process to end in order, and kills it when it does not.
func (c *child) stop(ctx context.Context) error {
	if c.ended() {
		return nil
	}
	c.once.Do(func() { _ = c.cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended meanwhile
	wait := time.NewTimer(stopMax)
	defer wait.Stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	case <-wait.C:
	}
	return errors.Join(fmt.Errorf("%s did not end within %s; its log is %s", c.name, stopMax, c.log), c.kill())
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}
