package authentication

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Principal is who a client is, as Kafka writes it: User:alice.
type Principal string

// Anonymous is who did not say.
const Anonymous Principal = "User:ANONYMOUS"

func userPrincipal(name string) Principal { return Principal("User:" + name) }

// subjectKeywords are those of RFC 2253; other types are given by number.
var subjectKeywords = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

type subjectAttribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type subjectNameSET []subjectAttribute

// stringTags are the types of value that are text.
var stringTags = map[int]bool{
	asn1.TagPrintableString: true, asn1.TagUTF8String: true, asn1.TagT61String: true, asn1.TagIA5String: true, asn1.TagGeneralString: true,
}

// subjectEscaped is what Java's X500Principal escapes, which is more than RFC 2253 asks for.
const subjectEscaped = ",=+<>#;\"\\"

// certificatePrincipal is the subject by which Kafka's ACLs name a certificate: that of
// Java's X500Principal.getName, RFC 2253, to the letter. An ACL is for exactly
// one subject: nothing in a value can look like another attribute.
func certificatePrincipal(c *x509.Certificate) (Principal, error) {
	var names []subjectNameSET
	if rest, err := asn1.Unmarshal(c.RawSubject, &names); err != nil || len(rest) > 0 {
		return "", errors.New("the subject of the certificate cannot be read")
	}
	if len(names) == 0 {
		return "", errors.New("the certificate has no subject")
	}
	parts := make([]string, 0, len(names))
	for i := len(names) - 1; i >= 0; i-- { // the last comes first
		var one []string
		for _, a := range names[i] {
			text, err := attributeText(a)
			if err != nil {
				return "", err
			}
			one = append(one, text)
		}
		parts = append(parts, strings.Join(one, "+"))
	}
	return userPrincipal(strings.Join(parts, ",")), nil
}

func attributeText(a subjectAttribute) (string, error) {
	keyword, ok := subjectKeywords[a.Type.String()]
	if !ok {
		return a.Type.String() + "=#" + hex.EncodeToString(a.Value.FullBytes), nil
	}
	if a.Value.Class == asn1.ClassUniversal && a.Value.Tag == asn1.TagBMPString {
		// Java reads its two bytes a character as UTF-8, so its name for it says little.
		return "", fmt.Errorf("%s in the subject of the certificate is a BMPString; make it UTF8String", keyword)
	}
	if a.Value.Class != asn1.ClassUniversal || !stringTags[a.Value.Tag] {
		return keyword + "=#" + hex.EncodeToString(a.Value.FullBytes), nil
	}
	if !utf8.Valid(a.Value.Bytes) {
		return "", fmt.Errorf("%s in the subject of the certificate is not UTF-8", keyword)
	}
	return keyword + "=" + escapeValue(string(a.Value.Bytes)), nil
}

func escapeValue(value string) string {
	lead := len(value) - len(strings.TrimLeft(value, " \r"))
	trail := len(strings.TrimRight(value, " \r"))
	var b strings.Builder
	for i, r := range value {
		switch {
		case r == 0:
			b.WriteString(`\00`)
			continue
		case strings.ContainsRune(subjectEscaped, r), i < lead, i >= trail:
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
