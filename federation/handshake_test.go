package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// shakes runs a handshake between a client and the gateway's side; padding makes the client's
// certificate so much larger. call it inside of a bubble.
func shakes(t *testing.T, padding int) (client *tls.Conn, server *tls.Conn, err error) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: strings.Repeat("x", 1+padding)}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pair := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	client = tls.Client(near, &tls.Config{Certificates: pair, InsecureSkipVerify: true}) //nolint:gosec // the test is about the other side
	go func() { _ = client.Handshake() }()
	server, err = shake(t.Context(), far, &tls.Config{Certificates: pair, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true})
	return client, server, err
}

// halfHello is a ClientHello that says it has 60 KiB, of which one byte never comes.
var halfHello = func() (records []byte) {
	message := append([]byte{1, 0, 60 << 10 >> 8, 0}, make([]byte, 60<<10-1)...)
	for len(message) > 0 {
		part := message[:min(1<<14, len(message))]
		records = append(append(records, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
		message = message[len(part):]
	}
	return records
}()

// A client has 24 KiB for its handshake, and as much as it likes behind it.
func TestHandshakesAreSmall(t *testing.T) {
	t.Run("a large certificate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if _, _, err := shakes(t, 20<<10); !errors.Is(err, errHandshakeBytes) {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("behind the handshake", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server, err := shakes(t, 8<<10) // twice: subject and issuer
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = client.Write(make([]byte, 100<<10)) }()
			if _, err := io.ReadFull(server, make([]byte, 100<<10)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("half a ClientHello", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			sent := 0
			go func() {
				n, _ := near.Write(halfHello)
				sent = n
			}()
			began := time.Now()
			_, err := shake(context.Background(), far, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{}}})
			near.Close()
			synctest.Wait()
			if !errors.Is(err, errHandshakeBytes) || time.Since(began) > 0 || sent > handshakeBytesMax {
				t.Errorf("%v after %s and %d bytes", err, time.Since(began), sent)
			}
		})
	})
}

// Who has sent half of the largest ClientHello costs 64 KiB, as everybody who is not known.
func TestHalfAHandshakeCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections, bytesMax = 400, 64 << 10
		memory := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc + m.StackInuse)
		}
		config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{}}}
		var gateway []net.Conn
		for range connections {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			gateway = append(gateway, far)
			go func() { _, _ = near.Write(halfHello[:handshakeBytesMax-1]) }()
		}
		synctest.Wait()
		before := memory()
		for _, c := range gateway {
			go func() { _, _ = shake(t.Context(), c, config) }()
		}
		synctest.Wait()
		cost := (memory() - before) / connections
		t.Logf("a connection costs %d bytes", cost)
		if cost > bytesMax {
			t.Errorf("a connection costs %d bytes", cost)
		}
	})
}
