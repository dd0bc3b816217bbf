package authentication

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example of RFC 7677, in Kafka's words.
func TestCredentialsAreThoseOfTheRFC(t *testing.T) {
	salt := []byte{0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81}
	c, err := derive(ScramSHA256, []byte("pencil"), salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	const want = "salt=W22ZaJ0SNY7soEsUEjb6gQ==,stored_key=WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,server_key=wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=,iterations=4096"
	if c.String() != want {
		t.Errorf("%s, want %s", c, want)
	}
	back, err := parseCredential(ScramSHA256, want)
	if err != nil || back.String() != want || !back.verify([]byte("pencil")) || back.verify([]byte("pencils")) {
		t.Errorf("%v, %v", back, err)
	}
}

func TestUsersFilesThatCannotBe(t *testing.T) {
	const good = "salt=W22ZaJ0SNY7soEsUEjb6gQ==,stored_key=WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,server_key=wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=,iterations=4096"
	if _, err := ParseUsers([]byte("# people\n\n  alice SCRAM-SHA-256 " + good + "\r\nbob\tSCRAM-SHA-256\t" + good)); err != nil {
		t.Errorf("a good file: %v", err)
	}
	for text, want := range map[string]string{
		"":                                  "no user is in it",
		"# nobody\n":                        "no user is in it",
		"alice secret":                      "line 1: 2 words",
		"alice PLAIN secret":                "second word is none of",
		"alice:secret X Y":                  "second word is none of",
		"secret\x01 X Y":                    "cannot be printed",
		strings.Repeat("x\n", 1000):         "line 10: 1 words; a line is NAME MECHANISM CREDENTIAL, see spillway user hash\nwhat follows was not read",
		"alice SCRAM-SHA-256 secret":        "something else than salt",
		"alice SCRAM-SHA-256 salt=secret!":  "salt cannot be read",
		"\x1b[2J SCRAM-SHA-256 " + good:     "cannot be printed",
		"al\xffice SCRAM-SHA-256 " + good:   "cannot be printed",
		"alice SCRAM-SHA-512 " + good:       "have 64 bytes",
		"alice SCRAM-SHA-256 " + good + "0": "", // 40960
		"alice SCRAM-SHA-256 " + strings.Replace(good, "4096", "4095", 1):                              "iterations must be between",
		"alice SCRAM-SHA-256 " + strings.Replace(good, "4096", "2147483647", 1):                        "iterations must be between",
		"alice SCRAM-SHA-256 " + strings.Replace(good, "W22ZaJ0SNY7soEsUEjb6gQ==", "AAAA", 1):          "a salt has",
		"alice SCRAM-SHA-256 " + good + ",salt=W22ZaJ0SNY7soEsUEjb6gQ==":                               "twice",
		"alice SCRAM-SHA-256 " + strings.TrimSuffix(good, ",iterations=4096"):                          "needs salt",
		"alice SCRAM-SHA-256 " + good + "\nalice SCRAM-SHA-256 " + good:                                "line 2: its user has a line",
		"alice SCRAM-SHA-256 " + good + "\nbob x y\ncarol SCRAM-SHA-256 secret":                        "line 3",
		strings.Repeat("a", nameBytesMax+1) + " SCRAM-SHA-256 " + good + "\nbob SCRAM-SHA-256 " + good: "1 to 255 bytes",
	} {
		_, err := ParseUsers([]byte(text))
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") { // invariant D
			t.Errorf("%q is in the error: %v", text, err)
		}
	}
}

// Invariant B: who asks for a name cannot tell whether somebody has it.
func TestNobodyLooksLikeSomebody(t *testing.T) {
	var lines []string
	for name, iterations := range map[string]int{"alice": 5000, "bob": 6000} {
		line, err := UserLine(name, ScramSHA256, []byte("x"), iterations)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	file := []byte(strings.Join(lines, "\n"))
	one, err := ParseUsers(file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ParseUsers(file) // at another gateway, or after a restart
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	salts := map[string]bool{}
	for i := range 100 {
		name := "nobody" + strings.Repeat("x", i)
		c, known := one.credential(ScramSHA256, name)
		again, _ := other.credential(ScramSHA256, name)
		if known || !bytes.Equal(c.salt, again.salt) || c.iterations != again.iterations || len(c.salt) != saltBytes || len(c.storedKey) != 32 {
			t.Fatalf("%s: %v %v %v", name, known, c, again)
		}
		seen[c.iterations], salts[string(c.salt)] = true, true
	}
	if len(seen) != 2 || len(salts) != 100 {
		t.Errorf("iterations %v, %d salts", seen, len(salts))
	}
	if c, known := one.credential(ScramSHA512, "alice"); known || len(c.storedKey) != 64 {
		t.Errorf("a mechanism that nobody has a line for: %v", c)
	}
}

// A password that was right once is right without the work, and no other one is.
func TestRightPasswordsAreRemembered(t *testing.T) {
	u := usersOf(t, "alice")
	if u.remembered("alice", []byte("alice's")) {
		t.Error("it is remembered before it was seen")
	}
	if u.check("alice", []byte("wrong")) || !u.check("alice", []byte("alice's")) || u.check("eve", []byte("alice's")) {
		t.Error("wrong verdict")
	}
	if !u.remembered("alice", []byte("alice's")) || u.remembered("alice", []byte("wrong")) || u.remembered("eve", []byte("alice's")) {
		t.Error("wrong memory")
	}
	for _, m := range Scrams { // one line is enough for PLAIN
		line, err := UserLine("bob", m, []byte("bob's"), IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		u, err := ParseUsers([]byte(line))
		if err != nil || !u.check("bob", []byte("bob's")) || u.check("eve", []byte("bob's")) {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// Invariant E.
func TestAFileThatCannotBeUsedLeavesTheOldOneInForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(name string) {
		t.Helper()
		line, err := UserLine(name, ScramSHA256, []byte("x"), IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(k *Kept[*Users], name string) bool {
		_, known := k.Current().credential(ScramSHA256, name)
		return known
	}
	read := func() (*Users, error) { return ReadUsers(file) }
	if _, err := Keep(read, file); err == nil {
		t.Error("a file that is not there")
	}
	write("alice")
	k, err := Keep(read, file)
	if err != nil || !has(k, "alice") {
		t.Fatal(err)
	}
	if changed, err := k.Look(t.Context()); changed || err != nil {
		t.Errorf("nothing changed: %v, %v", changed, err)
	}
	for what, spoil := range map[string]func() error{
		"broken": func() error { return os.WriteFile(file, []byte("alice hunter2"), 0o600) },
		"empty":  func() error { return os.WriteFile(file, nil, 0o600) },
		"gone":   func() error { return os.Remove(file) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it is told until it is mended
			changed, err := k.Look(t.Context())
			if changed || err == nil || !has(k, "alice") {
				t.Errorf("%s: %v, %v", what, changed, err)
			} else if !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: it says %q", what, err)
			}
		}
	}
	write("bob")
	if changed, err := k.Look(t.Context()); !changed || err != nil || has(k, "alice") || !has(k, "bob") {
		t.Errorf("a good one: %v, %v", changed, err)
	}
	if _, err := (TLSFiles{Certificate: file, Key: file}).Keep(); err == nil {
		t.Error("a certificate that is none")
	}
	if c, err := (TLSFiles{ClientCA: "x"}).config(); err == nil || c != (*tls.Config)(nil) {
		t.Error("no certificate")
	}
}

// PLAIN goes by the mechanisms that are offered: nobody thinks of other lines when a password changes.
func TestPlainGoesByWhatIsOffered(t *testing.T) {
	var lines []string
	for m, password := range map[string]string{ScramSHA256: "of 256", ScramSHA512: "of 512"} {
		line, err := UserLine("alice", m, []byte(password), IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	file := []byte(strings.Join(lines, "\n"))
	for _, c := range []struct {
		offered []string
		want    string
		idle    int
	}{
		{nil, "of 256", 0},
		{[]string{Plain}, "of 256", 1},
		{[]string{Plain, ScramSHA512}, "of 512", 1},
		{[]string{ScramSHA512, Plain, ScramSHA256}, "of 512", 0},
		{[]string{ScramSHA256}, "of 256", 1},
	} {
		u, err := ParseUsers(file, c.offered...)
		if err != nil {
			t.Fatal(err)
		}
		for _, password := range []string{"of 256", "of 512"} {
			if right := u.check("alice", []byte(password)); right != (password == c.want) {
				t.Errorf("%v: %q is right: %v", c.offered, password, right)
			}
		}
		if u.Idle() != c.idle {
			t.Errorf("%v: %d lines are idle", c.offered, u.Idle())
		}
		if fake := u.pretend(Plain, "eve", u.plainShown); fake.mechanism != u.plain["alice"].mechanism {
			t.Errorf("%v: who is not there costs another hash", c.offered)
		}
	}
}

// Salts of credentials that Kafka made are text, and so are those of who is not there.
func TestMadeUpSaltsLookLikeKafkas(t *testing.T) {
	c, err := derive(ScramSHA512, []byte("x"), []byte("1fpp02kfj2pv2q3rr1iot9g51q"), IterationsMin)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseUsers([]byte("alice SCRAM-SHA-512 " + c.String()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		c, _ := u.credential(ScramSHA512, "eve"+strings.Repeat("x", i))
		if !kafkaSalt(c.salt) || len(c.salt) < 22 || len(c.salt) == 26 && c.salt[0] != '1' {
			t.Errorf("salt %q", c.salt)
		}
	}
}

// A file of authorities counts whole or not at all.
func TestHalfAFileOfAuthorities(t *testing.T) {
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)})
	two := append(append([]byte("# ours\n"), one...), one...)
	if _, err := parseAuthorities(two); err != nil {
		t.Errorf("a good file: %v", err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
	odd := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	for what, text := range map[string][]byte{
		"a block of another kind": append(bytes.Clone(key), one...),
		"one that Go cannot read": append(bytes.Clone(odd), one...),
		"a line of dashes":        append(bytes.Clone(one), "# --------\n"...),
	} {
		if _, err := parseAuthorities(text); err != nil {
			t.Errorf("%s beside a good one: %v", what, err)
		}
	}
	for what, text := range map[string][]byte{
		"empty":                 nil,
		"half the last":         two[:len(two)-len(one)/2],
		"half the first":        append(bytes.Clone(one[:len(one)/2]), one...),
		"the end of one":        append(bytes.Clone(one[len(one)/2:]), one...),
		"a broken one":          append(bytes.Clone(one), strings.Replace(string(one), "MII", "***", 1)...),
		"cut in its first line": append(bytes.Clone(one), "-----BEG"...),
		"none that Go can read": append(bytes.Clone(key), odd...),
	} {
		if _, err := parseAuthorities(text); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
