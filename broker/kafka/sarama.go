package kafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
	"github.com/xdg-go/scram"

	"spillway/broker/conn"
)

func init() {
	// Nobody reads sarama's own metrics, and their ticker would never end.
	metrics.UseNilMetrics = true
}

// client keeps one sarama admin, made at first use. sarama knows no contexts:
// its calls run beside the caller, end by the timeouts below, and close waits
// for them.
type client struct {
	running sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		admin  sarama.ClusterAdmin
	}
}

const (
	saramaDialTimeout    = 5 * time.Second
	saramaRequestTimeout = 10 * time.Second
)

func (c *client) call(ctx context.Context, config Config, f func(sarama.ClusterAdmin) error) error {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return conn.ErrClosed
	}
	c.running.Add(1)
	c.mu.Unlock()
	result := make(chan error, 1)
	go func() {
		defer c.running.Done()
		result <- c.attempt(config, f)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt calls f, a second time with a new client if the first one's
// connections were dead.
func (c *client) attempt(config Config, f func(sarama.ClusterAdmin) error) error {
	for again := false; ; again = true {
		admin, err := c.open(config)
		if err != nil {
			return err
		}
		err = f(admin)
		var answered sarama.KError
		if err == nil || errors.As(err, &answered) {
			return err
		}
		c.drop(admin)
		if again {
			return err
		}
	}
}

// open holds the lock while it connects, so that callers share one attempt.
func (c *client) open(config Config) (sarama.ClusterAdmin, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, conn.ErrClosed
	}
	if c.mu.admin == nil {
		admin, err := sarama.NewClusterAdmin(config.Bootstrap, SaramaConfig(config))
		if err != nil {
			return nil, err
		}
		c.mu.admin = admin
	}
	return c.mu.admin, nil
}

func (c *client) drop(admin sarama.ClusterAdmin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.admin == admin {
		c.mu.admin = nil
		admin.Close()
	}
}

func (c *client) close() error {
	c.mu.Lock()
	c.mu.closed = true
	admin := c.mu.admin
	c.mu.admin = nil
	c.mu.Unlock()
	var err error
	if admin != nil {
		err = admin.Close()
	}
	c.running.Wait()
	return err
}

// SaramaConfig is how sarama reaches the cluster that config names.
func SaramaConfig(config Config) *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V3_9_0_0 // the oldest that a site may have
	s.ClientID = config.ClientID
	if s.ClientID == "" {
		s.ClientID = "spillway"
	}
	s.Net.DialTimeout = saramaDialTimeout
	s.Net.ReadTimeout, s.Net.WriteTimeout = saramaRequestTimeout, saramaRequestTimeout
	s.Admin.Timeout = saramaRequestTimeout
	s.Metadata.RefreshFrequency = 0 // no background work; it asks when it needs to
	s.Metadata.Retry.Max = 1
	if config.TLS != nil {
		s.Net.TLS.Enable, s.Net.TLS.Config = true, config.TLS
	}
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, dialer{config}
	if config.SASL != nil {
		s.Net.SASL.Enable = true
		s.Net.SASL.User, s.Net.SASL.Password = config.SASL.User, config.SASL.Password
		s.Net.SASL.Mechanism = sarama.SASLMechanism(config.SASL.Mechanism)
		switch config.SASL.Mechanism {
		case "SCRAM-SHA-256":
			s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
		case "SCRAM-SHA-512":
			s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
		}
	}
	return s
}

// dialer gives sarama the configured way to dial.
type dialer struct{ config Config }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), saramaDialTimeout)
	defer cancel()
	if err := d.config.allowed(address); err != nil {
		return nil, err
	}
	if d.config.Dial != nil {
		return d.config.Dial(ctx, network, address)
	}
	return conn.Dial(ctx, network, address)
}

type scramClient struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (s *scramClient) Begin(user, password, authorize string) error {
	c, err := s.hash.NewClient(user, password, authorize)
	if err != nil {
		return err
	}
	s.ClientConversation = c.NewConversation()
	return nil
}
