package authentication

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Kept is made from files, and made anew when they have changed.
type Kept[T any] struct {
	files   []string
	read    func() (T, error)
	current atomic.Pointer[T]

	mu   sync.Mutex
	seen []byte
}

// Keep reads the files for the first time.
func Keep[T any](read func() (T, error), files ...string) (*Kept[T], error) {
	k := &Kept[T]{files: files, read: read}
	_, err := k.Look(context.Background())
	return k, err
}

// Current is what was made last.
func (k *Kept[T]) Current() T { return *k.current.Load() }

// Files are what it is made from.
func (k *Kept[T]) Files() []string { return k.files }

// Look reads the files if they have changed, and tells whether what they say is in
// force now. On an error what was made before stays (invariant E), and the next
// look tries again.
func (k *Kept[T]) Look(context.Context) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sum, err := sumOf(k.files)
	if err != nil {
		return false, err
	}
	if bytes.Equal(sum, k.seen) {
		return false, nil
	}
	made, err := k.read()
	if err != nil {
		return false, err
	}
	k.seen = sum
	k.current.Store(&made)
	return true, nil
}

// sumOf goes by what is in them: times and links of files say too little.
func sumOf(files []string) ([]byte, error) {
	h := sha256.New()
	for _, f := range files {
		info, err := os.Stat(f)
		if err == nil && info.Size() > usersBytesMax {
			err = fmt.Errorf("%s is larger than %d bytes", f, usersBytesMax)
		}
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(data)))
		h.Write(size[:])
		h.Write(data)
	}
	return h.Sum(nil), nil
}

// TLSFiles are a gateway's certificate and whose certificates clients may show.
type TLSFiles struct {
	Certificate, Key string
	ClientCA         string // empty: clients are not asked for one
	ClientOptional   bool   // a client may have none
}

// Keep reads them for the first time.
func (f TLSFiles) Keep() (*Kept[*tls.Config], error) {
	files := []string{f.Certificate, f.Key}
	if f.ClientCA != "" {
		files = append(files, f.ClientCA)
	}
	return Keep(f.config, files...)
}

// parseAuthorities takes all certificates or nothing: half a file, as one finds it while it
// is written, would lock clients out. Whole blocks of other kinds, and certificates that Go
// does not take, are nobody's.
func parseAuthorities(text []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if before, _, _ := bytes.Cut(text, []byte(pemBegin)); bytes.Count(text[:len(text)-len(rest)], []byte(pemBegin)) > 1 || bytes.Contains(before, []byte(pemEnd)) {
			return nil, fmt.Errorf("what follows certificate %d is no whole block", n)
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			pool.AddCert(c)
			n++
		}
	}
	last := bytes.TrimSpace(text[bytes.LastIndexByte(bytes.TrimSpace(text), '\n')+1:])
	cut := len(last) > 0 && bytes.HasPrefix([]byte(pemBegin), last)
	switch {
	case cut, bytes.Contains(text, []byte(pemBegin)), bytes.Contains(text, []byte(pemEnd)):
		return nil, fmt.Errorf("what follows certificate %d is no whole block", n)
	case n == 0:
		return nil, errors.New("it holds no certificate")
	}
	return pool, nil
}

// What begins and ends a block.
const (
	pemBegin = "-----BEGIN "
	pemEnd   = "-----END "
)

func (f TLSFiles) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", f.Certificate, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if f.ClientCA == "" {
		return c, nil
	}
	text, err := os.ReadFile(f.ClientCA)
	if err == nil {
		c.ClientCAs, err = parseAuthorities(text)
	}
	if err != nil {
		return nil, fmt.Errorf("authority of clients %s: %w", f.ClientCA, err)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if f.ClientOptional {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	// A ticket would let a client in by what was trusted, or had not run out, before.
	c.SessionTicketsDisabled = true
	return c, nil
}

// ServerTLS is a configuration that uses what is kept at each handshake.
func ServerTLS(kept *Kept[*tls.Config]) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: kept.Current().SessionTicketsDisabled,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return kept.Current(), nil },
	}
}
