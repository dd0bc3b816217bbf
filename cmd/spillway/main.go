// Command spillway is the one binary: gateway, mirror, control loop, console
// and the operator's command line. It knows flags and signals; the work is in
// package app and the packages behind it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes that scripts rely on. Every other failure is 1.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitUnhealthy = 10
)

// exitError carries an exit code with the message. An empty message is not
// printed: the command has already said what it had to say.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	if coded, ok := errors.AsType[exitError](err); ok {
		return coded.code
	}
	return exitFailed
}
