package clients

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"strings"

	"spillway/tests/cluster/process"
)

//go:embed java/Transactions.java
var javaTransactions string

// Transactional is an application with transactions: with Records it writes that many
// numbered ones to To and ends (Java only), else it copies what is committed in From to To
// until it is stopped.
type Transactional struct {
	Kind      string // "java-3.9.2", ..., or "python"
	ID        string // transactional
	Bootstrap []string
	From, To  string
	Group     string
	Records   int
	Pause     int    // milliseconds between transactions that are written
	Dir       string // for logs
}

func (a Transactional) arguments() []string {
	role := "copy"
	if a.Records > 0 {
		role = "write"
	}
	return []string{"role=" + role, "id=" + a.ID, "bootstrap=" + strings.Join(a.Bootstrap, ","), "from=" + a.From, "to=" + a.To, "group=" + a.Group,
		"records=" + strconv.Itoa(a.Records), "pause=" + strconv.Itoa(a.Pause)}
}

// Transact starts one.
func Transact(ctx context.Context, a Transactional) (*Client, error) {
	c := &Client{spec: Spec{Kind: a.Kind, Name: a.ID, Dir: a.Dir}}
	var err error
	if c.output, err = os.Create(c.HistoryFile()); err != nil {
		return nil, fmt.Errorf("start %s: %w", a.ID, err)
	}
	var spec process.Spec
	if version, isJava := strings.CutPrefix(a.Kind, "java-"); isJava {
		java, err := compile(ctx, version, "Transactions", javaTransactions)
		if err != nil {
			return nil, err
		}
		java.Options = append(java.Options, "-Xmx96m")
		spec = java.Spec(a.ID, c.spec.log(), "Transactions", a.arguments()...)
	} else {
		if spec, err = (program{"python/transactions.py", confluentKafka}).command(ctx, a.Dir, a.arguments()); err != nil {
			return nil, fmt.Errorf("start %s: %w", a.ID, err)
		}
	}
	if err := c.run(spec); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// Done is closed when it has ended by itself.
func (c *Client) Done() <-chan struct{} { return c.processes[0].Done() }

// Log is the end of what it and its library said.
func (c *Client) Log(lines int) string { return c.processes[0].Tail(lines) }
