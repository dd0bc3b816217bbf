// Package kafka starts real Apache Kafka clusters for tests: jars from Maven
// Central, KRaft mode, one process per broker, on loopback addresses.
package kafka

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"spillway/tests/cluster/port"
)

// Cluster is a running Kafka cluster.
type Cluster struct {
	Name    string
	Version string
	Brokers []*Broker

	config Config
	ca     []byte // PEM; nil without TLS
}

// Start starts all brokers of a cluster at once and returns when each of them
// sees all others. On an error nothing is left running.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("kafka %s: %w", config.Name, err)
	}
	c := &Cluster{Name: config.Name, Version: config.Version, config: config}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("kafka %s: %w", config.Name, err), c.end())
	}
	return c, nil
}

// StartAll starts several clusters at once. On an error nothing is left running.
func StartAll(ctx context.Context, configs ...Config) ([]*Cluster, error) {
	clusters := make([]*Cluster, len(configs))
	err := atOnce(len(configs), func(i int) (err error) {
		clusters[i], err = Start(ctx, configs[i])
		return err
	})
	if err != nil {
		for _, c := range clusters {
			if c != nil {
				err = errors.Join(err, c.end())
			}
		}
		return nil, err
	}
	return clusters, nil
}

// ForTest starts clusters for one test, in its temporary folder, and kills them
// at its end. If the test failed, the ends of their logs are shown.
func ForTest(t testing.TB, configs ...Config) []*Cluster {
	t.Helper()
	for i := range configs {
		if configs[i].Name == "" {
			configs[i].Name = fmt.Sprintf("kafka%d", i+1)
		}
		if configs[i].Dir == "" {
			configs[i].Dir = filepath.Join(t.TempDir(), configs[i].Name)
		}
	}
	clusters, err := StartAll(t.Context(), configs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range clusters {
			if err := c.end(); err != nil {
				t.Error(err)
			}
			for _, b := range c.Brokers {
				if t.Failed() {
					t.Logf("end of the log of broker %d of %s:\n%s", b.Node, c.Name, b.process.Tail(30))
				}
			}
		}
	})
	return clusters
}

// Bootstrap lists the client listeners of all brokers, running or not.
func (c *Cluster) Bootstrap() []string {
	var addresses []string
	for _, b := range c.Brokers {
		addresses = append(addresses, b.Address())
	}
	return addresses
}

// CA is the PEM of the authority that signed the brokers' certificates, nil without TLS.
func (c *Cluster) CA() []byte { return c.ca }

// Dial returns the options of a franz-go client that may talk to this cluster,
// as a super user where there is one.
func (c *Cluster) Dial() []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(c.Bootstrap()...)}, c.credentials()...)
}

// ClientProperties are the security settings of a Java client, as the user with
// this name; the empty name for a cluster without users.
func (c *Cluster) ClientProperties(user string) map[string]string {
	p := map[string]string{"bootstrap.servers": strings.Join(c.Bootstrap(), ",")}
	protocol := "PLAINTEXT"
	if c.ca != nil {
		protocol = "SSL"
		p["ssl.truststore.type"] = "PEM"
		p["ssl.truststore.certificates"] = strings.ReplaceAll(strings.TrimSpace(string(c.ca)), "\n", " ")
	}
	if user != "" {
		protocol = "SASL_" + map[bool]string{true: "SSL", false: "PLAINTEXT"}[c.ca != nil]
		p["sasl.mechanism"] = "PLAIN"
		p["sasl.jaas.config"] = fmt.Sprintf("org.apache.kafka.common.security.plain.PlainLoginModule required username=%q password=%q;", user, c.config.Users[user])
	}
	p["security.protocol"] = protocol
	return p
}

// Kill ends all brokers with SIGKILL.
func (c *Cluster) Kill() error {
	return c.each(func(b *Broker) error { return b.Kill() })
}

// Stop ends all brokers in order, at once.
func (c *Cluster) Stop() error {
	return c.each(func(b *Broker) error { return b.Stop() })
}

// Pause stops all brokers with SIGSTOP.
func (c *Cluster) Pause() error {
	return c.each(func(b *Broker) error { return b.Pause() })
}

// Resume lets all paused brokers go on.
func (c *Cluster) Resume() error {
	return c.each(func(b *Broker) error { return b.Resume() })
}

// FillDisk leaves no room on the disks of all brokers, which need OwnDisk. A broker that
// cannot write gives its folder up, and ends.
func (c *Cluster) FillDisk() error {
	return c.each(func(b *Broker) error { return b.disk.fill() })
}

// FreeDisk ends FillDisk. Brokers that have ended stay down.
func (c *Cluster) FreeDisk() error {
	return c.each(func(b *Broker) error { return b.disk.free() })
}

// SetClock puts the time of day of all brokers, which need OwnClock, ahead of the machine's,
// or behind it. They see it within a second.
func (c *Cluster) SetClock(ahead time.Duration) error {
	return c.each(func(b *Broker) error { return b.clock.set(ahead) })
}

// end kills all brokers; what they wrote to disks of their own is gone.
func (c *Cluster) end() error {
	err := c.Kill()
	for _, b := range c.Brokers {
		if b.disk != nil {
			err = errors.Join(err, b.disk.remove())
		}
	}
	return err
}

// Restart starts all brokers, which must be down, and waits until each sees all others.
func (c *Cluster) Restart(ctx context.Context) error {
	if err := c.each(func(b *Broker) error { return b.start() }); err != nil {
		return err
	}
	return c.awaitReady(ctx)
}

// each acts on all brokers that were ever started, at once.
func (c *Cluster) each(act func(*Broker) error) error {
	return atOnce(len(c.Brokers), func(i int) error {
		if c.Brokers[i].process == nil {
			return nil
		}
		return act(c.Brokers[i])
	})
}

func (c *Cluster) start(ctx context.Context) error {
	java, err := Tools(ctx, c.config.Version)
	if err != nil {
		return err
	}
	archive, err := classArchive(ctx, c.config.Version, java)
	if err != nil {
		return err
	}
	java.Options = append(java.Options, fmt.Sprintf("-Xmx%dm", c.config.HeapMB), "-XX:SharedArchiveFile="+archive)
	java.Options = append(java.Options, c.config.Options...)

	numbers, err := port.Reserve(3 * c.config.Brokers)
	if err != nil {
		return err
	}
	var all []ports
	for i := range c.config.Brokers {
		all = append(all, ports{client: numbers[3*i], internal: numbers[3*i+1], controller: numbers[3*i+2]})
	}
	keystore := ""
	if c.config.TLS {
		keystore = filepath.Join(c.config.Dir, "broker.pem")
		if c.ca, err = writeKeystore(keystore); err != nil {
			return err
		}
	}
	credentials, clusterID := c.credentials(), newClusterID()
	for i := range c.config.Brokers {
		node := c.config.FirstNode + i
		c.Brokers = append(c.Brokers, &Broker{
			Node: node, Port: all[i].client, dir: filepath.Join(c.config.Dir, fmt.Sprintf("broker-%d", node)),
			config: c.config, java: java, dial: credentials,
		})
	}
	err = atOnce(len(c.Brokers), func(i int) error {
		b := c.Brokers[i]
		if err := b.format(ctx, clusterID, c.config.properties(i, all, b.dir, keystore)); err != nil {
			return err
		}
		return b.start()
	})
	if err != nil {
		return err
	}
	return c.awaitReady(ctx)
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	return atOnce(len(c.Brokers), func(i int) error {
		b := c.Brokers[i]
		return b.process.Await(startPatience, func() error { return b.ready(ctx, len(c.Brokers)) })
	})
}

// credentials are those of the first super user, else of the first user.
func (c *Cluster) credentials() []kgo.Opt {
	opts := []kgo.Opt{kgo.DialTimeout(5 * time.Second)}
	if c.ca != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.ca)
		opts = append(opts, kgo.DialTLSConfig(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	names := append(slices.Clone(c.config.SuperUsers), slices.Sorted(maps.Keys(c.config.Users))...)
	if len(names) > 0 {
		opts = append(opts, kgo.SASL(plain.Auth{User: names[0], Pass: c.config.Users[names[0]]}.AsMechanism()))
	}
	return opts
}

// newClusterID makes an id as Kafka's own tool does: 16 random bytes, never
// with a leading dash, which the formatter would take for an option.
func newClusterID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[0] &= 0x7f
	return base64.RawURLEncoding.EncodeToString(id)
}

// atOnce runs n calls at once and joins their errors.
func atOnce(n int, act func(int) error) error {
	faults := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { faults[i] = act(i) })
	}
	all.Wait()
	return errors.Join(faults...)
}
