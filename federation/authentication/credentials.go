package authentication

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Mechanisms of SASL.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
	OAuthBearer = "OAUTHBEARER"
)

// Scrams are the mechanisms that the users file has credentials for.
var Scrams = []string{ScramSHA256, ScramSHA512}

// Bounds of a credential. Fewer iterations make a stolen file cheap to try passwords
// on (RFC 7677 asks for 4096), more make each login by PLAIN dear.
const (
	IterationsMin     = 4096
	IterationsMax     = 1_000_000
	IterationsDefault = 8192
	saltBytesMin      = 8
	saltBytesMax      = 64
	saltBytes         = 24
)

// PasswordBytesMax bounds a password.
const PasswordBytesMax = 1024

var hashes = map[string]func() hash.Hash{ScramSHA256: sha256.New, ScramSHA512: sha512.New}

// credential is what RFC 5802 has a server keep: enough to check a password, too little
// to log in with it.
type credential struct {
	name       string // of its user
	mechanism  string
	salt       []byte
	storedKey  []byte
	serverKey  []byte
	iterations int
}

// derive makes the credential of a password. It is taken byte by byte, as Kafka and its
// clients do; RFC 5802 would have it normalized.
func derive(mechanism string, password, salt []byte, iterations int) (credential, error) {
	h := hashes[mechanism]
	salted, err := pbkdf2.Key(h, string(password), salt, iterations, h().Size())
	if err != nil {
		return credential{}, err
	}
	clientKey := keyed(h, salted, "Client Key")
	stored := h()
	stored.Write(clientKey)
	return credential{mechanism: mechanism, salt: salt, iterations: iterations, storedKey: stored.Sum(nil), serverKey: keyed(h, salted, "Server Key")}, nil
}

func keyed(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// verify tells whether it is the credential of the password.
func (c credential) verify(password []byte) bool {
	of, err := derive(c.mechanism, password, c.salt, c.iterations)
	return err == nil && hmac.Equal(of.storedKey, c.storedKey)
}

// String is the credential as Kafka writes it.
func (c credential) String() string {
	e := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("salt=%s,stored_key=%s,server_key=%s,iterations=%d", e(c.salt), e(c.storedKey), e(c.serverKey), c.iterations)
}

// parseCredential reads what String writes. Its errors tell nothing of what it read.
func parseCredential(mechanism, text string) (credential, error) {
	h, ok := hashes[mechanism]
	if !ok {
		return credential{}, fmt.Errorf("the second word is none of %s", strings.Join(Scrams, ", "))
	}
	c := credential{mechanism: mechanism}
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		if seen[key] {
			return c, fmt.Errorf("%q is there twice", key)
		}
		var err error
		switch key {
		case "salt":
			c.salt, err = base64.StdEncoding.DecodeString(value)
		case "stored_key":
			c.storedKey, err = base64.StdEncoding.DecodeString(value)
		case "server_key":
			c.serverKey, err = base64.StdEncoding.DecodeString(value)
		case "iterations":
			c.iterations, err = strconv.Atoi(value)
		default:
			return c, errors.New("the third word has something else than salt, stored_key, server_key and iterations")
		}
		if err != nil {
			return c, fmt.Errorf("%s cannot be read", key)
		}
		seen[key] = true
	}
	switch size := h().Size(); {
	case len(seen) != 4:
		return c, errors.New("the third word needs salt, stored_key, server_key and iterations")
	case len(c.storedKey) != size || len(c.serverKey) != size:
		return c, fmt.Errorf("the keys of %s have %d bytes", mechanism, size)
	case len(c.salt) < saltBytesMin || len(c.salt) > saltBytesMax:
		return c, fmt.Errorf("a salt has %d to %d bytes", saltBytesMin, saltBytesMax)
	case c.iterations < IterationsMin || c.iterations > IterationsMax:
		return c, fmt.Errorf("iterations must be between %d and %d", IterationsMin, IterationsMax)
	}
	return c, nil
}

// UserLine is the line of a users file that lets a user in by a password.
func UserLine(name, mechanism string, password []byte, iterations int) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if _, ok := hashes[mechanism]; !ok {
		return "", fmt.Errorf("mechanism %q is none of %s; these serve PLAIN too", mechanism, strings.Join(Scrams, ", "))
	}
	switch {
	case iterations < IterationsMin || iterations > IterationsMax:
		return "", fmt.Errorf("%d iterations: must be between %d and %d", iterations, IterationsMin, IterationsMax)
	case len(password) == 0:
		return "", errors.New("the password is empty")
	case len(password) > PasswordBytesMax:
		return "", fmt.Errorf("the password has more than %d bytes", PasswordBytesMax)
	case strings.ContainsRune(string(password), 0):
		return "", errors.New("the password has a NUL, which PLAIN cannot carry")
	}
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails
	c, err := derive(mechanism, password, salt, iterations)
	if err != nil {
		return "", err
	}
	return name + " " + mechanism + " " + c.String(), nil
}
