package authentication

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// attribute of a subject; several in one name are joined by +.
type attribute struct {
	oid   asn1.ObjectIdentifier
	tag   int
	value string
}

var (
	commonName = asn1.ObjectIdentifier{2, 5, 4, 3}
	unit       = asn1.ObjectIdentifier{2, 5, 4, 11}
	country    = asn1.ObjectIdentifier{2, 5, 4, 6}
	userID     = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
	email      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// subject encodes names as they stand in a certificate: the most general one first.
func subject(t *testing.T, names ...[]attribute) []byte {
	t.Helper()
	var sequence []subjectNameSET
	for _, n := range names {
		var set subjectNameSET
		for _, a := range n {
			set = append(set, subjectAttribute{Type: a.oid, Value: asn1.RawValue{Class: asn1.ClassUniversal, Tag: a.tag, Bytes: []byte(a.value)}})
		}
		sequence = append(sequence, set)
	}
	der, err := asn1.Marshal(sequence)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// subjects and the names that Java 17 gives them (X500Principal.getName), which is what
// Kafka's ACLs go by.
func subjects(t *testing.T) map[string]struct {
	der  []byte
	want string
} {
	t.Helper()
	text := func(oid asn1.ObjectIdentifier, value string) []attribute {
		return []attribute{{oid, asn1.TagUTF8String, value}}
	}
	type row = struct {
		der  []byte
		want string
	}
	return map[string]row{
		"order is turned round":   {subject(t, text(country, "NO"), text(unit, "Orders"), text(commonName, "shop")), "CN=shop,OU=Orders,C=NO"},
		"a comma is no separator": {subject(t, text(commonName, "admin,OU=Orders")), `CN=admin\,OU\=Orders`},
		"all that is escaped":     {subject(t, text(commonName, `a+b"c\d<e>f;g#h=i`)), `CN=a\+b\"c\\d\<e\>f\;g\#h\=i`},
		"NUL":                     {subject(t, text(commonName, "admin\x00.evil")), `CN=admin\00.evil`},
		"spaces at the ends":      {subject(t, text(commonName, "  a b ")), `CN=\ \ a b\ `},
		"only spaces":             {subject(t, text(commonName, "  ")), `CN=\ \ `},
		"two in one name":         {subject(t, []attribute{{commonName, asn1.TagUTF8String, "a"}, {unit, asn1.TagUTF8String, "b"}}), "CN=a+OU=b"},
		"other letters":           {subject(t, text(commonName, "Ærlig Müller")), "CN=Ærlig Müller"},
		"a newline":               {subject(t, text(commonName, "a\nb")), "CN=a\nb"},
		"a user id":               {subject(t, text(userID, "alice")), "UID=alice"},
		"a type without keyword":  {subject(t, []attribute{{email, asn1.TagIA5String, "a@b"}}, text(commonName, "a")), "CN=a,1.2.840.113549.1.9.1=#1603614062"},
		"not text":                {subject(t, []attribute{{commonName, asn1.TagInteger, "\x05"}}), "CN=#020105"},
		"empty value":             {subject(t, text(commonName, "")), "CN="},
	}
}

func TestPrincipalsAreThoseOfKafka(t *testing.T) {
	for name, c := range subjects(t) {
		got, err := certificatePrincipal(&x509.Certificate{RawSubject: c.der})
		if err != nil || got != Principal("User:"+c.want) {
			t.Errorf("%s: %q, %v; want %q (subject %s)", name, got, err, c.want, hex.EncodeToString(c.der))
		}
	}
}

func TestSubjectsThatAreNoPrincipal(t *testing.T) {
	whole := subject(t, []attribute{{commonName, asn1.TagUTF8String, "a"}})
	for name, der := range map[string][]byte{
		"no subject":            subject(t),
		"not UTF-8":             subject(t, []attribute{{commonName, asn1.TagUTF8String, "a\xff"}}),
		"two bytes a character": subject(t, []attribute{{commonName, asn1.TagBMPString, "\x00a\x00,"}}),
		"half of a pair":        subject(t, []attribute{{commonName, asn1.TagBMPString, "\xd8\x00"}}),
		"something else":        {1, 2, 3},
		"more behind it":        append(bytes.Clone(whole), 0),
		"cut off":               whole[:len(whole)-1],
	} {
		if got, err := certificatePrincipal(&x509.Certificate{RawSubject: der}); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzPrincipal(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		p, err := certificatePrincipal(&x509.Certificate{RawSubject: der})
		if err == nil && (len(p) > len("User:")+64+12*len(der) || bytes.ContainsRune([]byte(p), 0)) {
			t.Errorf("%q from %d bytes", p, len(der))
		}
	})
}

// A certificate is good until it runs out, also for who is there, and no longer than a session.
func TestCertificatesRunOut(t *testing.T) {
	for what, c := range map[string]struct{ good, lifetime, want time.Duration }{
		"the certificate":       {time.Hour, 2 * time.Hour, time.Hour},
		"no sessions":           {time.Hour, 0, time.Hour},
		"the session":           {time.Hour, time.Minute, time.Minute},
		"clients are not asked": {time.Hour, -1, time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a *Authenticator
				if c.lifetime >= 0 {
					var err error
					if a, err = New(Config{SessionLifetime: c.lifetime}); err != nil {
						t.Fatal(err)
					}
				}
				private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				x := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, NotAfter: time.Now().Add(c.good)}
				der, err := x509.CreateCertificate(rand.Reader, x, x, private.Public(), private)
				if err != nil {
					t.Fatal(err)
				}
				pair := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}
				near, far := net.Pipe()
				defer near.Close()
				defer far.Close()
				client := tls.Client(near, &tls.Config{Certificates: pair, InsecureSkipVerify: true}) //nolint:gosec // the test is about the other side
				go func() { _ = client.Handshake() }()
				server := tls.Server(far, &tls.Config{Certificates: pair, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true})
				if err := server.Handshake(); err != nil {
					t.Fatal(err)
				}
				l := a.Connect(server)
				end := time.Now().Add(c.want)
				if l.Principal() != "User:CN=shop" {
					t.Errorf("principal %q", l.Principal())
				}
				if err := l.Admit(0, end); err != nil {
					t.Errorf("in time: %v", err)
				}
				if err := l.Admit(0, end.Add(time.Second)); !errors.Is(err, ErrExpired) {
					t.Errorf("late: %v", err)
				}
			})
		})
	}
}
