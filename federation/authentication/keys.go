package authentication

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Keys are the public keys of those who sign tokens. They never change.
type Keys struct {
	keys   []jose.JSONWebKey
	wanted atomic.Bool // a token named one that is not there
}

// ParseKeys reads a JSON Web Key Set. Keys for something else are left out.
func ParseKeys(data []byte) (*Keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > keysMax {
		return nil, fmt.Errorf("%d keys, and %d are the most", len(set.Keys), keysMax)
	}
	k := &Keys{}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil || key.Use != "" && key.Use != "sig" || !signs(key) {
			continue // of another kind, or broken: others may be good
		}
		k.keys = append(k.keys, key)
	}
	if len(k.keys) == 0 {
		return nil, fmt.Errorf("none of %d keys is public and for RS256 (of %d bits at least) or ES256", len(set.Keys), rsaBitsMin)
	}
	return k, nil
}

// signs tells whether a key is public and good for an algorithm that is taken.
func signs(k jose.JSONWebKey) bool {
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= rsaBitsMin && (k.Algorithm == "" || k.Algorithm == string(jose.RS256))
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize == ecdsaBits && (k.Algorithm == "" || k.Algorithm == string(jose.ES256))
	}
	return false
}

// fits tells whether the key is of the algorithm that a token names.
func fits(k jose.JSONWebKey, algorithm string) bool {
	_, isRSA := k.Key.(*rsa.PublicKey)
	return isRSA == (algorithm == string(jose.RS256))
}

// verify finds a key that the token is signed by, and reads its claims. The key is one of
// these, never one that the token brings.
func (k *Keys) verify(token *jwt.JSONWebToken, claims ...any) error {
	head, found := token.Headers[0], false
	if k == nil {
		return errUnknownKey
	}
	for _, key := range k.keys {
		if head.KeyID != "" && key.KeyID != head.KeyID || !fits(key, head.Algorithm) {
			continue
		}
		found = true
		if token.Claims(key.Key, claims...) == nil {
			return nil
		}
	}
	if !found {
		k.wanted.Store(true)
		return errUnknownKey
	}
	return errCredentials
}

// ReadKeys reads a set from a file.
func ReadKeys(file string) (*Keys, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("keys of tokens: %w", err)
	}
	k, err := ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("keys of tokens: %s: %w", file, err)
	}
	return k, nil
}

// FetchedKeys are read from an address, again and again.
type FetchedKeys struct {
	url     string
	client  *http.Client
	current atomic.Pointer[Keys]

	mu   sync.Mutex
	next time.Time // to read it
	last time.Time
	sum  string
}

// FetchKeys reads nothing yet: until Look has, nobody is let in by a token. caFile may be
// empty: the authorities of the host.
func FetchKeys(url, caFile string) (*FetchedKeys, error) {
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		text, err := os.ReadFile(caFile)
		if err == nil {
			secure.RootCAs, err = parseAuthorities(text)
		}
		if err != nil {
			return nil, fmt.Errorf("keys of tokens: %s: %w", caFile, err)
		}
	}
	return &FetchedKeys{url: url, client: &http.Client{
		Timeout: keysFetchMax, Transport: &http.Transport{TLSClientConfig: secure, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		// The address is what is trusted, not where it points to.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects elsewhere; configure that address")
		},
	}}, nil
}

// Current set; nil before the first.
func (f *FetchedKeys) Current() *Keys { return f.current.Load() }

// Files is where it is read from.
func (f *FetchedKeys) Files() []string { return []string{f.url} }

// Look reads the set if it is time, and tells whether it is another one than before. On an
// error the one before stays (invariant E).
func (f *FetchedKeys) Look(ctx context.Context) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, k := time.Now(), f.current.Load()
	wanted := k != nil && k.wanted.Load() && now.Sub(f.last) >= keysForWanted
	if now.Before(f.next) && !wanted {
		return false, nil
	}
	f.next, f.last = now.Add(keysAgain), now
	data, err := f.fetch(ctx)
	if err != nil {
		return false, fmt.Errorf("keys of tokens: %w", err)
	}
	made, err := ParseKeys(data)
	if err != nil {
		return false, fmt.Errorf("keys of tokens: %s: %w", f.url, err)
	}
	f.next = now.Add(keysEvery)
	if k != nil {
		k.wanted.Store(false)
	}
	if f.sum == string(data) {
		return false, nil
	}
	f.sum = string(data)
	f.current.Store(made)
	return true, nil
}

func (f *FetchedKeys) fetch(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", f.url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, keysBytesMax+1))
	if err == nil && len(data) > keysBytesMax {
		err = fmt.Errorf("%s sends more than %d bytes", f.url, keysBytesMax)
	}
	return data, err
}
