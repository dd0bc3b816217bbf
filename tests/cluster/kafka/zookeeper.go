package kafka

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
)

// OldestVersion is the oldest release from which is migrated: its brokers need a
// ZooKeeper, and speak older versions of all requests.
const OldestVersion = "2.8.2"

// OldForTest starts one broker of OldestVersion with its ZooKeeper for one test, in its
// temporary folder, and kills both at its end.
func OldForTest(t testing.TB, properties map[string]string) *Broker {
	t.Helper()
	b, err := startOld(t, t.Context(), properties)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func startOld(t testing.TB, ctx context.Context, properties map[string]string) (*Broker, error) {
	java, err := Tools(ctx, OldestVersion)
	if err != nil {
		return nil, err
	}
	java.Options = append([]string{"-Xmx256m"}, java.Options...)
	numbers, err := port.Reserve(2)
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	keeper := map[string]string{
		"dataDir": filepath.Join(dir, "zookeeper"), "clientPort": strconv.Itoa(numbers[0]), "clientPortAddress": "127.0.0.1",
		"admin.enableServer": "false", "maxClientCnxns": "0",
	}
	file := filepath.Join(dir, "zookeeper.properties")
	if err := os.WriteFile(file, []byte(fileOf(keeper)), 0o600); err != nil {
		return nil, err
	}
	zookeeper, err := process.Start(java.Spec("ZooKeeper", filepath.Join(dir, "zookeeper.log"), "org.apache.zookeeper.server.quorum.QuorumPeerMain", file))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := zookeeper.Kill(); err != nil {
			t.Error(err)
		}
	})
	b := &Broker{Node: 1, Port: numbers[1], dir: dir, java: java, config: Config{Name: "kafka-" + OldestVersion, Host: "127.0.0.1", Brokers: 1}}
	listener := "PLAINTEXT://" + b.Address()
	settings := map[string]string{
		"broker.id": "1", "zookeeper.connect": fmt.Sprintf("127.0.0.1:%d", numbers[0]), "listeners": listener, "advertised.listeners": listener,
		"log.dirs": filepath.Join(dir, "data"), "auto.create.topics.enable": "false", "controlled.shutdown.enable": "false",
		"offsets.topic.num.partitions": "4", "offsets.topic.replication.factor": "1",
		"transaction.state.log.num.partitions": "4", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
		"group.initial.rebalance.delay.ms": "0", "log.cleaner.dedupe.buffer.size": "4194304",
	}
	for k, v := range properties {
		settings[k] = v
	}
	if err := os.WriteFile(b.propertiesFile(), []byte(fileOf(settings)), 0o600); err != nil {
		return nil, err
	}
	if err := b.start(); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := b.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s\nend of its ZooKeeper's:\n%s", b.config.Name, b.process.Tail(30), zookeeper.Tail(10))
		}
	})
	return b, b.process.Await(startPatience, func() error { return b.ready(ctx, 1) })
}
