//go:build e2e

package federation_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/gatewaytest"
	"spillway/tests/clients"
	"spillway/tests/cluster/kafka"
	"spillway/tests/orders/history"
)

// Clients of other languages log in over TLS, each by another mechanism, and renew their
// logins while they write and read through a gateway over real Kafka; then by certificates.
func TestRealKafkaLogins(t *testing.T) {
	o := gatewaytest.RealSites(t, map[string]int32{"orders": 1}, "4.3.1")
	t.Run("passwords", func(t *testing.T) { clientsLogIn(t, o) })
	emptied(t, o, "orders", "__spillway_map")
	t.Run("certificates", func(t *testing.T) { clientsShowCertificates(t, o) })
}

// settings are a client's own, in the words of its library.
type settings map[string]string

// with is s and more.
func (s settings) with(more settings) settings {
	all := maps.Clone(s)
	maps.Copy(all, more)
	return all
}

// arguments for kcat.
func (s settings) arguments() (all []string) {
	for _, k := range slices.Sorted(maps.Keys(s)) {
		all = append(all, "-X", k+"="+s[k])
	}
	return all
}

// file for a tool of Kafka.
func (s settings) file(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(s)) {
		lines = append(lines, k+"="+strings.ReplaceAll(s[k], "\n", "\\n"))
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// topics as Kafka's own tool lists them; on failure what it said.
func topics(t *testing.T, w *gatewaytest.World, s settings) (string, error) {
	t.Helper()
	java, err := kafka.Tools(t.Context(), "4.3.1")
	if err != nil {
		t.Fatal(err)
	}
	if file, ok := s["sasl.oauthbearer.token.endpoint.url"]; ok { // Java reads no file that it was not allowed to
		java.Options = append(java.Options, "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls="+file)
	}
	return java.Run(within(t, soon), "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", w.Addrs[0], "--list", "--command-config", s.file(t))
}

func kcat(ctx context.Context, w *gatewaytest.World, s settings) (string, error) {
	out, err := exec.CommandContext(ctx, "kcat", append([]string{"-L", "-m", "20", "-b", w.Addrs[0]}, s.arguments()...)...).CombinedOutput()
	return string(out), err
}

func clientsLogIn(t *testing.T, o gatewaytest.Options) {
	f, authority, issuer := newFront(t), gatewaytest.NewAuthority(t), newSigner(t)
	f.tokens = issuer.tokens(t)
	certificate, key := authority.Server("gateway")
	kept, err := authentication.TLSFiles{Certificate: certificate, Key: key}.Keep()
	if err != nil {
		t.Fatal(err)
	}
	o.Gateway = func(c *federation.Config) {
		f.ask(c, 8*time.Second, authentication.Mechanisms...)
		c.TLS = authentication.ServerTLS(kept)
	}
	w := gatewaytest.Start(t, o)
	javaLogin := func(password string) settings {
		return settings{
			"security.protocol": "SASL_SSL", "ssl.truststore.type": "PEM", "ssl.truststore.location": authority.File, "sasl.mechanism": authentication.ScramSHA512,
			"sasl.jaas.config": fmt.Sprintf(`org.apache.kafka.common.security.scram.ScramLoginModule required username="alice" password="%s";`, password),
		}
	}
	librdkafka := func(mechanism, password string) settings {
		return settings{"security.protocol": "SASL_SSL", "ssl.ca.location": authority.File, "sasl.mechanism": mechanism, "sasl.username": "bob", "sasl.password": password}
	}
	specs := []clients.Spec{
		{Kind: "java-4.3.1", Conf: javaLogin("alice's")},
		{Kind: "python", Conf: librdkafka(authentication.ScramSHA256, "bob's")},
	}
	var all []*clients.Client
	for _, s := range specs {
		s.Name, s.Group, s.Dir, s.Bootstrap, s.Topics, s.Partitions, s.Rate = s.Kind, "group-"+s.Kind, t.TempDir(), w.Addrs, []string{"orders"}, 1, 20
		s.Roles = []string{history.Producer, history.Member}
		c, err := clients.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		all = append(all, c)
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		fmt.Printf("| logins | %v |\n", f.mu.counted)
	}()
	gatewaytest.Eventually(t, "logins are renewed", func() bool {
		return f.count("SCRAM-SHA-512 renewed") >= 4 && f.count("SCRAM-SHA-256 renewed") >= 4
	})
	if err := clients.Stop(all, soon); err != nil {
		t.Error(err)
	}
	events, done, err := clients.Histories(all)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	count := make(map[string]int)
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		count[e.Client+" "+string(e.Kind)]++
		if e.Kind == history.Fail {
			t.Errorf("%s: %s", e.Client, e.Error)
		}
	}
	for _, s := range specs {
		written, read := count[s.Kind+"-producer ack"], count[s.Kind+"-group consume"]
		if written < 20 || read < written {
			t.Errorf("%s wrote %d records and read %d", s.Kind, written, read)
		}
		fmt.Printf("| %s | %s | %d written, %d read |\n", s.Kind, s.Conf["sasl.mechanism"], written, read)
	}
	// Debian's librdkafka is too old for SCRAM at Kafka 4 and here (confluentinc/librdkafka#4895),
	// and to renew a login.
	if out, err := kcat(within(t, soon), w, librdkafka(authentication.Plain, "bob's")); err != nil || !strings.Contains(out, `topic "orders"`) {
		t.Errorf("kcat: %v: %s", err, out)
	}
	javaToken := func(audience string) settings {
		token, err := issuer.token(audience, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		return javaLogin("").with(settings{
			"sasl.mechanism": authentication.OAuthBearer, "sasl.oauthbearer.token.endpoint.url": "file://" + file,
			"sasl.jaas.config":                     "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
			"sasl.login.callback.handler.class":    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
			"sasl.oauthbearer.jwt.retriever.class": "org.apache.kafka.common.security.oauthbearer.FileJwtRetriever",
		})
	}
	if out, err := topics(t, w, javaToken("kafka")); err != nil || !strings.Contains(out, "orders") {
		t.Errorf("Java with a token: %v: %s", err, out)
	}
	if out, err := topics(t, w, javaToken("others")); err == nil || !strings.Contains(out+err.Error(), "SaslAuthenticationException") {
		t.Errorf("Java with a token for others: %v: %s", err, out)
	}
	if out, err := topics(t, w, javaLogin("wrong")); err == nil || !strings.Contains(out+err.Error(), "SaslAuthenticationException") {
		t.Errorf("Java with a wrong password: %v: %s", err, out)
	}
	if out, err := kcat(within(t, soon), w, librdkafka(authentication.Plain, "wrong")); err == nil || !strings.Contains(out, "invalid credentials") {
		t.Errorf("kcat with a wrong password: %v: %s", err, out)
	}
	if out, err := kcat(within(t, soon), w, settings{"security.protocol": "SSL", "ssl.ca.location": authority.File}); err == nil {
		t.Errorf("kcat without a password: %s", out)
	}
}

func clientsShowCertificates(t *testing.T, o gatewaytest.Options) {
	f, authority, stranger := newFront(t), gatewaytest.NewAuthority(t), gatewaytest.NewAuthority(t)
	certificate, key := authority.Server("gateway")
	kept, err := authentication.TLSFiles{Certificate: certificate, Key: key, ClientCA: authority.File}.Keep()
	if err != nil {
		t.Fatal(err)
	}
	o.Gateway = func(c *federation.Config) {
		f.ask(c, 0)
		c.TLS = authentication.ServerTLS(kept)
	}
	w := gatewaytest.Start(t, o)
	shows := func(from *gatewaytest.Authority) (java, librdkafka settings) {
		c, k := from.Issue("client", pkix.Name{CommonName: "shop"}, x509.ExtKeyUsageClientAuth, nil)
		var both []byte
		for _, file := range []string{k, c} {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			both = append(both, text...)
		}
		store := filepath.Join(t.TempDir(), "keystore.pem")
		if err := os.WriteFile(store, both, 0o600); err != nil {
			t.Fatal(err)
		}
		return settings{"security.protocol": "SSL", "ssl.truststore.type": "PEM", "ssl.truststore.location": authority.File, "ssl.keystore.type": "PEM", "ssl.keystore.location": store},
			settings{"security.protocol": "SSL", "ssl.ca.location": authority.File, "ssl.certificate.location": c, "ssl.key.location": k}
	}
	java, librdkafka := shows(authority)
	if out, err := topics(t, w, java); err != nil || !strings.Contains(out, "orders") {
		t.Errorf("Java: %v: %s", err, out)
	}
	if out, err := kcat(within(t, soon), w, librdkafka); err != nil || !strings.Contains(out, `topic "orders"`) {
		t.Errorf("kcat: %v: %s", err, out)
	}
	if n := f.count("certificate success"); n < 2 {
		t.Errorf("%d certificates were counted", n)
	}
	java, librdkafka = shows(stranger)
	if out, err := topics(t, w, java.with(settings{"default.api.timeout.ms": "10000", "request.timeout.ms": "5000"})); err == nil {
		t.Errorf("Java with a stranger's certificate: %s", out)
	}
	if out, err := kcat(within(t, soon), w, librdkafka); err == nil {
		t.Errorf("kcat with a stranger's certificate: %s", out)
	}
}
