package authentication

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// Bounds of a users file.
const (
	usersBytesMax  = 16 << 20
	nameBytesMax   = 255
	usersFaultsMax = 10 // that are told
)

// Users are who may log in. They never change; a file that changed makes new ones.
type Users struct {
	credentials map[string]map[string]credential // mechanism → name
	shown       map[string][]credential          // by mechanism, in the order of the file
	plain       map[string]credential            // what PLAIN is checked against, by name
	plainShown  []credential
	idle        int // lines that nobody can log in by

	// disguise gives a name that is not there a salt of its own, the same each time
	// and at each gateway that reads the same file (invariant B). It changes with the
	// file, so who asks for a name before and after a change may learn that nobody has it.
	disguise []byte

	known struct { // passwords that were right, so that PLAIN does not cost as much each time
		sync.Mutex
		key []byte
		sum map[string][]byte // by name
	}
}

// ParseUsers reads lines of three words: name, mechanism, and the credential as
// Kafka writes it. Empty lines and those that begin with # say nothing. All
// faults are told by line, up to some, and never with what stands there: it may be a
// password. PLAIN is checked against a user's line of the first of the mechanisms that
// the user has one for: what is not offered is forgotten when passwords change.
func ParseUsers(data []byte, offered ...string) (*Users, error) {
	u := &Users{credentials: make(map[string]map[string]credential), shown: make(map[string][]credential), plain: make(map[string]credential)}
	for _, m := range Scrams {
		u.credentials[m] = make(map[string]credential)
	}
	var faults []error
	number, names := 0, 0
	for line := range bytes.Lines(data) {
		number++
		words := strings.Fields(string(line))
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if err := u.add(words); err != nil {
			if faults = append(faults, fmt.Errorf("line %d: %w", number, err)); len(faults) == usersFaultsMax {
				faults = append(faults, errors.New("what follows was not read"))
				break
			}
			continue
		}
		names++
	}
	order := slices.DeleteFunc(slices.Clone(offered), func(m string) bool { return !slices.Contains(Scrams, m) })
	for _, m := range Scrams {
		if !slices.Contains(order, m) {
			order = append(order, m)
		}
	}
	for _, m := range order {
		for name, c := range u.credentials[m] {
			if _, ok := u.plain[name]; !ok {
				u.plain[name] = c
			}
		}
		for _, c := range u.shown[m] {
			byPlain := u.plain[c.name].mechanism == m
			if byPlain {
				u.plainShown = append(u.plainShown, c)
			}
			if len(offered) > 0 && !slices.Contains(offered, m) && !(byPlain && slices.Contains(offered, Plain)) {
				u.idle++
			}
		}
	}
	if names == 0 && len(faults) == 0 {
		faults = append(faults, errors.New("no user is in it; make a line with spillway user hash NAME"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	sum := sha256.New()
	for _, m := range Scrams {
		for _, c := range u.shown[m] {
			sum.Write(c.storedKey)
			sum.Write(c.serverKey)
		}
	}
	u.disguise = sum.Sum(nil)
	u.known.key, u.known.sum = make([]byte, 32), make(map[string][]byte)
	_, _ = rand.Read(u.known.key) // never fails
	return u, nil
}

func (u *Users) add(words []string) error {
	if len(words) != 3 {
		return fmt.Errorf("%d words; a line is NAME MECHANISM CREDENTIAL, see spillway user hash", len(words))
	}
	name, mechanism := words[0], words[1]
	if err := checkName(name); err != nil {
		return err
	}
	c, err := parseCredential(mechanism, words[2])
	if err != nil {
		return err
	}
	if _, twice := u.credentials[mechanism][name]; twice {
		return fmt.Errorf("its user has a line for %s before", mechanism)
	}
	c.name = name
	u.credentials[mechanism][name] = c
	u.shown[mechanism] = append(u.shown[mechanism], c)
	return nil
}

// Idle is how many lines serve no login, since their mechanism is not offered.
func (u *Users) Idle() int { return u.idle }

// checkName: a name stands in a line of the file, in logs and in ACLs. What is none may be
// a password in the wrong place, so it is not told.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > nameBytesMax:
		return fmt.Errorf("a name has 1 to %d bytes", nameBytesMax)
	case strings.HasPrefix(name, "#"):
		return errors.New("the name begins with #, which begins a comment")
	case strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == unicode.ReplacementChar
	}):
		return errors.New("the name has spaces or what cannot be printed")
	}
	return nil
}

// ReadUsers reads a users file, see ParseUsers.
func ReadUsers(file string, offered ...string) (*Users, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, usersBytesMax+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("users file: %w", err)
	case len(data) > usersBytesMax:
		return nil, fmt.Errorf("users file %s: larger than %d bytes", file, usersBytesMax)
	}
	u, err := ParseUsers(data, offered...)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", file, err)
	}
	return u, nil
}

// credential of a user; for anybody else one that looks like it and is good for no
// password. Both cost the same.
func (u *Users) credential(mechanism, name string) (c credential, known bool) {
	fake := u.pretend(mechanism, name, u.shown[mechanism])
	if c, known = u.credentials[mechanism][name]; known {
		return c, true
	}
	return fake, false
}

// pretend has mechanism, salt length and iterations of one of others.
func (u *Users) pretend(mechanism, name string, others []credential) credential {
	random := func(what string) []byte { return keyed(sha256.New, u.disguise, what+mechanism+"\x00"+name) }
	like := credential{mechanism: mechanism, salt: make([]byte, saltBytes), iterations: IterationsDefault}
	if len(others) > 0 {
		like = others[binary.BigEndian.Uint64(random("like"))%uint64(len(others))]
	}
	salt := append(random("salt"), random("more salt")...)[:len(like.salt)]
	if kafkaSalt(like.salt) {
		salt = []byte(new(big.Int).Rsh(new(big.Int).SetBytes(random("salt")), 256-kafkaSaltBits).Text(36))
	}
	keys := append(append(random("stored"), random("more stored")...), append(random("server"), random("more server")...)...)
	size := hashes[like.mechanism]().Size()
	return credential{mechanism: like.mechanism, salt: salt, iterations: like.iterations, storedKey: keys[:size], serverKey: keys[64 : 64+size]}
}

// kafkaSaltBits of a random number, in base 36, are a salt of Kafka's own.
const kafkaSaltBits = 130

// kafkaSalt tells whether a salt looks like one that Kafka made: 1 in 10^17 others do.
func kafkaSalt(salt []byte) bool {
	return len(salt) >= 20 && len(salt) <= 26 && !bytes.ContainsFunc(salt, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') })
}

// remembered tells whether the password was found to be right before. It is cheap and
// never true for a wrong one; false says nothing.
func (u *Users) remembered(name string, password []byte) bool {
	u.known.Lock()
	right, ok := u.known.sum[name]
	u.known.Unlock()
	return hmac.Equal(right, u.sum(name, password)) && ok // the same work for whom it does not know
}

// sum stands for a name and a password, as long as the users stay.
func (u *Users) sum(name string, password []byte) []byte {
	return keyed(sha256.New, u.known.key, name+"\x00"+string(password))
}

// check does the work of PBKDF2, for whom it does not know too.
func (u *Users) check(name string, password []byte) bool {
	fake := u.pretend(Plain, name, u.plainShown)
	c, known := u.plain[name]
	if !known {
		c = fake
	}
	if !c.verify(password) || !known {
		return false
	}
	u.known.Lock()
	defer u.known.Unlock()
	u.known.sum[name] = u.sum(name, password)
	return true
}
