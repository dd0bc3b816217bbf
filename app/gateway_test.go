package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spillway/configs"
	"spillway/federation/router"
)

// Gateways vouch for a transactional producer that pauses for longer than control loops wait
// for one, so they have to know how long these do.
func TestAGatewayKnowsForHowLongLoopsWaitForAProducer(t *testing.T) {
	cfg := &configs.Config{Control: configs.Control{DirectQuiet: 42 * time.Minute}, Gateway: configs.Gateway{Administration: configs.AdministrationTopics}}
	if got := routerConfig(cfg); got.DirectQuiet != cfg.Control.DirectQuiet || got.Administration != router.TopicAdministration {
		t.Errorf("%+v", got)
	}
}

// certificate writes one and its key.
func certificate(t *testing.T) (files configs.ServerTLS) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"gateway"}}
	certificateDER, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files.CertFile, files.KeyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: certificateDER}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// Clients are served from TLS 1.2 on, also where the process would allow more.
func TestOldTLSIsRefused(t *testing.T) {
	t.Setenv("GODEBUG", "tls10server=1")
	front, err := newFront(configs.Gateway{TLS: certificate(t)}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tls.Server(far, front.tls).Handshake() // the client's end says how it went
			far.Close()
		}()
		err := tls.Client(near, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}).Handshake()
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		near.Close()
		<-done
	}
}

func TestTheLogSaysWhoIsLetIn(t *testing.T) {
	sasl, optional := configs.ClientSASL{Mechanisms: []string{"PLAIN", "OAUTHBEARER"}}, configs.ServerTLS{ClientCAFile: "x", ClientAuth: "requested"}
	for want, c := range map[string]configs.Gateway{
		"anybody": {TLS: configs.ServerTLS{ClientAuth: "required"}},
		"anybody; who shows a certificate is known by it":           {TLS: optional},
		"who shows a certificate":                                   {TLS: configs.ServerTLS{ClientCAFile: "x", ClientAuth: "required"}},
		"who logs in by PLAIN, OAUTHBEARER":                         {TLS: optional, SASL: sasl},
		"who logs in by PLAIN, OAUTHBEARER and shows a certificate": {TLS: configs.ServerTLS{ClientCAFile: "x", ClientAuth: "required"}, SASL: sasl},
	} {
		if got := admits(c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
