package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// result is what one stage gave.
type result struct {
	stage  stage
	took   time.Duration
	used   time.Duration // processor time of its processes, as far as somebody waited for their end
	passed int
	broken int      // failed tests
	faults []string // what is wrong with the stage as a whole
	said   []string // why tests failed, in their own words
}

func (r result) failed() int { return r.broken + len(r.faults) }

// Whole logs go here; the screen shows failures and figures.
const logs = ".cache/ci"

// run runs one stage, in a process group of its own that is killed when the
// stage's time is over.
func run(ctx context.Context, s stage) result {
	begin := time.Now()
	r := result{stage: s}
	tests, used, err := runCommand(ctx, s)
	r.took, r.used = time.Since(begin), used
	if !s.isGoTest() {
		if err != nil {
			r.faults = append(r.faults, err.Error())
		} else {
			r.passed = 1
		}
		return r
	}
	r.passed, r.broken = tests.passed(), tests.failed()
	if err != nil && r.broken == 0 { // else the failed tests are what it means
		r.faults = append(r.faults, err.Error())
	}
	r.faults = append(r.faults, tests.faults(s.testsMin)...)
	r.said = tests.reasons
	return r
}

func runCommand(ctx context.Context, s stage) (tests *count, used time.Duration, err error) {
	tests = newCount()
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return tests, 0, err
	}
	log, err := os.Create(filepath.Join(logs, s.name+".log"))
	if err != nil {
		return tests, 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	line := append([]string{}, s.command...)
	if s.isGoTest() {
		line = append([]string{"go", "test", "-json", "-timeout=" + s.limit.String()}, line[2:]...)
	}
	command := exec.CommandContext(ctx, line[0], line[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 10 * time.Second
	read, write := io.Pipe()
	command.Stdout, command.Stderr = write, write
	finished := make(chan error, 1)
	go func() {
		finished <- follow(read, s, tests, log)
		_, _ = io.Copy(io.Discard, read) // after an error too, or the command would block
	}()
	runErr := command.Run()
	_ = write.Close() // never fails
	followErr := <-finished
	if state := command.ProcessState; state != nil { // nil where it did not start
		used = state.UserTime() + state.SystemTime()
	}
	if ctx.Err() != nil {
		runErr = fmt.Errorf("ended after %s: %w", s.limit, ctx.Err())
	}
	return tests, used, errors.Join(runErr, followErr)
}

// follow writes everything into the log, and to the screen what a person wants
// to see at once.
func follow(output io.Reader, s stage, tests *count, log io.Writer) error {
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			text, show := string(line), true
			if s.isGoTest() {
				text, show = tests.add(line)
			}
			if _, err := io.WriteString(log, text); err != nil {
				return fmt.Errorf("write the log: %w", err)
			}
			if show {
				fmt.Print(text)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
