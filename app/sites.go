package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/IBM/sarama"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/configs"
)

// OpenSite makes a site's cluster reachable with the credentials of mirror and
// control; it does not connect yet.
func OpenSite(site configs.Site) (broker.Cluster, error) {
	return openSite(site, site.SASL, siteClientID, nil)
}

// siteClientID is the client id of everything but gateways at the brokers.
const siteClientID = "spillway"

// asMirror is OpenSite as this process reaches the site, and asItsGateway the same with the
// gateways' credentials, and their client id.
func (a *App) asMirror(site configs.Site) (broker.Cluster, error) {
	return openSite(site, site.SASL, siteClientID, a.dial(site))
}

func (a *App) asItsGateway(site configs.Site) (broker.Cluster, error) {
	credentials := site.SASL
	if site.GatewaySASL.Mechanism != "" {
		credentials = site.GatewaySASL
	}
	return openSite(site, credentials, spillway.GatewayClientID(spillway.GatewayID(a.cfg.Process.ID)), a.dial(site))
}

func (a *App) dial(site configs.Site) conn.DialFunc {
	if a.dials == nil {
		return nil
	}
	return a.dials(spillway.SiteID(site.Name))
}

func openSite(site configs.Site, credentials configs.SASL, clientID string, dial conn.DialFunc) (broker.Cluster, error) {
	cfg := kafka.Config{Site: spillway.SiteID(site.Name), Bootstrap: site.Bootstrap, ClientID: clientID, Dial: dial, Namespace: site.Namespace()}
	if e := site.Embedded; e != nil {
		addresses, err := embeddedAddresses(*e)
		if err != nil {
			return nil, fmt.Errorf("site %s: %w", site.Name, err)
		}
		cfg.Bootstrap = addresses
		cfg.Capabilities = embedded.Capabilities(e.Dir != "")
		return kafka.New(cfg)
	}
	if err := login(&cfg, site.TLS, credentials); err != nil {
		return nil, fmt.Errorf("site %s: %w", site.Name, err)
	}
	return kafka.New(cfg)
}

func login(cfg *kafka.Config, encryption configs.TLS, credentials configs.SASL) (err error) {
	if cfg.TLS, err = clientTLS(encryption); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if credentials.Mechanism == "" {
		return nil
	}
	password, err := credentials.Password()
	if err != nil {
		return fmt.Errorf("sasl: %w", err)
	}
	cfg.SASL = &conn.SASL{Mechanism: credentials.Mechanism, User: credentials.User, Password: password}
	return nil
}

// OpenGateways makes the virtual cluster reachable as any client reaches it; it does not
// connect yet.
func OpenGateways(addresses []string, encryption configs.TLS, credentials configs.SASL) (broker.Cluster, error) {
	cfg, err := gatewaysConfig(addresses, encryption, credentials)
	if err != nil {
		return nil, err
	}
	return kafka.New(cfg)
}

// ClientOfGateways is how sarama reaches gateways as any client does.
func ClientOfGateways(addresses []string, encryption configs.TLS, credentials configs.SASL) (*sarama.Config, error) {
	cfg, err := gatewaysConfig(addresses, encryption, credentials)
	if err != nil {
		return nil, err
	}
	return kafka.SaramaConfig(cfg), nil
}

func gatewaysConfig(addresses []string, encryption configs.TLS, credentials configs.SASL) (kafka.Config, error) {
	cfg := kafka.Config{Site: "gateways", Bootstrap: addresses, ClientID: "spillway-command", Capabilities: new(broker.Capabilities)}
	err := login(&cfg, encryption, credentials)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return cfg, fmt.Errorf("gateways: %w", err)
	}
	return cfg, nil
}

// OpenSites opens all sites of the configuration; on a fault none stays open.
func OpenSites(cfg *configs.Config) (map[spillway.SiteID]broker.Cluster, error) {
	return openSites(cfg, OpenSite)
}

func openSites(cfg *configs.Config, open func(configs.Site) (broker.Cluster, error)) (map[spillway.SiteID]broker.Cluster, error) {
	sites := map[spillway.SiteID]broker.Cluster{}
	for _, s := range cfg.Sites {
		c, err := open(s)
		if err != nil {
			return nil, errors.Join(err, CloseSites(sites))
		}
		sites[c.Site()] = c
	}
	return sites, nil
}

// CloseSites closes all of them.
func CloseSites(sites map[spillway.SiteID]broker.Cluster) error {
	var faults []error
	for _, c := range sites {
		faults = append(faults, c.Close())
	}
	return errors.Join(faults...)
}

// startEmbedded runs the brokers of an embedded site in this process.
func startEmbedded(site configs.Site) (*embedded.Cluster, error) {
	addresses, err := embeddedAddresses(*site.Embedded)
	if err != nil {
		return nil, fmt.Errorf("site %s: %w", site.Name, err)
	}
	return embedded.Start(embedded.Config{
		Site: spillway.SiteID(site.Name), Dir: site.Embedded.Dir, Brokers: site.Embedded.Brokers, Listen: addresses,
	})
}

// embeddedAddresses are the first broker's address and the ports that follow.
func embeddedAddresses(e configs.EmbeddedSite) ([]string, error) {
	host, digits, err := net.SplitHostPort(e.Listen)
	if err != nil {
		return nil, fmt.Errorf("embedded.listen: %w", err)
	}
	first, err := strconv.Atoi(digits)
	if err != nil {
		return nil, fmt.Errorf("embedded.listen: %w", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addresses := make([]string, max(e.Brokers, 1))
	for i := range addresses {
		addresses[i] = net.JoinHostPort(host, strconv.Itoa(first+i))
	}
	return addresses, nil
}

func clientTLS(t configs.TLS) (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("caFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("caFile: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certFile: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// Probe asks a site for its metadata.
func Probe(ctx context.Context, c broker.Cluster) error {
	m, err := c.Metadata(ctx)
	if err != nil {
		return err
	}
	if len(m.Nodes) == 0 {
		return broker.ErrAllUnreachable
	}
	return nil
}
