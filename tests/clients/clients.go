// Package clients runs Kafka clients of other languages as child processes,
// unmodified and with their defaults, and collects the histories that they
// write (package history). Java and Python programs write their own; kcat,
// which cannot, is spoken for by this package.
package clients

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
	"spillway/tests/orders/history"
)

//go:embed java/HistoryClient.java
var javaSource string

// Spec says which client to run and what it does.
type Spec struct {
	Kind       string // one of Kinds that is no library of Go
	Name       string // in the history each role is a client of its own: Name-producer, Name-group, Name-assign
	Roles      []string
	Bootstrap  []string
	Topics     []string
	Partitions int     // of each topic
	Rate       float64 // records a second over all partitions; producers only
	Plain      bool    // not idempotent
	Acks       string  // "0", "1" or "all", the default
	Group      string
	Protocol   string            // "consumer" for KIP-848; Java only
	Conf       map[string]string // the library's own settings
	Dir        string            // where history and log go
	Network    string            // network namespace; empty: that of the test
}

// Client is one running client.
type Client struct {
	spec      Spec
	processes []*process.Process
	stdin     []io.Closer
	output    *os.File
	speaker   *speaker // set for kcat alone
}

// HistoryFile is where the client's history is; complete after Stop.
func (c *Client) HistoryFile() string { return filepath.Join(c.spec.Dir, c.spec.Name+".jsonl") }

// Member is the client of the history that reads in a group; empty if none does.
func (c *Client) Member() string {
	if !slices.Contains(c.spec.Roles, history.Member) {
		return ""
	}
	return c.spec.Name + "-" + history.Member
}

func (s Spec) log() string { return filepath.Join(s.Dir, s.Name+".log") }

// Start runs the client until Stop.
func Start(ctx context.Context, spec Spec) (*Client, error) {
	if spec.Acks == "" {
		spec.Acks = "all"
	}
	c := &Client{spec: spec}
	var err error
	if c.output, err = os.Create(c.HistoryFile()); err != nil {
		return nil, fmt.Errorf("start client %s: %w", spec.Name, err)
	}
	version, isJava := strings.CutPrefix(spec.Kind, "java-")
	program, isProgram := historyClients[spec.Kind]
	switch {
	case isJava:
		err = c.startJava(ctx, version)
	case isProgram:
		err = c.startProgram(ctx, program)
	case spec.Kind == "kcat":
		err = c.startKcat()
	default:
		err = fmt.Errorf("start client %s: no client is called %q", spec.Name, spec.Kind)
	}
	if err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// Stop asks all clients to finish their work at once, and waits for their ends:
// producers have written everything, readers have read everything.
func Stop(all []*Client, patience time.Duration) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { errs[i] = c.stop(patience) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Client) stop(patience time.Duration) error {
	if c.speaker != nil {
		return errors.Join(c.speaker.stop(patience), c.output.Close())
	}
	var errs []error
	for _, w := range c.stdin {
		errs = append(errs, w.Close())
	}
	for _, p := range c.processes {
		errs = append(errs, end(p, c.spec.Name, time.After(patience)))
	}
	return errors.Join(append(errs, c.output.Close())...)
}

// Kill ends the client at once, if it still runs.
func (c *Client) Kill() {
	for _, p := range c.processes {
		_ = p.Kill() // it may have ended
	}
}

// end waits for a process whose input has ended.
func end(p *process.Process, name string, deadline <-chan time.Time) error {
	select {
	case <-p.Done():
		if p.ExitCode() != 0 {
			return fmt.Errorf("client %s: %s; end of its log:\n%s", name, p.Exit(), p.Tail(10))
		}
		return nil
	case <-deadline:
		return errors.Join(fmt.Errorf("client %s did not stop in time; end of its log:\n%s", name, p.Tail(10)), p.Kill())
	}
}

// clientNice: clients stand for other machines, and what they use of this one is
// missing where times are measured.
const clientNice = 5

// run starts one child whose standard input ends with Stop.
func (c *Client) run(spec process.Spec) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start client %s: %w", c.spec.Name, err)
	}
	defer func() { _ = r.Close() }() // the child has its own
	spec.Name, spec.Log, spec.Stdin, spec.Network, spec.Nice = c.spec.Name, c.spec.log(), r, c.spec.Network, clientNice
	if spec.Stdout == nil {
		spec.Stdout = c.output
	}
	p, err := process.Start(spec)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	c.processes, c.stdin = append(c.processes, p), append(c.stdin, w)
	return nil
}

// arguments are the NAME=VALUE words that the Java and Python programs take.
func (s Spec) arguments() []string {
	args := []string{
		"roles=" + strings.Join(s.Roles, ","), "client=" + s.Name, "bootstrap=" + strings.Join(s.Bootstrap, ","),
		"topics=" + strings.Join(s.Topics, ","), "partitions=" + strconv.Itoa(s.Partitions),
		fmt.Sprintf("rate=%g", s.Rate), "idempotent=" + strconv.FormatBool(!s.Plain), "acks=" + s.Acks,
		"group=" + s.Group, "protocol=" + s.Protocol,
	}
	for k, v := range s.Conf {
		args = append(args, "conf."+k+"="+v)
	}
	return args
}

func (c *Client) startJava(ctx context.Context, version string) error {
	java, err := compile(ctx, version, "HistoryClient", javaSource)
	if err != nil {
		return err
	}
	java.Options = append(java.Options, "-Xmx96m")
	return c.run(java.Spec(c.spec.Name, c.spec.log(), "HistoryClient", c.spec.arguments()...))
}

// compile compiles a program once per version of the library.
func compile(ctx context.Context, version, class, source string) (kafka.Java, error) {
	set := version
	if slices.Contains(kafka.Sets(), "clients-"+version) {
		set = "clients-" + version // of which no broker is started
	}
	java, err := kafka.Tools(ctx, set)
	if err != nil {
		return java, err
	}
	if java, err = java.Compiled("java-client-"+version, class, source); err != nil {
		return java, fmt.Errorf("for kafka-clients %s: %w", version, err)
	}
	return java, nil
}

func (c *Client) startProgram(ctx context.Context, p program) error {
	spec, err := p.command(ctx, c.spec.Dir, c.spec.arguments())
	if err != nil {
		return fmt.Errorf("start client %s: %w", c.spec.Name, err)
	}
	return c.run(spec)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}
