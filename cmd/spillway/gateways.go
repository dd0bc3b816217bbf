package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
	"github.com/spf13/cobra"

	"spillway/app"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/control"
)

// gatewayFlags say how a command reaches the virtual cluster.
type gatewayFlags struct {
	addresses string
	sasl      configs.SASL
	tls       configs.TLS
}

func (g *gatewayFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.addresses, "gateway", "", "host:port[,host:port...] of gateways; empty: those that the coordinator store knows")
	f.StringVar(&g.sasl.User, "user", "", "user at the gateways, where they ask for a login")
	f.StringVar(&g.sasl.PasswordFile, "password-file", "", "file that holds the password")
	f.StringVar(&g.sasl.PasswordEnv, "password-env", "", "environment variable that holds the password")
	f.StringVar(&g.sasl.Mechanism, "mechanism", "SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	f.StringVar(&g.tls.CAFile, "ca-file", "", "PEM file of the authorities of the gateways' certificates; empty: those of the host")
	f.StringVar(&g.tls.CertFile, "cert-file", "", "PEM file of a client certificate")
	f.StringVar(&g.tls.KeyFile, "key-file", "", "PEM file of its key")
}

// open makes the virtual cluster reachable; it does not connect yet.
func (g *gatewayFlags) open(ctx context.Context, cfg *configs.Config, o *control.Operator) (broker.Cluster, error) {
	addresses, err := g.hosts(ctx, o)
	if err != nil {
		return nil, err
	}
	encryption, login, err := g.access(cfg.Gateway)
	if err != nil {
		return nil, err
	}
	return app.OpenGateways(addresses, encryption, login)
}

// client is for a client library that reaches the virtual cluster by itself.
func (g *gatewayFlags) client(ctx context.Context, cfg *configs.Config, o *control.Operator) (addresses []string, client *sarama.Config, err error) {
	if addresses, err = g.hosts(ctx, o); err != nil {
		return nil, nil, err
	}
	encryption, login, err := g.access(cfg.Gateway)
	if err != nil {
		return nil, nil, err
	}
	client, err = app.ClientOfGateways(addresses, encryption, login)
	return addresses, client, err
}

// hosts are the addresses of gateways.
func (g *gatewayFlags) hosts(ctx context.Context, o *control.Operator) (addresses []string, err error) {
	if g.addresses != "" {
		return strings.Split(g.addresses, ","), nil
	}
	leases, err := o.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range leases {
		addresses = append(addresses, net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))))
	}
	if len(addresses) == 0 {
		return nil, errors.New("no gateway is known; records are written through gateways, so that one which may serve takes them. Start one, or name it with --gateway")
	}
	return addresses, nil
}

// access decides how connections are encrypted and who logs in.
func (g *gatewayFlags) access(gateway configs.Gateway) (encryption configs.TLS, login configs.SASL, err error) {
	encryption, login = g.tls, g.sasl
	encryption.Enabled = gateway.TLS.CertFile != "" || g.tls.CAFile != "" || g.tls.CertFile != ""
	usage := func(text string) (configs.TLS, configs.SASL, error) {
		return configs.TLS{}, configs.SASL{}, exitError{exitUsage, text}
	}
	secrets := login.PasswordFile != "" || login.PasswordEnv != ""
	switch {
	case (g.tls.CertFile == "") != (g.tls.KeyFile == ""):
		return usage("--cert-file and --key-file: a client certificate needs both")
	case login.User == "" && secrets:
		return usage("--password-file and --password-env: give --user, whose password it is")
	case login.User == "" && len(gateway.SASL.Mechanisms) > 0 && g.tls.CertFile == "":
		return usage("the gateways ask for a login: give --user, and --password-file or --password-env")
	case login.User == "":
		return encryption, configs.SASL{}, nil
	case !secrets:
		return usage("--user: give its password with --password-file or --password-env")
	case login.PasswordFile != "" && login.PasswordEnv != "":
		return usage("--password-file and --password-env: give one of them")
	case login.Mechanism == "PLAIN" && !encryption.Enabled && !gateway.SASL.WithoutTLS:
		return usage("--mechanism PLAIN: without encryption everybody on the way could read the password; give --ca-file, use SCRAM-SHA-512, or allow it with gateway.sasl.withoutTLS")
	}
	return encryption, login, nil
}
