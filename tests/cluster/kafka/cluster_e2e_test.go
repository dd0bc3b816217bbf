//go:build e2e

package kafka

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

var users = map[string]string{"gateway": "for-the-gateway", "guest": "for-a-guest"}

// Each version is started with everything that a site may have, killed,
// stopped and paused.
func TestEachVersionStartsAndKeepsWhatItAcknowledged(t *testing.T) {
	for _, version := range Versions {
		t.Run(version, func(t *testing.T) {
			c := ForTest(t, Config{Version: version, Users: users, SuperUsers: []string{"gateway"}, TLS: true, FirstNode: 41})[0]
			b := c.Brokers[0]
			client := dial(t, c.Dial()...)
			createTopic(t, client, "orders")
			produce(t, client, "orders", "one")

			address := b.Address()
			must(t, b.Kill())
			must(t, b.Start(t.Context()))
			if b.Address() != address {
				t.Fatalf("the broker moved from %s to %s", address, b.Address())
			}
			produce(t, client, "orders", "two")
			must(t, b.Restart(t.Context()))

			must(t, b.Pause())
			if err := ping(t, c.Dial()...); err == nil {
				t.Error("a paused broker answered")
			}
			must(t, b.Resume())
			produce(t, client, "orders", "three")
			if got := consume(t, dial(t, append(c.Dial(), kgo.ConsumeTopics("orders"))...), "three"); got != "one two three" {
				t.Errorf("the topic holds %q", got)
			}
		})
	}
}

func TestClientsWithoutCredentialsAreRefused(t *testing.T) {
	c := ForTest(t, Config{Users: users, SuperUsers: []string{"gateway"}})[0]
	client := dial(t, c.Dial()...)
	createTopic(t, client, "orders")

	seed := kgo.SeedBrokers(c.Bootstrap()...)
	if err := ping(t, seed); err == nil {
		t.Error("a client without credentials was served")
	}
	if err := ping(t, seed, kgo.SASL(plain.Auth{User: "guest", Pass: "wrong"}.AsMechanism())); err == nil {
		t.Error("a wrong password was taken")
	}
	guest := scram.Auth{User: "guest", Pass: users["guest"]}
	for name, mechanism := range map[string]kgo.Opt{
		"PLAIN":         kgo.SASL(plain.Auth{User: "guest", Pass: users["guest"]}.AsMechanism()),
		"SCRAM-SHA-256": kgo.SASL(guest.AsSha256Mechanism()),
		"SCRAM-SHA-512": kgo.SASL(guest.AsSha512Mechanism()),
	} {
		if err := ping(t, seed, mechanism); err != nil {
			t.Errorf("guest by %s: %v", name, err)
		}
	}

	// A fence denies one topic to everybody; only a super user passes.
	other := dial(t, seed, kgo.SASL(guest.AsSha512Mechanism()))
	produce(t, other, "orders", "before the fence")
	fence := kmsg.NewCreateACLsRequest()
	fence.Creations = []kmsg.CreateACLsRequestCreation{{
		ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: "orders", ResourcePatternType: kmsg.ACLResourcePatternTypeLiteral,
		Principal: "User:*", Host: "*", Operation: kmsg.ACLOperationWrite, PermissionType: kmsg.ACLPermissionTypeDeny,
	}}
	answer, err := fence.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	must(t, kerr.ErrorForCode(answer.Results[0].ErrorCode))
	var fenced error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && fenced == nil; {
		fenced = other.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr()
	}
	if !errors.Is(fenced, kerr.TopicAuthorizationFailed) {
		t.Errorf("a write behind the fence: %v, want %v", fenced, kerr.TopicAuthorizationFailed)
	}
	produce(t, client, "orders", "by the super user")
}

func TestThreeBrokersSurviveOne(t *testing.T) {
	c := ForTest(t, Config{Brokers: 3})[0]
	client := dial(t, append(c.Dial(), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	createTopic(t, client, "orders")
	produce(t, client, "orders", "one")
	must(t, c.Brokers[0].Kill())
	produce(t, client, "orders", "two")
	must(t, c.Brokers[0].Start(t.Context()))
	must(t, c.Kill())
	must(t, c.Restart(t.Context()))
	produce(t, client, "orders", "three")
	if got := consume(t, dial(t, append(c.Dial(), kgo.ConsumeTopics("orders"))...), "three"); got != "one two three" {
		t.Errorf("the topic holds %q", got)
	}
}

func TestToolsRun(t *testing.T) {
	c := ForTest(t, Config{})[0]
	java, err := Tools(t.Context(), DefaultVersion)
	must(t, err)
	output, err := java.Run(t.Context(), "org.apache.kafka.tools.TopicCommand",
		"--bootstrap-server", c.Brokers[0].Address(), "--create", "--topic", "by-java", "--partitions", "3")
	must(t, err)
	if !strings.Contains(output, "Created topic by-java") {
		t.Errorf("TopicCommand printed %q", output)
	}
	if _, err := java.Run(t.Context(), "org.apache.kafka.tools.TopicCommand", "--no-such-option"); err == nil {
		t.Error("a failing program is no error")
	}
}

func dial(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(opts...)
	must(t, err)
	t.Cleanup(client.Close)
	return client
}

func ping(t *testing.T, opts ...kgo.Opt) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return dial(t, opts...).Ping(ctx)
}

func createTopic(t *testing.T, client *kgo.Client, name string) {
	t.Helper()
	request := kmsg.NewCreateTopicsRequest()
	request.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: name, NumPartitions: 1, ReplicationFactor: -1}}
	answer, err := request.RequestWith(t.Context(), client)
	must(t, err)
	must(t, kerr.ErrorForCode(answer.Topics[0].ErrorCode))
}

func produce(t *testing.T, client *kgo.Client, topic, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr())
}

// consume returns all values up to the last one, with blanks between.
func consume(t *testing.T, client *kgo.Client, last string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var values []string
	for {
		fetches := client.PollFetches(ctx)
		must(t, fetches.Err())
		for _, record := range fetches.Records() {
			values = append(values, string(record.Value))
			if string(record.Value) == last {
				return strings.Join(values, " ")
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A disk that is full takes nothing more, and as much as before once it is free; one that
// a killed test left is removed.
func TestADiskIsFilled(t *testing.T) {
	d, err := newDisk(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, d.remove()) })
	file := filepath.Join(d.dir, "file")
	must(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	must(t, d.fill())
	if err := os.WriteFile(file+"2", make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v, want %v", err, syscall.ENOSPC)
	}
	must(t, d.free())
	must(t, os.WriteFile(file+"3", make([]byte, 1<<20), 0o600))

	left := t.TempDir()
	must(t, Run("mount", "-t", "tmpfs", diskPrefix+"999999999", left)) // no process has that id
	must(t, removeStaleDisks())
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), left) {
		t.Errorf("the disk of a test that has died is still there (%v)", err)
	}
}

// A broker whose clock is put two days ahead dates records so, and forgets who wrote.
func TestABrokerHasAClockOfItsOwn(t *testing.T) {
	c := ForTest(t, Config{OwnClock: true, Properties: map[string]string{
		"log.message.timestamp.type": "LogAppendTime", "producer.id.expiration.check.interval.ms": "100",
	}})[0]
	client := dial(t, append(c.Dial(), kgo.ConsumeTopics("orders"))...)
	createTopic(t, client, "orders")
	write := func(ahead time.Duration) {
		t.Helper()
		produce(t, client, "orders", "one")
		records := client.PollFetches(t.Context()).Records()
		if len(records) == 0 {
			t.Error("nothing came")
		}
		for _, r := range records {
			if got := time.Until(r.Timestamp).Round(time.Hour); got != ahead {
				t.Errorf("its clock is %s ahead, want %s", got, ahead)
			}
		}
	}
	write(0)
	if producers(t, client) != 1 {
		t.Error("it does not know who wrote")
	}
	must(t, c.SetClock(48*time.Hour))
	for producers(t, client) > 0 && t.Context().Err() == nil {
		time.Sleep(50 * time.Millisecond)
	}
	write(48 * time.Hour)
}

func producers(t *testing.T, client *kgo.Client) int {
	t.Helper()
	req := kmsg.NewDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
	resp, err := req.RequestWith(t.Context(), client)
	must(t, err)
	p := resp.Topics[0].Partitions[0]
	must(t, kerr.ErrorForCode(p.ErrorCode))
	return len(p.ActiveProducers)
}
