package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/namespace"
)

// Config says how a site's cluster is reached.
type Config struct {
	Site      spillway.SiteID
	Bootstrap []string // host:port; at least one
	ClientID  string   // default "spillway"
	TLS       *tls.Config
	SASL      *conn.SASL
	Dial      conn.DialFunc // default conn.Dial

	// Namespace is what all topics, groups and transactional ids begin with at the site. The
	// names that methods take and give are without it.
	Namespace namespace.Namespace

	// Allow decides whether an address that the cluster's metadata names may
	// be connected to; nil: any.
	Allow func(host string, port int32) bool

	InFlightMax      int           // per connection, default 100
	HandshakeTimeout time.Duration // default 10 s

	// Capabilities replaces what would be probed, for adapters that know.
	Capabilities *broker.Capabilities
}

// Validate reports all faults, each with its key.
func (c Config) Validate() error {
	var faults []error
	if c.Site == "" {
		faults = append(faults, errors.New("site: is empty"))
	}
	if len(c.Bootstrap) == 0 {
		faults = append(faults, errors.New("bootstrap: needs at least one host:port"))
	}
	for i, address := range c.Bootstrap {
		if _, _, err := net.SplitHostPort(address); err != nil {
			faults = append(faults, fmt.Errorf("bootstrap[%d]: %q is not host:port", i, address))
		}
	}
	if c.SASL != nil && !slices.Contains([]string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, c.SASL.Mechanism) {
		faults = append(faults, fmt.Errorf("sasl.mechanism: %q is not known; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASL.Mechanism))
	}
	return errors.Join(faults...)
}

// allowed holds an address against Allow; what the configuration itself names
// is always allowed.
func (c Config) allowed(address string) error {
	if c.Allow == nil || slices.Contains(c.Bootstrap, address) {
		return nil
	}
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return err
	}
	if !c.Allow(host, int32(port)) {
		return fmt.Errorf("%s is not an allowed address of site %s", address, c.Site)
	}
	return nil
}
