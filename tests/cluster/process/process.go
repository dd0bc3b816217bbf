// Package process starts the servers that tests need and makes sure that none
// of them outlives the test. It knows nothing about what it starts.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what to start.
type Spec struct {
	Name string   // for errors
	Path string   // the program
	Args []string // without the program's own name
	Env  []string // added to the environment of the test
	Dir  string   // working directory
	Log  string   // file that stderr and, unless Stdout is set, stdout are appended to

	// Network is the network namespace to run in; empty: that of the test.
	Network string
	// Nice lowers the priority, as nice(1) does: for what stands for other machines.
	Nice int

	Stdin  io.Reader // nothing to read if nil
	Stdout io.Writer // for tests that talk with the child; nil for the log
}

// Process is one running child. Its methods may be called from any goroutine.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the child was waited for
}

// The kernel sends the parent-death signal when the *thread* that forked ends,
// not the process. So all forks happen on one thread that never ends: else a
// child dies at random when the Go runtime retires the thread it came from.
var forks = sync.OnceValue(func() chan func() {
	requests := make(chan func())
	go func() {
		runtime.LockOSThread()
		for request := range requests {
			request()
		}
	}()
	return requests
})

// Start runs spec. The child is killed by the kernel as soon as this process
// ends, however it ends.
func Start(spec Spec) (*Process, error) {
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: open its log: %w", spec.Name, err)
	}
	path, args := spec.Path, spec.Args
	if spec.Nice > 0 { // it becomes the program, as ip does
		path, args = "nice", append([]string{"-n", strconv.Itoa(spec.Nice), path}, args...)
	}
	if spec.Network != "" { // ip becomes the program: pid and parent-death signal stay
		path, args = "ip", append([]string{"netns", "exec", spec.Network, path}, args...)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Dir = spec.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = spec.Stdin, log, log
	if spec.Stdout != nil {
		cmd.Stdout = spec.Stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a Ctrl-C at the terminal is for us; we stop the children in order
	}
	started := make(chan error)
	forks() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", spec.Name, err), log.Close())
	}
	p := &Process{spec: spec, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the exit status is read from ProcessState
		_ = log.Close()
		close(p.done)
	}()
	return p, nil
}

// Run starts spec and waits for its end, or kills it at the end of ctx. An exit
// status other than 0 is an error that carries the end of the log.
func Run(ctx context.Context, spec Spec) error {
	p, err := Start(spec)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("run %s: %w", spec.Name, ctx.Err()), p.Kill())
	}
	if p.ExitCode() != 0 {
		return fmt.Errorf("run %s: %s; end of its log:\n%s", spec.Name, p.Exit(), p.Tail(30))
	}
	return nil
}

// Name is the child's name, for errors.
func (p *Process) Name() string { return p.spec.Name }

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed once the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the child ended; call it only after Done.
func (p *Process) Exit() string { return p.cmd.ProcessState.String() }

// ExitCode is the child's exit status, −1 when a signal ended it; call it only after Done.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Kill ends the child with SIGKILL and waits for it.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the child to end with SIGTERM; what is left after grace is killed
// and reported as an error.
func (p *Process) Stop(grace time.Duration) error {
	if err := errors.Join(p.signal(syscall.SIGCONT), p.signal(syscall.SIGTERM)); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("stop %s: still running %s after SIGTERM, killed", p.spec.Name, grace), p.Kill())
	}
}

// Quit ends a Go program with SIGQUIT, so that its log says what it was doing.
func (p *Process) Quit(grace time.Duration) error {
	if err := errors.Join(p.signal(syscall.SIGCONT), p.signal(syscall.SIGQUIT)); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return p.Kill()
	}
}

// Pause stops the child: from then on it keeps its connections and answers nothing.
func (p *Process) Pause() error {
	if err := Pause(p.cmd.Process); err != nil {
		return fmt.Errorf("pause %s: %w", p.spec.Name, err)
	}
	return nil
}

// Pause stops a child of this process with SIGSTOP and returns when all its
// threads stand still, or it has ended.
func Pause(child *os.Process) error {
	if err := child.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, child.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		switch {
		case err == nil, errors.Is(err, unix.ECHILD): // it ended meanwhile
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait until all threads stand still: %w", err)
		}
	}
}

// Resume lets a paused child go on.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return fmt.Errorf("signal %s with %s: %w", p.spec.Name, s, err)
}

// Tail is the end of the child's log, for error messages.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.spec.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Await calls ready until it succeeds, the child ends, or patience runs out.
func (p *Process) Await(patience time.Duration, ready func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended (%s) before it was ready; end of its log %s:\n%s", p.spec.Name, p.Exit(), p.spec.Log, p.Tail(15))
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w; end of its log %s:\n%s", p.spec.Name, patience, err, p.spec.Log, p.Tail(15))
		}
	}
}
