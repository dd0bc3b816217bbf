// Package embedded is a small Kafka inside the process (franz-go's kfake)
// behind package broker: for the demo, for tests, for a single host. It
// listens on loopback only, without TLS or authentication; gateway and mirror
// reach it there like a real cluster, and nobody else should. It is reached
// through broker/kafka and knows no other cluster.
//
// What it does not do is in Capabilities: it forgets no producers, has no
// replicas that could trail, no limits for timestamps, no authorizer, wraps
// sequences one too early, and after a SIGKILL it knows its records but no
// producers, so a resend is appended again (experiments A, C, D, F; C39). It does not
// tell whether a transaction was committed.
// Nothing that depends on these is proved by running on it. What kfake does wrong with
// answers that the bound of their size cuts off is mended here (fetch.go).
package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
)

// Config says what to start.
type Config struct {
	Site spillway.SiteID
	// Dir makes the cluster persistent: what was acknowledged survives the
	// end of the process, also by SIGKILL; a power loss may take the last
	// writes, as with Kafka's defaults. The directory belongs to one process
	// at a time. Empty: everything is in memory.
	Dir     string
	Brokers int // default 1
	// Listen has one loopback address for each broker, such as
	// "127.0.0.1:19092"; empty: free ports.
	Listen    []string
	ClusterID string           // default: random, kept in Dir
	Topics    map[string]int32 // created at the first start, with their partitions
}

// Validate reports all faults, each with its key.
func (c Config) Validate() error {
	var faults []error
	if c.Site == "" {
		faults = append(faults, errors.New("site: is empty"))
	}
	if c.Brokers < 0 {
		faults = append(faults, fmt.Errorf("brokers: %d is less than 1", c.Brokers))
	}
	if len(c.Listen) > 0 && len(c.Listen) != max(c.Brokers, 1) {
		faults = append(faults, fmt.Errorf("listen: %d addresses for %d brokers", len(c.Listen), max(c.Brokers, 1)))
	}
	for i, address := range c.Listen {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("listen[%d]: %q is not host:port", i, address))
		} else if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			faults = append(faults, fmt.Errorf("listen[%d]: %s is not a loopback address; the embedded cluster trusts whoever connects", i, host))
		}
	}
	return errors.Join(faults...)
}

// Cluster implements broker.Cluster.
type Cluster struct {
	*kafka.Cluster
	server    *kfake.Cluster
	addresses []string
	unlock    func()
	closeOnce sync.Once
}

var _ broker.Cluster = (*Cluster)(nil)

// Start starts the brokers.
func Start(config Config) (*Cluster, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("embedded site %s: %w", config.Site, err)
	}
	options := []kfake.Opt{kfake.NumBrokers(max(config.Brokers, 1))}
	for topic, partitions := range config.Topics {
		options = append(options, kfake.SeedTopics(partitions, topic))
	}
	if len(config.Listen) > 0 {
		left := slices.Clone(config.Listen) // asked for in the order of the brokers
		options = append(options, kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			address := left[0]
			left = left[1:]
			return net.Listen(network, address)
		}))
	}
	unlock := func() {}
	if config.Dir != "" {
		var err error
		if unlock, err = lock(config.Dir); err != nil {
			return nil, fmt.Errorf("embedded site %s: %w", config.Site, err)
		}
		options = append(options, kfake.DataDir(filepath.Join(config.Dir, "log")))
	}
	id, err := clusterID(config)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("embedded site %s: cluster id: %w", config.Site, err)
	}
	server, err := kfake.NewCluster(append(options, kfake.ClusterID(id))...)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("embedded site %s: %w", config.Site, err)
	}
	boundPartitions(server)
	addresses := server.ListenAddrs()
	reached, err := kafka.New(kafka.Config{
		Site: config.Site, Bootstrap: addresses, Capabilities: Capabilities(config.Dir != ""),
	})
	if err != nil {
		server.Close()
		unlock()
		return nil, err
	}
	return &Cluster{Cluster: reached, server: server, addresses: addresses, unlock: unlock}, nil
}

// Capabilities of an embedded cluster, also for processes that reach it by its
// address: probing would take it for more than it is (C39).
func Capabilities(durable bool) *broker.Capabilities {
	return &broker.Capabilities{LogEndOffset: true, ConsumerGroupV2: true, Durable: durable}
}

// Addresses are the brokers' addresses, usable as bootstrap addresses.
func (c *Cluster) Addresses() []string { return slices.Clone(c.addresses) }

// Close stops the brokers and writes what is left to Dir.
func (c *Cluster) Close() error {
	var err error
	c.closeOnce.Do(func() {
		err = c.Cluster.Close()
		c.server.Close()
		c.unlock()
	})
	return err
}

// clusterID is the configured one, the one in Dir, or a new one.
func clusterID(config Config) (string, error) {
	if config.ClusterID != "" {
		return config.ClusterID, nil
	}
	if config.Dir == "" {
		return rand.Text()[:22], nil // as long as Kafka's
	}
	path := filepath.Join(config.Dir, "cluster-id")
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return string(b), nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := rand.Text()[:22]
	return id, os.WriteFile(path, []byte(id), 0o600)
}
