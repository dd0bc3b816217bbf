package kafka

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/tests/cluster/process"
)

const (
	startPatience = 2 * time.Minute  // a machine with two cores may start nine of them
	stopPatience  = 30 * time.Second // then SIGKILL, and an error
)

// Broker is one real Kafka broker (and, the first three of a cluster, a
// controller) in a process of its own. It keeps its ports while it is down.
// Use it from one goroutine at a time.
type Broker struct {
	Node int // its node id
	Port int // of the client listener
	Log  string

	dir     string
	disk    *disk  // nil: that of dir
	clock   *clock // nil: that of the machine
	config  Config
	java    Java
	dial    []kgo.Opt
	process *process.Process
}

// Address is the client listener's.
func (b *Broker) Address() string { return net.JoinHostPort(b.config.Host, strconv.Itoa(b.Port)) }

// Kill ends the broker with SIGKILL. The page cache survives that, as it
// survives everything but a power loss.
func (b *Broker) Kill() error { return b.process.Kill() }

// Stop ends the broker in order.
func (b *Broker) Stop() error { return b.process.Stop(stopPatience) }

// Pause stops the broker with SIGSTOP: connections stay, answers do not come.
func (b *Broker) Pause() error { return b.process.Pause() }

// Resume lets a paused broker go on.
func (b *Broker) Resume() error { return b.process.Resume() }

// Pid is the broker's process id, of its last start.
func (b *Broker) Pid() int { return b.process.Pid() }

// Start starts a broker that was killed or stopped, on its old ports, and
// waits until it serves. It does not wait for brokers that are down.
func (b *Broker) Start(ctx context.Context) error {
	if err := b.start(); err != nil {
		return err
	}
	return b.process.Await(startPatience, func() error { return b.ready(ctx, 1) })
}

// Restart stops the broker in order and starts it again.
func (b *Broker) Restart(ctx context.Context) error {
	if err := b.Stop(); err != nil {
		return err
	}
	return b.Start(ctx)
}

func (b *Broker) start() error {
	if b.process != nil {
		select {
		case <-b.process.Done():
		default:
			return fmt.Errorf("start broker %d of %s: it runs already as process %d", b.Node, b.config.Name, b.process.Pid())
		}
	}
	b.Log = filepath.Join(b.dir, "broker.log")
	name := fmt.Sprintf("broker %d of %s", b.Node, b.config.Name)
	spec := b.java.Spec(name, b.Log, "kafka.Kafka", b.propertiesFile())
	spec.Network = b.config.Network
	p, err := process.Start(spec)
	b.process = p
	return err
}

func (b *Broker) data() string { return dataOf(b.dir) }

func (b *Broker) propertiesFile() string { return filepath.Join(b.dir, "server.properties") }

// format writes the settings and, unless there is data already, the storage.
func (b *Broker) format(ctx context.Context, clusterID string, properties map[string]string) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	if b.config.OwnDisk {
		var err error
		if b.disk, err = newDisk(b.data()); err != nil {
			return err
		}
	}
	if b.config.OwnClock {
		var err error
		if b.clock, b.java, err = newClock(b.config.Version, b.dir, b.java); err != nil {
			return err
		}
	}
	if err := os.WriteFile(b.propertiesFile(), []byte(fileOf(properties)), 0o600); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.data(), "meta.properties")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	args := append([]string{"format", "-t", clusterID, "-c", b.propertiesFile()}, b.config.scram()...)
	spec := b.java.Spec("storage tool", filepath.Join(b.dir, "format.log"), "kafka.tools.StorageTool", args...)
	return process.Run(ctx, spec)
}

// ready asks this broker, and no other, how many brokers it sees. An answer to
// ApiVersions alone comes before the broker is unfenced.
func (b *Broker) ready(ctx context.Context, brokersMin int) error {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.Address()),
		kgo.RequestRetries(0),
		kgo.DialTimeout(time.Second),
	}, b.dial...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := client.SeedBrokers()[0].Request(ctx, &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{}})
	if err != nil {
		return err
	}
	brokers := response.(*kmsg.MetadataResponse).Brokers
	for _, known := range brokers {
		if int(known.NodeID) == b.Node && len(brokers) >= brokersMin {
			return nil
		}
	}
	return fmt.Errorf("broker %d sees %d brokers of %d, or not itself", b.Node, len(brokers), brokersMin)
}
