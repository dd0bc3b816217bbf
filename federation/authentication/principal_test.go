package authentication

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"testing"
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
		"no subject":     subject(t),
		"not UTF-8":      subject(t, []attribute{{commonName, asn1.TagUTF8String, "a\xff"}}),
		"something else": {1, 2, 3},
		"more behind it": append(bytes.Clone(whole), 0),
		"cut off":        whole[:len(whole)-1],
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
