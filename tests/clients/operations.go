package clients

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"spillway/tests/cluster/process"
)

//go:embed java/Operations.java
var javaOperations string

// Kinds are all clients that Operate knows.
var Kinds = []string{
	"java-2.8.2", "java-3.6.2", "java-3.9.2", "java-4.0.1", "java-4.3.1", "java-4.4.0", "python", "kcat",
	"sarama", "franz-go", "kafka-go", "kafkajs", "kafka-python", "aiokafka",
}

// NextGroups tells which of them speak KIP-848. In Java 3.9 it is a preview, and those that
// are not here do not have it.
var NextGroups = map[string]bool{"java-4.0.1": true, "java-4.3.1": true, "java-4.4.0": true, "python": true, "franz-go": true}

// NotIdempotent are clients whose library has no idempotent producer.
var NotIdempotent = map[string]bool{"kafka-go": true}

// The operations of a client. What is told of one is a row of its own.
const (
	ProduceNone       = "produce acks=0"
	ProduceOne        = "produce acks=1"
	ProduceAll        = "produce acks=all"
	ProduceIdempotent = "produce idempotent"
	GroupClassic      = "group classic"
	GroupConsumer     = "group consumer"
	OffsetByTime      = "offset by time"
	Assign            = "assign"
	ClusterID         = "cluster id"
	TopicID           = "topic id"
	NodeID            = "node id"
	Leader            = "leader"
	Setting           = "setting" // cleanup.policy of the topic
)

// Producing are the operations that write, in this order, of a client that has them all.
var Producing = []string{ProduceNone, ProduceOne, ProduceAll, ProduceIdempotent}

// Task is what one run of a client does with partition 0 of a topic: with Write
// it produces Records records by each operation of Producing; else it reads what
// is there in all ways it can. Client id, topic and groups are the client's own.
type Task struct {
	Kind      string
	Bootstrap []string
	Topic     string
	Tag       string // part of values and of groups' names
	Dir       string // for logs

	Write   bool
	Records int

	Total    int     // records that can be read from the beginning
	From     int64   // a position that the client did not commit, but keeps itself
	Rest     int     // records from there on
	Times    []int64 // milliseconds since 1970
	Consumer bool    // also KIP-848
}

// Half is how many records the first member of a group handles before it
// commits and leaves.
func (t Task) Half() int { return t.Total / 2 }

// Told is one thing that a client was told. Numbers are −1 where the client
// does not show them.
type Told struct {
	Op     string `json:"op"`
	Step   string `json:"step,omitempty"` // of a group: "first" or "second" member, "first committed"
	Value  string `json:"value,omitempty"`
	Offset int64  `json:"offset"`
	Epoch  int64  `json:"epoch"`
	Time   int64  `json:"time,omitempty"`
	ID     string `json:"id,omitempty"` // of a cluster, topic or node
}

// identity makes what has neither an offset nor an epoch.
func identity(op, id string) Told { return Told{Op: op, Offset: -1, Epoch: -1, ID: id} }

// value is what the n-th record of an operation says.
func (t Task) value(op string, n int) string { return fmt.Sprintf("%s/%s/%s/%d", t.Kind, t.Tag, op, n) }

// group is the name of the client's group for one protocol.
func (t Task) group(op string) string {
	return t.Kind + "-" + t.Tag + "-" + strings.TrimPrefix(op, "group ")
}

// producing are the operations that this client writes with.
func (t Task) producing() []string { return ProducingOf(t.Kind) }

// ProducingOf are the operations of Producing that a client has.
func ProducingOf(kind string) []string {
	if NotIdempotent[kind] {
		return slices.DeleteFunc(slices.Clone(Producing), func(op string) bool { return op == ProduceIdempotent })
	}
	return Producing
}

// operations of groups that this client tries.
func (t Task) groups() []string {
	if t.Consumer {
		return []string{GroupClassic, GroupConsumer}
	}
	return []string{GroupClassic}
}

// members of a group, one after the other.
func (t Task) members() []member {
	return []member{{"first", t.Half()}, {"second", t.Total - t.Half()}}
}

type member struct {
	step  string
	count int
}

// Operate runs one client to the end of its task.
func Operate(ctx context.Context, t Task) ([]Told, error) {
	var told []Told
	var err error
	version, isJava := strings.CutPrefix(t.Kind, "java-")
	program, isProgram := operating[t.Kind]
	switch {
	case isJava:
		told, err = t.java(ctx, version)
	case isProgram:
		told, err = t.interpreted(ctx, program)
	case t.Kind == "kcat":
		told, err = t.kcat(ctx)
	case t.Kind == "sarama":
		told, err = t.sarama(ctx)
	case t.Kind == "franz-go":
		told, err = t.franz(ctx)
	case t.Kind == "kafka-go":
		told, err = t.kafkaGo(ctx)
	default:
		err = fmt.Errorf("no client is called %q", t.Kind)
	}
	if err != nil {
		return told, fmt.Errorf("client %s: %w", t.Kind, err)
	}
	return told, nil
}

// arguments are the NAME=VALUE words that the Java and Python programs take.
func (t Task) arguments() []string {
	times := make([]string, len(t.Times))
	for i, at := range t.Times {
		times[i] = strconv.FormatInt(at, 10)
	}
	return []string{
		"client=" + t.Kind, "bootstrap=" + strings.Join(t.Bootstrap, ","), "topic=" + t.Topic, "tag=" + t.Tag,
		"write=" + strconv.FormatBool(t.Write), "records=" + strconv.Itoa(t.Records),
		"total=" + strconv.Itoa(t.Total), "half=" + strconv.Itoa(t.Half()), "from=" + strconv.FormatInt(t.From, 10),
		"rest=" + strconv.Itoa(t.Rest), "times=" + strings.Join(times, ","), "groups=" + strings.Join(t.groups(), ","),
	}
}

func (t Task) java(ctx context.Context, version string) ([]Told, error) {
	java, err := compile(ctx, version, "Operations", javaOperations)
	if err != nil {
		return nil, err
	}
	java.Options = append(java.Options, "-Xmx96m")
	return t.run(ctx, java.Spec(t.Kind, t.log(), "Operations", t.arguments()...))
}

// interpreted runs a program in Python or JavaScript.
func (t Task) interpreted(ctx context.Context, p program) ([]Told, error) {
	spec, err := p.command(ctx, t.Dir, t.arguments())
	if err != nil {
		return nil, err
	}
	spec.Name, spec.Log = t.Kind, t.log()
	return t.run(ctx, spec)
}

func (t Task) log() string { return filepath.Join(t.Dir, t.Kind+"-operations.log") }

// run runs a program that prints what it is told, one JSON object a line.
func (t Task) run(ctx context.Context, spec process.Spec) ([]Told, error) {
	var out bytes.Buffer
	spec.Stdout = &out
	p, err := process.Start(spec)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		err = errors.Join(fmt.Errorf("did not come to its end: %w", ctx.Err()), p.Kill())
	}
	if err == nil && p.ExitCode() != 0 {
		err = errors.New(p.Exit())
	}
	if err != nil {
		return nil, fmt.Errorf("%w; end of its log:\n%s\nend of what it told:\n%s", err, p.Tail(20), tail(out.String(), 5))
	}
	return readTold(&out)
}

func readTold(r io.Reader) ([]Told, error) {
	var all []Told
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "{") {
			continue // what a library logs
		}
		var one Told
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return all, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// kcat says nothing of the records that it writes, nor of committed positions
// and leader epochs.
func (t Task) kcat(ctx context.Context) ([]Told, error) {
	base := []string{"-b", strings.Join(t.Bootstrap, ","), "-X", "client.id=" + t.Kind, "-q"}
	run := func(input string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "kcat", append(base[:len(base):len(base)], args...)...)
		cmd.Stdin = strings.NewReader(input)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("kcat %s: %w: %s", strings.Join(args, " "), err, said.String())
		}
		return string(out), nil
	}
	if t.Write {
		return t.kcatWrites(run)
	}
	return t.kcatReads(run)
}

type runKcat func(input string, args ...string) (string, error)

func (t Task) kcatWrites(run runKcat) ([]Told, error) {
	var told []Told
	for _, op := range Producing {
		var lines strings.Builder
		for n := range t.Records {
			fmt.Fprintln(&lines, t.value(op, n))
			told = append(told, Told{Op: op, Value: t.value(op, n), Offset: -1, Epoch: -1})
		}
		acks, idempotent := producing(op)
		if _, err := run(lines.String(), "-P", "-t", t.Topic, "-p", "0", "-X", "acks="+acks, "-X", "enable.idempotence="+strconv.FormatBool(idempotent)); err != nil {
			return nil, err
		}
	}
	return told, nil
}

// producing is how an operation of Producing is configured.
func producing(op string) (acks string, idempotent bool) {
	if op == ProduceIdempotent {
		return "all", true
	}
	return strings.TrimPrefix(op, "produce acks="), false
}

func (t Task) kcatReads(run runKcat) ([]Told, error) {
	var told []Told
	consumed := func(op, step string, args ...string) error {
		out, err := run("", append(args, "-f", "%o %s\n")...)
		for line := range strings.Lines(out) {
			offset, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.ParseInt(offset, 10, 64)
			if err != nil {
				return fmt.Errorf("kcat printed %q", line)
			}
			told = append(told, Told{Op: op, Step: step, Value: value, Offset: n, Epoch: -1})
		}
		return err
	}
	first, second := strconv.Itoa(t.Half()), strconv.Itoa(t.Total-t.Half())
	member := []string{"-X", "auto.offset.reset=earliest", "-G", t.group(GroupClassic), t.Topic}
	at := []string{"-C", "-t", t.Topic, "-p", "0", "-o", strconv.FormatInt(t.From, 10), "-c", strconv.Itoa(t.Rest)}
	err := errors.Join(
		consumed(GroupClassic, "first", append([]string{"-c", first}, member...)...),
		consumed(GroupClassic, "second", append([]string{"-c", second}, member...)...),
		consumed(Assign, "", at...),
	)
	if err != nil {
		return told, err
	}
	for _, at := range t.Times {
		out, err := run("", "-Q", "-t", fmt.Sprintf("%s:0:%d", t.Topic, at))
		if err != nil {
			return told, err
		}
		_, offset, _ := strings.Cut(strings.TrimSpace(out), "offset ")
		n, err := strconv.ParseInt(offset, 10, 64)
		if err != nil {
			return told, fmt.Errorf("kcat -Q printed %q", out)
		}
		told = append(told, Told{Op: OffsetByTime, Time: at, Offset: n, Epoch: -1})
	}
	out, err := run("", "-L", "-J", "-t", t.Topic)
	if err != nil {
		return told, err
	}
	var listed struct {
		Brokers []struct{ ID int }
		Topics  []struct{ Partitions []struct{ Leader int } }
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return told, fmt.Errorf("kcat -L printed %q: %w", out, err)
	}
	for _, b := range listed.Brokers {
		told = append(told, identity(NodeID, strconv.Itoa(b.ID)))
	}
	for _, topic := range listed.Topics {
		for _, p := range topic.Partitions {
			told = append(told, identity(Leader, strconv.Itoa(p.Leader)))
		}
	}
	return told, nil
}
