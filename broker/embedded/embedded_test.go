package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/brokertest"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
)

// The test binary is also the child that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SPILLWAY_EMBEDDED_DIR"); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func child(dir string) error {
	c, err := embedded.Start(embedded.Config{Site: "east", Dir: dir, Topics: map[string]int32{"orders": 1}})
	if err != nil {
		return err
	}
	fmt.Println(c.Addresses()[0])
	select {}
}

// spawn starts a child on dir and returns a way to reach it and to kill it.
func spawn(t *testing.T, dir string) (*kafka.Cluster, func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SPILLWAY_EMBEDDED_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		kill()
		t.Fatal(err)
	}
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: []string{strings.TrimSpace(address)}})
	if err != nil {
		kill()
		t.Fatal(err)
	}
	return c, func() {
		kill()
		c.Close()
	}
}

func produce(ctx context.Context, c *kafka.Cluster, sequence int32) (int64, error) {
	b, err := batch.Rebuild(batch.Header{ProducerID: 1 << 62, BaseSequence: sequence, LeaderEpoch: -1},
		[]batch.Record{{Value: fmt.Append(nil, sequence)}}, batch.None)
	if err != nil {
		return 0, err
	}
	return brokertest.Produce(ctx, c, spillway.TopicPartition{Topic: "orders"}, b)
}

func TestAcknowledgedRecordsSurviveSIGKILL(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	next := int32(0)
	for range 4 {
		c, kill := spawn(t, dir)
		ends, err := c.Admin().LogEnds(ctx, []spillway.TopicPartition{{Topic: "orders"}})
		if got := ends[spillway.TopicPartition{Topic: "orders"}]; err != nil || got != spillway.LocalOffset(next) {
			t.Errorf("the log ends at %d after %d acknowledged records, error %v", got, next, err)
		}
		for range 3 {
			if offset, err := produce(ctx, c, next); err != nil || offset != int64(next) {
				t.Errorf("record %d: offset %d, error %v", next, offset, err)
			}
			next++
		}
		kill()
	}
}

// The declared capability ProducersDurable, in both directions.
func TestProducersSurviveCloseButNotSIGKILL(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	c, kill := spawn(t, dir)
	if produceOrFail(t, ctx, c, 0) != 0 {
		t.Error("the first record is not at 0")
	}
	kill()
	here, err := embedded.Start(embedded.Config{Site: "east", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if here.Capabilities().ProducersDurable {
		t.Error("the capability is declared")
	}
	if offset := produceOrFail(t, ctx, here.Cluster, 0); offset != 1 {
		t.Errorf("after SIGKILL the resend got offset %d; if it is 0 now, declare ProducersDurable", offset)
	}
	here.Close()
	if here, err = embedded.Start(embedded.Config{Site: "east", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if offset := produceOrFail(t, ctx, here.Cluster, 0); offset != 1 {
		t.Errorf("after Close the resend got offset %d", offset)
	}
}

func produceOrFail(t *testing.T, ctx context.Context, c *kafka.Cluster, sequence int32) int64 {
	t.Helper()
	offset, err := produce(ctx, c, sequence)
	if err != nil {
		t.Fatal(err)
	}
	return offset
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	c, err := embedded.Start(embedded.Config{Site: "east", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(embedded.Config{Site: "east", Dir: dir}); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("error %v", err)
	}
	before, err := c.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c, err = embedded.Start(embedded.Config{Site: "east", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	after, err := c.Metadata(t.Context())
	if err != nil || after.ClusterID != before.ClusterID || after.ClusterID == "" {
		t.Errorf("cluster id %q after %q, error %v", after.ClusterID, before.ClusterID, err)
	}
}

func TestConfigurationFaultsAreNamed(t *testing.T) {
	_, err := embedded.Start(embedded.Config{Brokers: 2, Listen: []string{"0.0.0.0:9092", "9092", "127.0.0.1:1"}})
	for _, fault := range []string{"site: is empty", "listen: 3 addresses for 2 brokers", "listen[0]: 0.0.0.0 is not a loopback address", `listen[1]: "9092" is not host:port`} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q is not in %v", fault, err)
		}
	}
}

func TestListensWhereItIsTold(t *testing.T) {
	first, err := embedded.Start(embedded.Config{Site: "east", Brokers: 2})
	if err != nil {
		t.Fatal(err)
	}
	addresses := first.Addresses()
	first.Close()
	second, err := embedded.Start(embedded.Config{Site: "east", Brokers: 2, Listen: addresses})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got := second.Addresses(); strings.Join(got, " ") != strings.Join(addresses, " ") {
		t.Errorf("%v, not %v", got, addresses)
	}
}
