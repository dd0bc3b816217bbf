package authentication

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/twmb/franz-go/pkg/kerr"
)

// issuer signs tokens.
type issuer struct {
	t     *testing.T
	rsa   *rsa.PrivateKey
	ecdsa *ecdsa.PrivateKey
	other *rsa.PrivateKey // nobody knows its public key
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t}
	var err error
	for _, k := range []**rsa.PrivateKey{&i.rsa, &i.other} {
		if *k, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	if i.ecdsa, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return i
}

// set is the JSON Web Key Set.
func (i *issuer) set() []byte {
	i.t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: i.rsa.Public(), KeyID: "r", Algorithm: "RS256", Use: "sig"}, {Key: i.ecdsa.Public(), KeyID: "e"},
	}})
	if err != nil {
		i.t.Fatal(err)
	}
	return data
}

var tokenTime = time.Unix(1_700_000_000, 0)

// claims of a good token.
func claims() map[string]any {
	return map[string]any{"iss": "https://issuer", "aud": []string{"others", "kafka"}, "sub": "alice", "exp": tokenTime.Add(time.Hour).Unix(), "iat": tokenTime.Unix()}
}

func with(key string, value any) map[string]any {
	c := claims()
	if value == nil {
		delete(c, key)
	} else {
		c[key] = value
	}
	return c
}

func (i *issuer) sign(algorithm jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// good is a token that is accepted.
func (i *issuer) good(c map[string]any) string { return i.sign(jose.RS256, i.rsa, "r", c) }

func (i *issuer) rig(change func(*Tokens)) *rig {
	i.t.Helper()
	keys, err := ParseKeys(i.set())
	if err != nil {
		i.t.Fatal(err)
	}
	t := &Tokens{Keys: func() *Keys { return keys }, Issuer: "https://issuer", Audiences: []string{"kafka"}, Clock: func() time.Time { return tokenTime }}
	if change != nil {
		change(t)
	}
	r := newRig(i.t, Config{Mechanisms: []string{OAuthBearer}, Tokens: t})
	r.clock = tokenTime
	return r
}

func (r *rig) bearer(token string) Answer {
	r.t.Helper()
	if a := r.handshake(OAuthBearer); a.Code != 0 {
		return a
	}
	return r.token("n,,\x01auth=Bearer " + token + "\x01\x01")
}

func TestTokens(t *testing.T) {
	i := newIssuer(t)
	r := i.rig(nil)
	a := r.bearer(i.good(claims()))
	r.through(a, "User:alice")
	if want := time.Hour + 30*time.Second; a.Lifetime != want {
		t.Errorf("the session lasts %s, want %s", a.Lifetime, want)
	}
	r.clock = r.clock.Add(time.Hour) // the token's end and the skew of clocks
	if err := r.Admit(0, r.clock); err != nil {
		t.Error(err)
	}
	if err := r.Admit(0, r.clock.Add(time.Minute)); !errors.Is(err, ErrExpired) {
		t.Errorf("behind the end of the token: %v", err)
	}
	r.counts("OAUTHBEARER success")

	r = i.rig(nil)
	r.through(r.bearer(i.sign(jose.ES256, i.ecdsa, "e", claims())), "User:alice")
	r = i.rig(nil)
	r.through(r.bearer(i.sign(jose.ES256, i.ecdsa, "", with("aud", "kafka"))), "User:alice")
	r = i.rig(func(c *Tokens) { c.PrincipalClaim = "client_id" })
	r.through(r.bearer(i.good(with("client_id", "shop"))), "User:shop")
	r = i.rig(nil)
	r.handshake(OAuthBearer)
	r.through(r.token("n,a=alice,\x01auth=bearer   "+i.good(claims())+"\x01traceId=1 2\x01\x01"), "User:alice")
	r = i.rig(nil)
	if a := r.bearer(i.good(with("exp", int64(1)<<53))); a.Code != 0 || a.Lifetime > sessionMax {
		t.Errorf("a token for ever: %+v", a)
	}
}

// Row 21, and what is near it.
func TestTokensThatAreRefused(t *testing.T) {
	i := newIssuer(t)
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: i.rsa.PublicKey.N.Bytes()})
	good := i.good(claims())
	head, rest, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(rest, ".")
	brings, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: i.other}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	own, err := jwt.Signed(brings).Claims(claims()).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) int64 { return tokenTime.Add(d).Unix() }
	for name, c := range map[string]struct{ token, outcome string }{
		"no algorithm":                    {part(map[string]string{"alg": "none"}) + "." + body + ".", OutcomeMalformed},
		"no algorithm, with a signature":  {part(map[string]string{"alg": "none", "kid": "r"}) + "." + body + "." + signature, OutcomeMalformed},
		"a shared secret":                 {i.sign(jose.HS256, public, "r", claims()), OutcomeMalformed},
		"another algorithm of the key":    {i.sign(jose.RS512, i.rsa, "r", claims()), OutcomeMalformed},
		"other claims":                    {head + "." + part(with("sub", "bob")) + "." + signature, OutcomeCredentials},
		"signed by somebody else":         {i.sign(jose.RS256, i.other, "r", claims()), OutcomeCredentials},
		"a key that nobody knows":         {i.sign(jose.RS256, i.other, "new", claims()), OutcomeKey},
		"the other kind of key":           {i.sign(jose.ES256, i.ecdsa, "r", claims()), OutcomeKey},
		"it brings its key":               {own, OutcomeCredentials},
		"it has run out":                  {i.good(with("exp", at(-31*time.Second))), OutcomeExpired},
		"it is not good yet":              {i.good(with("nbf", at(31*time.Second))), OutcomeExpired},
		"it comes from the future":        {i.good(with("iat", at(31*time.Second))), OutcomeExpired},
		"it has no end":                   {i.good(with("exp", nil)), OutcomeCredentials},
		"another issuer":                  {i.good(with("iss", "https://issuer/")), OutcomeCredentials},
		"no issuer":                       {i.good(with("iss", nil)), OutcomeCredentials},
		"another audience":                {i.good(with("aud", "kafka2")), OutcomeCredentials},
		"no audience":                     {i.good(with("aud", nil)), OutcomeCredentials},
		"nobody":                          {i.good(with("sub", nil)), OutcomeCredentials},
		"a number":                        {i.good(with("sub", 7)), OutcomeCredentials},
		"a name that cannot be printed":   {i.good(with("sub", "alice\n")), OutcomeCredentials},
		"300 KiB":                         {strings.Repeat("a", 300<<10) + ".a.a", OutcomeMalformed},
		"a fourth part":                   {good + ".x", OutcomeMalformed},
		"a second token":                  {good + "\x01auth=Bearer " + good, OutcomeMalformed},
		"another scheme behind a newline": {good + "\x01x=y\nauth=Basic", OutcomeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			i.t = t
			r := i.rig(nil)
			a := r.bearer(c.token)
			if name == "another scheme behind a newline" { // what an extension says is no matter
				r.through(a, "User:alice")
				return
			}
			r.failed(a, kerr.SaslAuthenticationFailed.Code)
			r.counts(OAuthBearer + " " + c.outcome)
			if a.Message != refusal(OAuthBearer) || r.Through() {
				t.Errorf("it was told %q", a.Message)
			}
		})
	}
	i.t = t
	for _, message := range []string{
		"", "\x01", "n,,\x01\x01", "n,,\x01auth=Bearer \x01\x01", "n,,\x01auth=" + good + "\x01\x01", "n,,\x01auth=Basic " + good + "\x01\x01",
		"y,,\x01auth=Bearer " + good + "\x01\x01", "n,,\x01auth=Bearer " + good + "\x01", "n,,\x01auth=Bearer " + good, "n,,\x01x=auth=Bearer " + good + "\x01\x01",
		"n,,auth=Bearer " + good + "\x01\x01", "n,,\x01auth=Bearer " + good + "\x01\x01\x01",
	} {
		r := i.rig(nil)
		r.handshake(OAuthBearer)
		r.failed(r.token(message), kerr.SaslAuthenticationFailed.Code)
		r.counts("OAUTHBEARER malformed")
	}
	r := i.rig(nil)
	r.handshake(OAuthBearer)
	r.failed(r.token("n,a=bob,\x01auth=Bearer "+good+"\x01\x01"), kerr.SaslAuthenticationFailed.Code)
	r = i.rig(func(c *Tokens) { c.Keys = func() *Keys { return nil } }) // none was fetched yet
	r.failed(r.bearer(good), kerr.SaslAuthenticationFailed.Code)
	r.counts("OAUTHBEARER key")
}

func TestKeysThatCannotBe(t *testing.T) {
	i := newIssuer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(keys ...jose.JSONWebKey) string {
		data, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, text := range map[string]string{
		"nothing": "", "no set": "[]", "no keys": "{}", "broken": `{"keys":[{"kty":"RSA"}]}`, "a secret": `{"keys":[{"kty":"oct","k":"AAAA"}]}`,
		"weak": set(jose.JSONWebKey{Key: weak.Public()}), "another curve": set(jose.JSONWebKey{Key: other.Public()}),
		"private": set(jose.JSONWebKey{Key: i.rsa}), "for encryption": set(jose.JSONWebKey{Key: i.rsa.Public(), Use: "enc"}),
		"for another algorithm": set(jose.JSONWebKey{Key: i.rsa.Public(), Algorithm: "RS512"}),
		"too many":              `{"keys":[` + strings.Repeat("{},", keysMax) + `{}]}`,
	} {
		if _, err := ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if k, err := ParseKeys([]byte(set(jose.JSONWebKey{Key: weak.Public()}, jose.JSONWebKey{Key: i.rsa.Public()}))); err != nil || len(k.keys) != 1 {
		t.Errorf("a good one beside a bad one: %v", err)
	}
}

// Keys are fetched ahead, when a token names a new one, and never from elsewhere.
func TestKeysAreFetched(t *testing.T) {
	i := newIssuer(t)
	var serves atomic.Pointer[http.HandlerFunc]
	serve := func(h http.HandlerFunc) { serves.Store(&h) }
	asked := 0
	set := func(w http.ResponseWriter, _ *http.Request) { asked++; _, _ = w.Write(i.set()) }
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*serves.Load())(w, r) }))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := FetchKeys(s.URL, ""); err != nil {
		t.Fatal(err)
	} else if serve(set); looked(t, f) == nil || f.Current() != nil {
		t.Error("keys of a server that nobody vouches for")
	}
	f, err := FetchKeys(s.URL+"/keys", ca)
	if err != nil {
		t.Fatal(err)
	}
	due := func() { f.next = time.Time{} }
	for name, h := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no keys":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"much":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, keysBytesMax+1)) },
		"a redirection": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/keys" {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
				return
			}
			set(w, r)
		},
	} {
		serve(h)
		due()
		if looked(t, f) == nil || f.Current() != nil {
			t.Errorf("%s: taken", name)
		}
	}
	serve(set)
	if err := looked(t, f); err != nil || f.Current() != nil {
		t.Errorf("behind a failure nobody asks at once: %v", err)
	}
	due()
	if err := looked(t, f); err != nil || f.Current() == nil {
		t.Fatal(err)
	}
	first := f.Current()
	asked = 0
	if err := looked(t, f); err != nil || asked != 0 {
		t.Errorf("asked %d times before it is time: %v", asked, err)
	}
	// A token of a key that is new.
	first.wanted.Store(true)
	f.last = time.Now().Add(-keysForWanted)
	i.rsa = i.other
	if err := looked(t, f); err != nil || asked != 1 || f.Current() == first {
		t.Errorf("asked %d times for a key that is wanted: %v", asked, err)
	}
	f.Current().wanted.Store(true)
	if err := looked(t, f); err != nil || asked != 1 {
		t.Errorf("anybody can have it asked %d times", asked)
	}
	kept := f.Current()
	due()
	serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	if looked(t, f) == nil || f.Current() != kept {
		t.Error("what cannot be used is in force")
	}
}

func looked(t *testing.T, f *FetchedKeys) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := f.Look(ctx)
	return err
}

func FuzzBearer(f *testing.F) {
	f.Add([]byte("n,,\x01auth=Bearer a.b.c\x01\x01"))
	f.Add([]byte("n,a=x=2Cy,\x01k=v\x01auth=Bearer a.b.c\x01\x01"))
	keys := &Keys{}
	f.Fuzz(func(t *testing.T, message []byte) {
		tokens, err := Tokens{Keys: func() *Keys { return keys }, Issuer: "i", Audiences: []string{"a"}}.check()
		if err != nil {
			t.Fatal(err)
		}
		if _, who, err := (&bearerExchange{tokens}).step(t.Context(), message); err == nil || who != nil {
			t.Errorf("%q lets somebody in, and there is no key", message)
		}
	})
}
