package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"spillway/configs"
)

// A password leaves encrypted or not at all, and what is given is used.
func TestHowACommandReachesGateways(t *testing.T) {
	t.Parallel()
	encrypted := configs.Gateway{TLS: configs.ServerTLS{CertFile: "server.pem"}}
	asks := configs.Gateway{SASL: configs.ClientSASL{Mechanisms: []string{"PLAIN"}}}
	allows := asks
	allows.SASL.WithoutTLS = true
	for what, c := range map[string]struct {
		gateway configs.Gateway
		args    string
		tls     bool
		user    string
		want    string // the error
	}{
		"nothing":                            {configs.Gateway{}, "", false, "", ""},
		"gateways with a certificate":        {encrypted, "", true, "", ""},
		"an authority":                       {configs.Gateway{}, "--ca-file ca.pem", true, "", ""},
		"a certificate of the client":        {configs.Gateway{}, "--cert-file c.pem --key-file k.pem", true, "", ""},
		"a certificate without its key":      {encrypted, "--cert-file c.pem", false, "", "needs both"},
		"a key without its certificate":      {encrypted, "--key-file k.pem", false, "", "needs both"},
		"a login that is missing":            {asks, "", false, "", "ask for a login"},
		"a password of nobody":               {configs.Gateway{}, "--password-file p", false, "", "give --user"},
		"a password of nobody, in a word":    {encrypted, "--password-env P", false, "", "give --user"},
		"a user without a password":          {encrypted, "--user anna", false, "", "give its password"},
		"two passwords":                      {encrypted, "--user anna --password-file p --password-env P", false, "", "give one of them"},
		"a password that is never sent":      {asks, "--user anna --password-file p", false, "anna", ""},
		"a password in plain text":           {asks, "--user anna --password-file p --mechanism PLAIN", false, "", "could read the password"},
		"a password that is encrypted":       {asks, "--user anna --password-file p --mechanism PLAIN --ca-file ca.pem", true, "anna", ""},
		"a password of a certificate, too":   {asks, "--user anna --password-env P --mechanism PLAIN --cert-file c --key-file k", true, "anna", ""},
		"a password in plain text, as it is": {allows, "--user anna --password-file p --mechanism PLAIN", false, "anna", ""},
	} {
		t.Run(what, func(t *testing.T) {
			var g gatewayFlags
			cmd := &cobra.Command{}
			g.add(cmd)
			if err := cmd.ParseFlags(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			encryption, login, err := g.access(c.gateway)
			if encryption.Enabled != c.tls || login.User != c.user || (login.Mechanism == "") != (c.user == "") {
				t.Errorf("encrypted: %t, login: %+v", encryption.Enabled, login)
			}
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.As(err, new(exitError))) {
				t.Errorf("said %v, want %q", err, c.want)
			}
		})
	}
}
