package authentication

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Tokens says which tokens let a client in (OAUTHBEARER).
type Tokens struct {
	Keys      func() *Keys // those of now
	Issuer    string       // iss
	Audiences []string     // aud has one of them
	// PrincipalClaim holds the name of the client; default sub.
	PrincipalClaim string
	// ClockSkew is by how much clocks of issuer and gateway may differ; default 30 s.
	ClockSkew time.Duration
	// Clock is for tests; default time.Now.
	Clock func() time.Time
}

func (t Tokens) check() (Tokens, error) {
	if t.Keys == nil || t.Issuer == "" || len(t.Audiences) == 0 {
		return t, errors.New("tokens need keys, issuer and audiences")
	}
	if t.PrincipalClaim == "" {
		t.PrincipalClaim = "sub"
	}
	if t.ClockSkew <= 0 {
		t.ClockSkew = 30 * time.Second
	}
	if t.Clock == nil {
		t.Clock = time.Now
	}
	return t, nil
}

// tokenAlgorithms are all that a token may be signed by: "none" and shared secrets are not
// among them, whatever its header says.
var tokenAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256}

// sessionMax bounds what a token's end is good for.
const sessionMax = 365 * 24 * time.Hour

var (
	errExpiredToken = errors.New("the token has run out, or is not good yet")
	errUnknownKey   = errors.New("no key is known that the token is signed by")
)

// bearerMessage is the one message of RFC 7628: who the client wants to be, and pairs between
// separators, of which one is the token.
var (
	bearerMessage = regexp.MustCompile(`^n,(?:a=((?:[^=,\x00-\x20\x7f]|=2C|=3D)*))?,\x01((?:[A-Za-z]+=[\x21-\x7e \t\r\n]+\x01)+)\x01$`)
	bearerToken   = regexp.MustCompile(`^(?i:bearer) +([-_A-Za-z0-9]+\.[-_A-Za-z0-9]+\.[-_A-Za-z0-9]+)$`)
)

// parseBearer finds the token. Two of them are none.
func parseBearer(message []byte) (as, token string, err error) {
	parts := bearerMessage.FindSubmatch(message)
	if parts == nil {
		return "", "", errMalformed
	}
	for pair := range bytes.SplitSeq(bytes.TrimSuffix(parts[2], []byte{1}), []byte{1}) {
		key, value, _ := bytes.Cut(pair, []byte("="))
		if string(key) != "auth" {
			continue // an extension, which means nothing here
		}
		found := bearerToken.FindSubmatch(value)
		if found == nil || token != "" {
			return "", "", errMalformed
		}
		token = string(found[1])
	}
	if token == "" {
		return "", "", errMalformed
	}
	return unescapeName(string(parts[1])), token, nil
}

func unescapeName(s string) string {
	return string(bytes.ReplaceAll(bytes.ReplaceAll([]byte(s), []byte("=2C"), []byte(",")), []byte("=3D"), []byte("=")))
}

// bearerExchange is RFC 7628 without its second round: a failure is told by the error that
// Kafka has for it.
type bearerExchange struct{ tokens Tokens }

func (b *bearerExchange) step(_ context.Context, message []byte) ([]byte, *identity, error) {
	as, token, err := parseBearer(message)
	if err != nil {
		return nil, nil, err
	}
	who, err := b.tokens.verify(token)
	if err != nil {
		return nil, nil, err
	}
	if as != "" && as != who.name {
		return nil, nil, errCredentials
	}
	return []byte{}, who, nil
}

// verify checks signature and claims; until then nothing in the token is believed.
func (t Tokens) verify(token string) (*identity, error) {
	parsed, err := jwt.ParseSigned(token, tokenAlgorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return nil, errMalformed
	}
	var claims jwt.Claims
	var all map[string]any
	if err := t.Keys().verify(parsed, &claims, &all); err != nil {
		return nil, err
	}
	now := t.Clock()
	switch err := claims.ValidateWithLeeway(jwt.Expected{Issuer: t.Issuer, AnyAudience: t.Audiences, Time: now}, t.ClockSkew); {
	case errors.Is(err, jwt.ErrExpired), errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, errExpiredToken
	case err != nil:
		return nil, errCredentials
	case claims.Expiry == nil: // good for ever is good for nothing
		return nil, errCredentials
	}
	name, ok := all[t.PrincipalClaim].(string)
	if !ok || checkName(name) != nil {
		return nil, errCredentials
	}
	until := claims.Expiry.Time().Add(t.ClockSkew) // as long as it would be accepted
	if most := now.Add(sessionMax); until.After(most) {
		until = most
	}
	return &identity{name: name, until: until}, nil
}

// Bounds of a set of keys.
const (
	keysMax       = 64
	rsaBitsMin    = 2048
	keysBytesMax  = 1 << 20
	ecdsaBits     = 256
	keysFetchMax  = 10 * time.Second
	keysEvery     = 5 * time.Minute
	keysAgain     = 10 * time.Second // after a failure
	keysForWanted = 30 * time.Second // where a token names a key that is not known
)
