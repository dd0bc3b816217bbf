//go:build e2e

package facts

import (
	"bufio"
	"context"
	"io"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

// reader reads partition 0 from offset 0 on, without a group and with the
// client's defaults, and tells each offset until ctx ends.
type reader func(ctx context.Context, t *testing.T, address, topic string, seen chan<- int64) error

var readers = map[string]reader{
	"sarama":     readSarama,
	"franz-go":   readFranz,
	"kcat":       readKcat,
	"Java 3.9.2": readJava("3.9.2"),
	"Java 4.3.1": readJava("4.3.1"),
	"Java 4.4.0": readJava("4.4.0"),
}

func readFranz(ctx context.Context, _ *testing.T, address, topic string, seen chan<- int64) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().At(0)},
	}))
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		for _, record := range client.PollFetches(ctx).Records() {
			seen <- record.Offset
		}
	}
	return nil
}

func readSarama(ctx context.Context, _ *testing.T, address, topic string, seen chan<- int64) error {
	consumer, err := sarama.NewConsumer([]string{address}, sarama.NewConfig())
	if err != nil {
		return err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(topic, 0, 0)
	if err != nil {
		return err
	}
	defer partition.Close()
	for {
		select {
		case message, ok := <-partition.Messages():
			if !ok {
				return io.ErrUnexpectedEOF // the partition consumer ended by itself
			}
			seen <- message.Offset
		case <-ctx.Done():
			return nil
		}
	}
}

func readKcat(ctx context.Context, t *testing.T, address, topic string, seen chan<- int64) error {
	return readProcess(ctx, process.Spec{
		Name: "kcat", Path: "kcat", Log: filepath.Join(t.TempDir(), "kcat.log"),
		Args: []string{"-b", address, "-C", "-t", topic, "-p", "0", "-o", "0", "-u", "-f", `%o\n`},
	}, seen)
}

func readJava(version string) reader {
	return func(ctx context.Context, t *testing.T, address, topic string, seen chan<- int64) error {
		java, err := kafka.Tools(ctx, version)
		if err != nil {
			return err
		}
		java.Options = append(java.Options, "-Xmx128m")
		return readProcess(ctx, java.Spec("Java "+version, filepath.Join(t.TempDir(), "java.log"), "Assign.java", address, topic), seen)
	}
}

// readProcess takes a client that prints one offset a line; what else it prints is its log.
func readProcess(ctx context.Context, spec process.Spec, seen chan<- int64) error {
	read, write := io.Pipe()
	spec.Stdout = write
	p, err := process.Start(spec)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Kill() })
	defer stop()
	go func() {
		<-p.Done()
		_ = write.Close()
	}()
	lines := bufio.NewScanner(read)
	for lines.Scan() {
		if offset, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
			seen <- offset
		}
	}
	return lines.Err()
}
