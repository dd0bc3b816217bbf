//go:build e2e

package gateways

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/conn"
	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
)

var out = flag.String("out", "", "folder for gateways.json and gateways.md, besides what is printed")

// Names of the contenders.
const (
	direct  = "direct"
	haproxy = "haproxy"
	ours    = "spillway"
)

// told are the figures of all tests of one run.
var told = report.Report{Name: "gateways", Contenders: []string{direct, haproxy, ours}, Ours: ours}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := told.Write(*out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// partitions of each topic; a connection works on one.
const partitions = 4

// contender is one way to the broker, and has a topic of its own there.
type contender struct {
	name, address string
	process       *process.Process // nil: there is nothing between
}

// use is the processor time that what lies between has taken, and its memory.
func (c contender) use() process.Usage {
	if c.process == nil {
		return process.Usage{}
	}
	u, _ := process.Use(c.process.Pid())
	return u
}

func (c contender) topic() string { return "for-" + c.name }

// start runs a broker, both proxies in front of it, and makes the topics.
func start(t *testing.T, ctx context.Context) []contender {
	t.Helper()
	broker := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 768, Properties: map[string]string{"num.network.threads": "4", "num.io.threads": "4"}})[0]
	admin, err := kgo.NewClient(broker.Dial()...)
	must(t, err)
	t.Cleanup(admin.Close)
	_, err = kadm.NewClient(admin).CreateTopics(ctx, partitions, 1, nil, "for-"+direct, "for-"+haproxy, "for-"+ours)
	must(t, err)
	dir, address := t.TempDir(), broker.Bootstrap()[0]
	ports, err := port.Reserve(5)
	must(t, err)
	all := []contender{
		{name: direct, address: address},
		startHaproxy(t, dir, address, ports[0]),
		startSpillway(t, ctx, dir, address, ports[1:]),
	}
	for _, c := range all {
		eventually(t, c.name+" serves", func() error { return c.serves(ctx) })
	}
	return all
}

// startHaproxy copies bytes, in both threads that the machine has.
func startHaproxy(t *testing.T, dir, broker string, listen int) contender {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("%v: the benchmark compares with haproxy; apt-get install haproxy", err)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `global
    maxconn 9500
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen kafka
    bind 127.0.0.1:%d
    server broker %s
`, listen, broker), 0o600))
	p, err := process.Start(process.Spec{Name: haproxy, Path: path, Args: []string{"-db", "-f", file}, Log: filepath.Join(dir, "haproxy.log")})
	must(t, err)
	t.Cleanup(func() { must(t, p.Kill()) })
	return contender{haproxy, fmt.Sprintf("127.0.0.1:%d", listen), p}
}

// startSpillway runs all roles in one process: what is measured has the probes of the
// control loop in it, and the mirror of a virtual cluster of one site.
func startSpillway(t *testing.T, ctx context.Context, dir, broker string, ports []int) contender {
	t.Helper()
	program := filepath.Join(dir, "spillway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "spillway/cmd/spillway").CombinedOutput(); err != nil {
		t.Fatalf("build spillway: %v\n%s", err, out)
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	file := filepath.Join(dir, "east.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `virtualCluster: {name: bench, clusterID: bench-of-gateways}
process: {id: east-1, site: east, roles: [gateway, mirror, control, console], dataDir: %[1]s}
sites:
  - name: east
    bootstrap: [%[2]s]
coordinator: {embedded: {file: %[1]s/coordinator.db, socket: %[1]s/coordinator.sock}}
failoverGroups:
  - name: bench
    topics: [for-spillway]
    consumerGroups: ["*"]
    sites: [east]
gateway: {listen: %[3]s, advertised: %[3]s, limits: {connectionsMax: 12000, connectionsPerAddressMax: 12000}}
mirror: {listen: "127.0.0.1:%[4]d"}
telemetry: {listen: "127.0.0.1:%[5]d"}
console: {listen: "127.0.0.1:%[6]d"}
`, dir, broker, address, ports[1], ports[2], ports[3]), 0o600))
	log := filepath.Join(dir, "spillway.log")
	p, err := process.Start(process.Spec{Name: ours, Path: program, Args: []string{"serve", "--config", file}, Log: log})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Spillway's log:\n%s", p.Tail(20))
		}
		must(t, p.Kill())
	})
	return contender{ours, address, p}
}

// serves tells whether records can be written to each partition.
func (c contender) serves(ctx context.Context) error {
	to, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer to.Close()
	for p := range int32(partitions) {
		answer, err := to.Send(ctx, 0, produceVersion, true, produceRequest(c.topic(), p, smallBatch)).Wait(ctx)
		if err != nil {
			return err
		}
		if err := produced(answer); err != nil {
			return err
		}
	}
	return nil
}

func (c contender) dial(ctx context.Context) (*conn.Conn, error) {
	return conn.Open(ctx, conn.Config{Address: c.address, Node: -1, InFlightMax: inFlight})
}

// starts are the offsets at which the partitions begin.
func (c contender) starts(t *testing.T, ctx context.Context) (starts [partitions]int64) {
	t.Helper()
	to, err := c.dial(ctx)
	must(t, err)
	defer to.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = 5, -1
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = c.topic()
	for p := range int32(partitions) {
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p, -2
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = []kmsg.ListOffsetsRequestTopic{topic}
	answer, err := to.DoVersion(ctx, req)
	must(t, err)
	for _, p := range answer.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
		starts[p.Partition] = p.Offset
	}
	return starts
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
}

// by makes the values of a figure.
func by(all []contender, of func(contender) float64) map[string]float64 {
	values := make(map[string]float64)
	for _, c := range all {
		values[c.name] = of(c)
	}
	return values
}

// proxies are the contenders that are processes.
func proxies(all []contender) (some []contender) {
	for _, c := range all {
		if c.process != nil {
			some = append(some, c)
		}
	}
	return some
}
