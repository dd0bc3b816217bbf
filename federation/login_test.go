package federation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	kgoscram "github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/xdg-go/scram"

	"spillway/broker/wire"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/gatewaytest"
	"spillway/federation/session"
)

// front is what a test knows of a gateway's logins.
type front struct {
	t      *testing.T
	file   string // of the users
	users  *authentication.Kept[*authentication.Users]
	tokens *authentication.Tokens
	ended  chan session.Reason
	mu     struct {
		sync.Mutex
		counted map[string]int // "MECHANISM outcome"
	}
}

// newFront knows alice and bob, whose passwords are "NAME's".
func newFront(t *testing.T) *front {
	t.Helper()
	f := &front{t: t, file: filepath.Join(t.TempDir(), "users"), ended: make(chan session.Reason, 1000)}
	f.mu.counted = make(map[string]int)
	f.write("alice", "bob")
	var err error
	if f.users, err = authentication.Keep(func() (*authentication.Users, error) { return authentication.ReadUsers(f.file) }, f.file); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *front) write(names ...string) {
	f.t.Helper()
	var lines []string
	for _, n := range names {
		for _, m := range authentication.Scrams {
			line, err := authentication.UserLine(n, m, []byte(n+"'s"), authentication.IterationsMin)
			if err != nil {
				f.t.Fatal(err)
			}
			lines = append(lines, line)
		}
	}
	if err := os.WriteFile(f.file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// ask makes a gateway ask its clients.
func (f *front) ask(c *federation.Config, lifetime time.Duration, mechanisms ...string) {
	a, err := authentication.New(authentication.Config{
		Mechanisms: mechanisms, Users: f.users.Current, Tokens: f.tokens, SessionLifetime: lifetime,
		Authenticated: func(mechanism, outcome string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.mu.counted[mechanism+" "+outcome]++
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	c.Authentication = a
	c.Events.Session.ConnectionClosed = func(r session.Reason) { f.ended <- r }
}

func (f *front) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.counted[what]
}

// kgoLogins and saramaLogins are how the two libraries log in.
var kgoLogins = map[string]func(name, password string) sasl.Mechanism{
	authentication.Plain:       func(n, p string) sasl.Mechanism { return plain.Auth{User: n, Pass: p}.AsMechanism() },
	authentication.ScramSHA256: func(n, p string) sasl.Mechanism { return kgoscram.Auth{User: n, Pass: p}.AsSha256Mechanism() },
	authentication.ScramSHA512: func(n, p string) sasl.Mechanism { return kgoscram.Auth{User: n, Pass: p}.AsSha512Mechanism() },
}

// saramaScram lends sarama a library, which it has not.
type saramaScram struct {
	of           scram.HashGeneratorFcn
	conversation *scram.ClientConversation
}

func (s *saramaScram) Begin(name, password, as string) error {
	client, err := s.of.NewClient(name, password, as)
	if err != nil {
		return err
	}
	s.conversation = client.NewConversation()
	return nil
}

func (s *saramaScram) Step(challenge string) (string, error) { return s.conversation.Step(challenge) }

func (s *saramaScram) Done() bool { return s.conversation.Done() }

func saramaConfig(security *tls.Config, mechanism, name, password string) *sarama.Config {
	c := sarama.NewConfig()
	c.Producer.Return.Successes, c.Producer.RequiredAcks, c.Version = true, sarama.WaitForAll, sarama.V4_0_0_0
	c.Metadata.Retry.Max = 0
	c.Net.TLS.Enable, c.Net.TLS.Config = security != nil, security
	if mechanism != "" {
		c.Net.SASL.Enable, c.Net.SASL.Mechanism, c.Net.SASL.User, c.Net.SASL.Password = true, sarama.SASLMechanism(mechanism), name, password
		c.Net.SASL.Version = sarama.SASLHandshakeV1
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
			if mechanism == authentication.ScramSHA512 {
				return &saramaScram{of: scram.SHA512}
			}
			return &saramaScram{of: scram.SHA256}
		}
	}
	return c
}

// saramaProduces writes one record, or says why not.
func saramaProduces(addresses []string, c *sarama.Config) error {
	p, err := sarama.NewSyncProducer(addresses, c)
	if err != nil {
		return err
	}
	defer p.Close()
	_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder("x")})
	return err
}

func kgoProduces(t *testing.T, w *gatewaytest.World, opts ...kgo.Opt) error {
	t.Helper()
	cl := client(t, w, append(opts, kgo.RetryTimeout(20*time.Second), kgo.RequestRetries(1))...)
	defer cl.Close()
	return cl.Ping(within(t, soon))
}

// The libraries log in by each mechanism over TLS, and work.
func TestLibrariesLogIn(t *testing.T) {
	t.Parallel()
	f, authority := newFront(t), gatewaytest.NewAuthority(t)
	certificate, key := authority.Server("gateway")
	kept, err := authentication.TLSFiles{Certificate: certificate, Key: key}.Keep()
	if err != nil {
		t.Fatal(err)
	}
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.Passwords...)
		c.TLS = authentication.ServerTLS(kept)
	}})
	security := authority.Client("", "")
	for _, m := range authentication.Passwords {
		t.Run(m, func(t *testing.T) {
			before := f.count(m + " success")
			cl := client(t, w, kgo.DialTLSConfig(security), kgo.SASL(kgoLogins[m]("alice", "alice's")), kgo.ConsumeTopics("orders"), kgo.ConsumerGroup("group-"+m))
			if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
				t.Errorf("franz-go: %v", err)
			}
			if fs := cl.PollFetches(within(t, soon)); fs.Err() != nil || fs.NumRecords() == 0 {
				t.Errorf("franz-go reads %d records: %v", fs.NumRecords(), fs.Err())
			}
			if err := saramaProduces(w.Addrs, saramaConfig(security, m, "bob", "bob's")); err != nil {
				t.Errorf("sarama: %v", err)
			}
			if n := f.count(m+" success") - before; n < 2 {
				t.Errorf("%d logins were counted", n)
			}
			if err := kgoProduces(t, w, kgo.DialTLSConfig(security), kgo.SASL(kgoLogins[m]("alice", "wrong"))); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("franz-go with a wrong password: %v", err)
			}
			if err := saramaProduces(w.Addrs, saramaConfig(security, m, "eve", "eve's")); err == nil {
				t.Error("sarama as nobody is let in")
			}
			if f.count(m+" credentials") < 2 {
				t.Errorf("%d failures were counted", f.count(m+" credentials"))
			}
		})
	}
	if err := kgoProduces(t, w, kgo.DialTLSConfig(security)); err == nil {
		t.Error("who does not log in is let in")
	}
}

// signer makes tokens for a test, and a file of its public key.
type signer struct {
	jose.Signer
	file string
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := signer{file: filepath.Join(t.TempDir(), "keys.json")}
	if err := os.WriteFile(s.file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.Signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// token is good for a time.
func (s signer) token(audience string, good time.Duration) (string, error) {
	now := time.Now()
	return jwt.Signed(s.Signer).Claims(jwt.Claims{
		Issuer: "https://issuer", Subject: "alice", Audience: jwt.Audience{audience}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(good)),
	}).Serialize()
}

// tokens are those that a gateway takes.
func (s signer) tokens(t *testing.T) *authentication.Tokens {
	t.Helper()
	keys, err := authentication.ReadKeys(s.file)
	if err != nil {
		t.Fatal(err)
	}
	return &authentication.Tokens{Keys: func() *authentication.Keys { return keys }, Issuer: "https://issuer", Audiences: []string{"kafka"}, ClockSkew: time.Second}
}

// saramaToken brings a token to sarama.
type saramaToken func() (string, error)

func (s saramaToken) Token() (*sarama.AccessToken, error) {
	token, err := s()
	return &sarama.AccessToken{Token: token, Extensions: map[string]string{"traceId": "123"}}, err
}

// The libraries bring tokens, and new ones before the end of each.
func TestLibrariesBringTokens(t *testing.T) {
	t.Parallel()
	f, s := newFront(t), newSigner(t)
	f.tokens = s.tokens(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) { f.ask(c, 0, authentication.OAuthBearer) }})
	login := func(audience string) kgo.Opt {
		return kgo.SASL(oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := s.token(audience, 5*time.Second)
			return oauth.Auth{Token: token}, err
		}))
	}
	bring := func(audience string) *sarama.Config {
		c := saramaConfig(nil, authentication.OAuthBearer, "", "")
		c.Net.SASL.TokenProvider = saramaToken(func() (string, error) { return s.token(audience, time.Hour) })
		return c
	}
	cl := client(t, w, login("kafka"))
	for until := time.Now().Add(soon); f.count("OAUTHBEARER renewed") < 2 && time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatalf("franz-go: %v", err)
		}
	}
	if n := f.count("OAUTHBEARER renewed"); n < 2 {
		t.Errorf("%d tokens were renewed", n)
	}
	if err := saramaProduces(w.Addrs, bring("kafka")); err != nil {
		t.Errorf("sarama: %v", err)
	}
	if err := kgoProduces(t, w, login("others")); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("franz-go with a token for others: %v", err)
	}
	if err := saramaProduces(w.Addrs, bring("others")); err == nil {
		t.Error("sarama with a token for others is let in")
	}
}

// Certificates say who a client is, where no login is asked for. Row 63.
func TestCertificatesOfClients(t *testing.T) {
	t.Parallel()
	authority, other := gatewaytest.NewAuthority(t), gatewaytest.NewAuthority(t)
	certificate, key := authority.Server("gateway")
	name := pkix.Name{CommonName: "shop", OrganizationalUnit: []string{"orders"}}
	issue := func(of *gatewaytest.Authority, file string, usage x509.ExtKeyUsage, change func(*x509.Certificate)) *tls.Config {
		c, k := of.Issue(file, name, usage, change)
		return authority.Client(c, k)
	}
	for _, optional := range []bool{false, true} {
		kept, err := authentication.TLSFiles{Certificate: certificate, Key: key, ClientCA: authority.File, ClientOptional: optional}.Keep()
		if err != nil {
			t.Fatal(err)
		}
		f := newFront(t)
		w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
			f.ask(c, 0)
			c.TLS = authentication.ServerTLS(kept)
		}})
		good := issue(authority, "good", x509.ExtKeyUsageClientAuth, nil)
		if err := kgoProduces(t, w, kgo.DialTLSConfig(good)); err != nil {
			t.Errorf("franz-go: %v", err)
		}
		if err := saramaProduces(w.Addrs, saramaConfig(good, "", "", "")); err != nil {
			t.Errorf("sarama: %v", err)
		}
		// A ticket would stand for a certificate that may have run out since.
		good.ClientSessionCache = tls.NewLRUClientSessionCache(10)
		for range 2 {
			c, err := tls.Dial("tcp", w.Addrs[0], good)
			if err != nil {
				t.Fatal(err)
			}
			s := stranger{c, t}
			s.ask(&kmsg.ApiVersionsRequest{Version: 2})
			if c.ConnectionState().DidResume {
				t.Error("a session is resumed without a certificate")
			}
			c.Close()
		}
		if f.count("certificate success") < 2 {
			t.Errorf("%d certificates were counted", f.count("certificate success"))
		}
		for what, c := range map[string]*tls.Config{
			"a stranger's":             issue(other, "stranger", x509.ExtKeyUsageClientAuth, nil),
			"one that ran out":         issue(authority, "late", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			"a server's":               issue(authority, "server", x509.ExtKeyUsageServerAuth, nil),
			"one that nobody is":       issue(authority, "nobody", x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.Subject = pkix.Name{} }),
			"none, where it is needed": authority.Client("", ""),
		} {
			if optional && strings.HasPrefix(what, "none") {
				if err := kgoProduces(t, w, kgo.DialTLSConfig(c)); err != nil {
					t.Errorf("none, where it may be missing: %v", err)
				}
				continue
			}
			if err := kgoProduces(t, w, kgo.DialTLSConfig(c)); err == nil {
				t.Errorf("%s is accepted", what)
			}
		}
	}
}

// The audit log names who a client of a gateway is, by its login or its certificate, beside
// how it calls itself: a client id is no proof of anything.
func TestTheAuditLogNamesPrincipals(t *testing.T) {
	t.Parallel()
	authority := gatewaytest.NewAuthority(t)
	certificate, key := authority.Server("gateway")
	shop := authority.Client(authority.Issue("shop", pkix.Name{CommonName: "shop", OrganizationalUnit: []string{"orders"}}, x509.ExtKeyUsageClientAuth, nil))
	for what, c := range map[string]struct {
		files      authentication.TLSFiles
		mechanisms []string
		opts       []kgo.Opt
		who        string
	}{
		"logins": {
			authentication.TLSFiles{Certificate: certificate, Key: key}, []string{authentication.ScramSHA256},
			[]kgo.Opt{kgo.DialTLSConfig(authority.Client("", "")), kgo.SASL(kgoLogins[authentication.ScramSHA256]("alice", "alice's"))},
			`"User:alice" by client "\"User:bob\" by me" at 127.0.0.1, gateway gateway-1`,
		},
		"certificates": {
			authentication.TLSFiles{Certificate: certificate, Key: key, ClientCA: authority.File}, nil,
			[]kgo.Opt{kgo.DialTLSConfig(shop)},
			`"User:CN=shop,OU=orders" by client "\"User:bob\" by me" at 127.0.0.1, gateway gateway-1`,
		},
		"nobody is asked": {
			authentication.TLSFiles{Certificate: certificate, Key: key, ClientCA: authority.File, ClientOptional: true}, nil,
			[]kgo.Opt{kgo.DialTLSConfig(authority.Client("", ""))},
			`client "\"User:bob\" by me" at 127.0.0.1, gateway gateway-1`,
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFront(t)
			kept, err := c.files.Keep()
			if err != nil {
				t.Fatal(err)
			}
			w := topicWorld(t, func(o *gatewaytest.Options) {
				gateway := o.Gateway
				o.Gateway = func(config *federation.Config) {
					gateway(config)
					f.ask(config, 0, c.mechanisms...)
					config.TLS = authentication.ServerTLS(kept)
				}
			})
			cl := client(t, w, append(c.opts, kgo.ClientID(`"User:bob" by me`))...)
			create := kmsg.NewPtrCreateTopicsRequest()
			create.TimeoutMillis, create.Topics = 20_000, []kmsg.CreateTopicsRequestTopic{newTopic("shop-carts", 1, 1)}
			resp, err := create.RequestWith(within(t, soon), cl)
			if err != nil || resp.Topics[0].ErrorCode != 0 {
				t.Fatalf("%+v, %v", resp, err)
			}
			if log := audited(t, w); len(log) != 1 || log[0].Who != c.who {
				t.Errorf("audit %+v, want %s", log, c.who)
			}
		})
	}
}

// stranger speaks frame by frame.
type stranger struct {
	net.Conn
	t *testing.T
}

func (s stranger) ask(req kmsg.Request) kmsg.Response {
	s.t.Helper()
	deadline(s.t, s, soon)
	if _, err := s.Write(request(req, req.AppendTo(nil))); err != nil {
		s.t.Fatal(err)
	}
	answer, err := wire.ReadFrame(s, nil, 1<<20)
	if err != nil {
		s.t.Fatalf("%s: %v", kmsg.NameForKey(req.Key()), err)
	}
	resp := req.ResponseKind()
	answer = answer[4:]
	if resp.IsFlexible() && req.Key() != 18 {
		answer = answer[1:]
	}
	if err := resp.ReadFrom(answer); err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// silence waits until the other side closes, and takes nothing else.
func (s stranger) silence() {
	s.t.Helper()
	deadline(s.t, s, soon)
	if rest, _ := io.ReadAll(s); len(rest) > 0 {
		s.t.Errorf("it was answered: %x", rest)
	}
}

func handshake(mechanism string) *kmsg.SASLHandshakeRequest {
	return &kmsg.SASLHandshakeRequest{Version: 1, Mechanism: mechanism}
}

func token(version int16, text string) *kmsg.SASLAuthenticateRequest {
	return &kmsg.SASLAuthenticateRequest{Version: version, SASLAuthBytes: []byte(text)}
}

// Rows 14 to 22: what no client sends before it has logged in. Each connection
// ends with its reason and a good client notices nothing.
func TestHostileLogins(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, time.Minute, authentication.Plain, authentication.ScramSHA256)
	}})
	good := client(t, w, kgo.SASL(kgoLogins[authentication.Plain]("alice", "alice's")))
	must := func() {
		t.Helper()
		if err := good.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	must()
	fails := func(s stranger, req kmsg.Request, code int16) {
		t.Helper()
		switch resp := s.ask(req).(type) {
		case *kmsg.SASLHandshakeResponse:
			if resp.ErrorCode != code {
				t.Errorf("error %d, want %d", resp.ErrorCode, code)
			}
			if len(resp.SupportedMechanisms) != 2 {
				t.Errorf("mechanisms %v", resp.SupportedMechanisms)
			}
		case *kmsg.SASLAuthenticateResponse:
			if resp.ErrorCode != code || resp.ErrorMessage == nil || *resp.ErrorMessage == "" || len(resp.SASLAuthBytes) > 0 {
				t.Errorf("%+v, want error %d and a message", resp, code)
			}
		}
		s.silence()
	}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	versions := &kmsg.ApiVersionsRequest{Version: 0}
	for name, c := range map[string]struct {
		play   func(stranger)
		reason session.Reason
	}{
		"14: Metadata first": {func(s stranger) { _, _ = s.Write(request(metadata, metadata.AppendTo(nil))); s.silence() }, session.ReasonNoLogin},
		"14: Produce without an answer first": {func(s stranger) {
			p := produceRequest("orders", nil)
			p.Acks = 0
			_, _ = s.Write(request(p, p.AppendTo(nil)))
			s.silence()
		}, session.ReasonNoLogin},
		"14: Metadata behind the handshake": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			_, _ = s.Write(request(metadata, metadata.AppendTo(nil)))
			s.silence()
		}, session.ReasonNoLogin},
		"15: a thousand ApiVersions": {func(s stranger) {
			_, _ = s.Write(bytes.Repeat(request(versions, nil), 1000))
			answers, _ := io.ReadAll(s)
			n := 0
			for r := bytes.NewReader(answers); ; n++ {
				if _, err := readFrame(r); err != nil {
					break
				}
			}
			if n != 32 {
				t.Errorf("%d answers", n)
			}
		}, session.ReasonNoLogin},
		"16: unknown mechanism":       {func(s stranger) { fails(s, handshake("NONE"), kerr.UnsupportedSaslMechanism.Code) }, session.ReasonLogin},
		"16: one that is not offered": {func(s stranger) { fails(s, handshake(authentication.ScramSHA512), kerr.UnsupportedSaslMechanism.Code) }, session.ReasonLogin},
		"16: two handshakes": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			fails(s, handshake(authentication.Plain), kerr.IllegalSaslState.Code)
		}, session.ReasonLogin},
		"16: no handshake": {func(s stranger) { fails(s, token(0, "\x00alice\x00alice's"), kerr.IllegalSaslState.Code) }, session.ReasonLogin},
		"17: handshake version 0": {func(s stranger) {
			_, _ = s.Write(request(&kmsg.SASLHandshakeRequest{}, []byte{0, 5, 'P', 'L', 'A', 'I', 'N'}))
			s.silence()
		}, session.ReasonVersion},
		"17: a token without a header": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			_, _ = s.Write([]byte{0x7f, 0xff, 0xff, 0xff, 0})
			s.silence()
		}, "frame-too-large"},
		"4: a frame of 16 KiB and one": {func(s stranger) { _, _ = s.Write([]byte{0, 0, 0x40, 1, 0, 36}); s.silence() }, "frame-too-large"},
		"18: a nonce with something before it": {func(s stranger) {
			s.ask(handshake(authentication.ScramSHA256))
			first := s.ask(token(1, "n,,n=alice,r=mine")).(*kmsg.SASLAuthenticateResponse)
			nonce, _, _ := strings.Cut(string(first.SASLAuthBytes), ",")
			fails(s, token(2, "c=biws,r=garbage"+strings.TrimPrefix(nonce, "r=")+",p=AAAA"), kerr.SaslAuthenticationFailed.Code)
		}, session.ReasonLogin},
		"19: bad base64": {func(s stranger) {
			s.ask(handshake(authentication.ScramSHA256))
			s.ask(token(1, "n,,n=alice,r=mine"))
			fails(s, token(1, "c=!,r=mine,p=!"), kerr.SaslAuthenticationFailed.Code)
		}, session.ReasonLogin},
		"20: another's rights": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			fails(s, token(2, "bob\x00alice\x00alice's"), kerr.SaslAuthenticationFailed.Code)
		}, session.ReasonLogin},
		"20: no NUL": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			fails(s, token(0, "alice"), kerr.SaslAuthenticationFailed.Code)
		}, session.ReasonLogin},
		"20: a large password": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			_, _ = s.Write(request(&kmsg.SASLAuthenticateRequest{}, make([]byte, 400<<10)))
			s.silence()
		}, "frame-too-large"},
		"22: another principal": {func(s stranger) {
			s.ask(handshake(authentication.Plain))
			if r := s.ask(token(1, "\x00alice\x00alice's")).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != 0 || r.SessionLifetimeMillis != time.Minute.Milliseconds() {
				t.Errorf("%+v", r)
			}
			time.Sleep(1100 * time.Millisecond) // a login can be renewed each second
			if r := s.ask(handshake(authentication.Plain)).(*kmsg.SASLHandshakeResponse); r.ErrorCode != 0 {
				t.Errorf("%+v", r)
			}
			fails(s, token(1, "\x00bob\x00bob's"), kerr.SaslAuthenticationFailed.Code)
		}, session.ReasonLogin},
	} {
		t.Run(name, func(t *testing.T) {
			for len(f.ended) > 0 {
				<-f.ended
			}
			c.play(stranger{dial(t, w), t})
			if got := came(t, f.ended); got != c.reason {
				t.Errorf("closed for %q, want %q", got, c.reason)
			}
			must()
		})
	}
}

// What a connection did before its login is over is answered before it ends: or its client
// would do it a second time.
func TestAnswersComeBeforeTheEndOfALogin(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, time.Hour, authentication.Plain, authentication.ScramSHA256)
		c.Limits.FrameBytesMax = 1 << 20
	}})
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	large := token(1, strings.Repeat("\x00", 20<<10))
	for name, c := range map[string]struct {
		behind []kmsg.Request // the produce
		reason session.Reason
		told   int // answers to them
	}{
		"a request in the middle of a renewal":  {[]kmsg.Request{handshake(authentication.Plain), metadata, metadata}, session.ReasonNoLogin, 1},
		"requests behind a renewal that failed": {[]kmsg.Request{handshake(authentication.ScramSHA256), metadata, metadata}, session.ReasonLogin, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := stranger{dial(t, w), t}
			s.ask(handshake(authentication.Plain))
			s.ask(token(1, "\x00alice\x00alice's"))
			time.Sleep(1100 * time.Millisecond) // a login can be renewed each second
			for len(f.ended) > 0 {
				<-f.ended
			}
			produce, upstream := produceRequest("orders", nil), w.Wires["east"]
			s.ask(produce) // all that the next one needs is there
			before := upstream.Sent(0)
			upstream.Mute()
			defer upstream.Unmute()
			all := request(produce, produce.AppendTo(nil))
			for _, r := range c.behind {
				all = append(all, request(r, r.AppendTo(nil))...)
			}
			if _, err := s.Write(all); err != nil {
				t.Fatal(err)
			}
			gatewaytest.Eventually(t, "the produce is on its way", func() bool { return upstream.Sent(0) > before })
			time.Sleep(100 * time.Millisecond) // for what is behind it to do its harm
			upstream.Unmute()
			deadline(t, s, soon)
			for i := range 1 + c.told {
				if _, err := readFrame(s); err != nil {
					t.Fatalf("answer %d: %v", i, err)
				}
			}
			s.silence()
			if got := came(t, f.ended); got != c.reason {
				t.Errorf("closed for %q", got)
			}
		})
	}
	t.Run("a large message of a renewal", func(t *testing.T) {
		s := stranger{dial(t, w), t}
		s.ask(handshake(authentication.Plain))
		s.ask(token(1, "\x00alice\x00alice's"))
		for len(f.ended) > 0 {
			<-f.ended
		}
		_, _ = s.Write(request(large, large.AppendTo(nil)))
		s.silence()
		if got := came(t, f.ended); got != "frame-too-large" {
			t.Errorf("closed for %q", got)
		}
	})
}

func readFrame(r io.Reader) ([]byte, error) { return wire.ReadFrame(r, nil, 1<<20) }

// Strangers have a part of the connections, and the oldest goes for a new one; who logs in
// gives its place among them back.
func TestStrangersHaveFewPlaces(t *testing.T) {
	t.Parallel()
	const places = 64 // the least
	f, refused := newFront(t), make(chan string, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.Plain)
		c.ConnectionsMax, c.ConnectionsPerAddressMax, c.Limits.AdmitMax = 300, 300, time.Hour
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	logIn := func(s stranger) {
		t.Helper()
		s.ask(handshake(authentication.Plain))
		s.ask(token(1, "\x00alice\x00alice's"))
		s.ask(&kmsg.ApiVersionsRequest{Version: 2})
	}
	var first stranger
	for i := range places {
		s := stranger{dial(t, w), t}
		s.ask(&kmsg.ApiVersionsRequest{Version: 2})
		if i == 0 {
			first = s
		}
	}
	logIn(stranger{dial(t, w), t})
	first.silence()
	if reason := <-refused; reason != "too-many-unknown" {
		t.Errorf("refused for %q", reason)
	}
	for range 2 * places {
		logIn(stranger{dial(t, w), t})
	}
	select {
	case reason := <-refused:
		t.Errorf("a client is refused for %q", reason)
	default:
	}
}

// Before it has logged in a connection may cost 64 KiB.
func TestWhoHasNotLoggedInCostsLittle(t *testing.T) {
	const connections, bytesMax = 400, 64 << 10
	f := newFront(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.Plain)
		c.BudgetBytesMax, c.Limits.AdmitMax = 1<<40, time.Minute
	}})
	memory := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	most := append([]byte{0, 0, 0x40, 0}, make([]byte, 16<<10-1)...) // a frame that lacks its last byte
	before := memory()
	for range connections {
		_, _ = dial(t, w).Write(most)
	}
	gatewaytest.Eventually(t, "all are accepted", func() bool { return runtime.NumGoroutine() > 3*connections })
	time.Sleep(200 * time.Millisecond) // for what was sent to be read: there is nothing to see of it
	cost := (memory() - before) / connections
	t.Logf("a connection costs %d bytes", cost)
	if cost > bytesMax {
		t.Errorf("a connection costs %d bytes", cost)
	}
}

// The libraries renew their logins on the same connections, while they work.
func TestLibrariesRenewTheirLogins(t *testing.T) {
	t.Parallel()
	const m, renewals = authentication.ScramSHA512, 3
	for library, begin := range map[string]func(*testing.T, *gatewaytest.World) (produce func() error){
		"franz-go": func(t *testing.T, w *gatewaytest.World) func() error {
			cl := client(t, w, kgo.SASL(kgoLogins[m]("alice", "alice's")))
			return func() error {
				return cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr()
			}
		},
		"sarama": func(t *testing.T, w *gatewaytest.World) func() error {
			p, err := sarama.NewSyncProducer(w.Addrs, saramaConfig(nil, m, "bob", "bob's"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			return func() error {
				_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder("x")})
				return err
			}
		},
	} {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			f := newFront(t)
			var opened atomic.Int32
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
				f.ask(c, 3*time.Second, m)
				c.Events.Session.ConnectionOpened = func() { opened.Add(1) }
			}})
			produce, begun := begin(t, w), int32(0)
			for until := time.Now().Add(soon); f.count(m+" renewed") < renewals && time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
				if err := produce(); err != nil {
					t.Fatal(err)
				}
				if begun == 0 {
					begun = opened.Load()
				}
			}
			if n := f.count(m + " renewed"); n < renewals {
				t.Errorf("%d logins were renewed", n)
			}
			late := int32(0) // the machine was too busy for a renewal: the library came anew
			for len(f.ended) > 0 {
				if <-f.ended == session.ReasonExpired {
					late++
				}
			}
			if n := opened.Load(); n > begun+1+late { // metadata may have its own
				t.Errorf("%d connections at the start and %d at the end, %d were late", begun, n, late)
			}
		})
	}
}

// Who does not renew is closed at the next request, and not before.
func TestASessionEnds(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 500*time.Millisecond, authentication.Plain)
	}})
	s := stranger{dial(t, w), t}
	s.ask(handshake(authentication.Plain))
	if r := s.ask(token(2, "\x00alice\x00alice's")).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != 0 || r.SessionLifetimeMillis != 500 {
		t.Fatalf("%+v", r)
	}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	time.Sleep(600 * time.Millisecond) // the session is over; package authentication tests that it is not before
	select {
	case r := <-f.ended:
		t.Errorf("it was closed without a request: %s", r)
	default:
	}
	_, _ = s.Write(request(metadata, metadata.AppendTo(nil)))
	s.silence()
	if got := came(t, f.ended); got != session.ReasonExpired {
		t.Errorf("closed for %q", got)
	}
}

// ApiVersions names SASL where clients are asked, and only there. Who logs in elsewhere is
// told that nobody asked, as by a broker, and goes on.
func TestSASLIsOfferedWhereItIsAsked(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	for _, asks := range []bool{false, true} {
		w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
			if asks {
				f.ask(c, 0, authentication.Plain)
			}
		}})
		s, offered := stranger{dial(t, w), t}, 0
		for _, k := range s.ask(&kmsg.ApiVersionsRequest{Version: 2}).(*kmsg.ApiVersionsResponse).ApiKeys {
			if k.ApiKey == 17 || k.ApiKey == 36 {
				offered++
				if k.MinVersion != 0 {
					t.Errorf("key %d from version %d on: old librdkafka does not log in", k.ApiKey, k.MinVersion)
				}
			}
		}
		if (offered == 2) != asks || !asks && offered > 0 {
			t.Errorf("asks %v: %d of the two keys are offered", asks, offered)
		}
		if asks {
			continue
		}
		if r := s.ask(handshake(authentication.Plain)).(*kmsg.SASLHandshakeResponse); r.ErrorCode != kerr.IllegalSaslState.Code || len(r.SupportedMechanisms) > 0 {
			t.Errorf("%+v", r)
		}
		if r := s.ask(token(1, "\x00alice\x00alice's")).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != kerr.IllegalSaslState.Code {
			t.Errorf("%+v", r)
		}
		s.ask(&kmsg.ApiVersionsRequest{Version: 2})
	}
}

// Files that change are in force for who comes next; who is there stays.
func TestFilesChangeUnderWay(t *testing.T) {
	t.Parallel()
	f, authority := newFront(t), gatewaytest.NewAuthority(t)
	certificate, key := authority.Server("gateway")
	kept, err := authentication.TLSFiles{Certificate: certificate, Key: key}.Keep()
	if err != nil {
		t.Fatal(err)
	}
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		c.TLS = authentication.ServerTLS(kept)
	}})
	security := authority.Client("", "")
	login := func(name string) sasl.Mechanism { return kgoLogins[authentication.ScramSHA256](name, name+"'s") }
	alice := client(t, w, kgo.DialTLSConfig(security), kgo.SASL(login("alice")))
	produce := func() {
		t.Helper()
		if err := alice.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce()
	shown := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", w.Addrs[0], security)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return fmt.Sprint(c.ConnectionState().PeerCertificates[0].SerialNumber)
	}
	first := shown()
	look := func(want bool) {
		t.Helper()
		for _, k := range []interface {
			Look(context.Context) (bool, error)
		}{f.users, kept} {
			if changed, err := k.Look(t.Context()); changed != want || (err == nil) != want {
				t.Errorf("changed %v, %v", changed, err)
			}
		}
	}
	for len(f.ended) > 0 {
		<-f.ended
	}
	for _, file := range []string{f.file, certificate} {
		if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	look(false)
	if again := shown(); again != first {
		t.Errorf("certificate %s, want %s", again, first)
	}
	if err := kgoProduces(t, w, kgo.DialTLSConfig(security), kgo.SASL(login("bob"))); err != nil {
		t.Errorf("while the file is broken: %v", err)
	}
	f.write("carol")
	authority.Server("gateway")
	look(true)
	if again := shown(); again == first {
		t.Errorf("certificate %s is still shown", again)
	}
	if err := kgoProduces(t, w, kgo.DialTLSConfig(security), kgo.SASL(login("carol"))); err != nil {
		t.Errorf("a new user: %v", err)
	}
	if err := kgoProduces(t, w, kgo.DialTLSConfig(security), kgo.SASL(login("bob"))); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("a user who is no more: %v", err)
	}
	produce() // on the connection of before: its login would not be accepted any more
}
