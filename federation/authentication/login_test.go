package authentication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/xdg-go/scram"
)

// usersOf makes a users file of names; a password is "NAME's".
func usersOf(t *testing.T, names ...string) *Users {
	t.Helper()
	var lines []string
	for _, n := range names {
		for _, m := range Scrams {
			line, err := UserLine(n, m, []byte(n+"'s"), IterationsMin)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
	}
	u, err := ParseUsers([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// rig is one connection and what was counted.
type rig struct {
	*Login
	t       *testing.T
	clock   time.Time
	counted []string
}

func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	r := &rig{t: t, clock: time.Unix(1000, 0)}
	if len(c.Mechanisms) == 0 {
		c.Mechanisms = Passwords
	}
	if c.Users == nil {
		u := usersOf(t, "alice", "bob")
		c.Users = func() *Users { return u }
	}
	c.Authenticated = func(mechanism, outcome string) { r.counted = append(r.counted, mechanism+" "+outcome) }
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	near.Close()
	far.Close()
	r.Login = a.Connect(far)
	return r
}

func (r *rig) now() time.Time { return r.clock }

func (r *rig) handshake(mechanism string) Answer {
	a := r.Handshake(mechanism, r.clock)
	r.Told(r.clock)
	return a
}

func (r *rig) token(text string) Answer {
	return r.Authenticate(context.Background(), []byte(text), r.clock, r.now)
}

// plain logs in by PLAIN, from its handshake on.
func (r *rig) plain(name, password string) Answer {
	r.t.Helper()
	if a := r.handshake(Plain); a.Code != 0 {
		return a
	}
	return r.token("\x00" + name + "\x00" + password)
}

func (r *rig) counts(want string) {
	r.t.Helper()
	if got := strings.Join(r.counted, ", "); got != want {
		r.t.Errorf("counted %q, want %q", got, want)
	}
}

// scram logs in with a library; change may spoil a message of the client.
func (r *rig) scram(mechanism, name, password string, change func(step int, message string) string) Answer {
	r.t.Helper()
	return r.scramAs(mechanism, name, password, "", change)
}

// scramAs asks for the rights of another.
func (r *rig) scramAs(mechanism, name, password, as string, change func(step int, message string) string) Answer {
	r.t.Helper()
	of := scram.SHA256
	if mechanism == ScramSHA512 {
		of = scram.SHA512
	}
	client, err := of.NewClient(name, password, as)
	if err != nil {
		r.t.Fatal(err)
	}
	if a := r.handshake(mechanism); a.Code != 0 {
		return a
	}
	conversation, from := client.NewConversation(), ""
	for step := 1; ; step++ {
		to, err := conversation.Step(from)
		if err != nil {
			r.t.Fatal(err)
		}
		if change != nil {
			to = change(step, to)
		}
		a := r.token(to)
		if a.Code != 0 || step == 2 {
			if a.Code == 0 {
				if _, err := conversation.Step(string(a.Token)); err != nil || !conversation.Valid() {
					r.t.Errorf("the client does not believe the server: %v", err)
				}
			}
			return a
		}
		from = string(a.Token)
	}
}

func (r *rig) through(a Answer, who Principal) {
	r.t.Helper()
	if a.Code != 0 || a.End != nil || r.Principal() != who || !r.Through() {
		r.t.Errorf("%+v, principal %q, want %q", a, r.Principal(), who)
	}
}

func (r *rig) failed(a Answer, code int16) {
	r.t.Helper()
	if a.Code != code || !errors.Is(a.End, ErrFailed) || a.Wait < 100*time.Millisecond {
		r.t.Errorf("%+v, want error %d, an end and a wait", a, code)
	}
	if err := r.Admit(KeySaslHandshake, r.clock); !errors.Is(err, ErrFailed) {
		r.t.Errorf("the connection goes on after a failure: %v", err)
	}
}

func TestLogins(t *testing.T) {
	r := newRig(t, Config{})
	r.through(r.plain("alice", "alice's"), "User:alice")
	r.counts("PLAIN success")
	r = newRig(t, Config{})
	r.through(r.scram(ScramSHA256, "bob", "bob's", nil), "User:bob")
	r.counts("SCRAM-SHA-256 success")
	r = newRig(t, Config{})
	r.through(r.scram(ScramSHA512, "bob", "bob's", nil), "User:bob")
	r.counts("SCRAM-SHA-512 success")
}

// Rows 18 to 20 of the list of hostile input, and what is near them.
func TestLoginsThatFail(t *testing.T) {
	for name, do := range map[string]func(*rig) Answer{
		"PLAIN: wrong password":         func(r *rig) Answer { return r.plain("alice", "bob's") },
		"PLAIN: no such user":           func(r *rig) Answer { return r.plain("eve", "eve's") },
		"PLAIN: another's rights":       func(r *rig) Answer { r.handshake(Plain); return r.token("bob\x00alice\x00alice's") },
		"SCRAM: wrong password":         func(r *rig) Answer { return r.scram(ScramSHA256, "alice", "bob's", nil) },
		"SCRAM: no such user":           func(r *rig) Answer { return r.scram(ScramSHA256, "eve", "eve's", nil) },
		"SCRAM: garbage before a nonce": func(r *rig) Answer { return r.scram(ScramSHA256, "alice", "alice's", spoil(2, ",r=", ",r=garbage")) },
		"SCRAM: another header":         func(r *rig) Answer { return r.scram(ScramSHA256, "alice", "alice's", spoil(2, "c=biws", "c=eSws")) },
		"SCRAM: another's rights":       func(r *rig) Answer { return r.scramAs(ScramSHA256, "alice", "alice's", "bob", nil) },
		"SCRAM: another mechanism's":    func(r *rig) Answer { r.handshake(ScramSHA256); return r.token("n,,n=alice,r=x") },
		"SCRAM: channel binding":        func(r *rig) Answer { r.handshake(ScramSHA256); return r.token("p=tls-unique,,n=alice,r=x") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			a := do(r)
			if name == "SCRAM: another mechanism's" { // a good first message; the proof is none
				a = r.token("c=biws,r=" + between(string(a.Token), "r=", ",") + ",p=AAAA")
			}
			r.failed(a, kerr.SaslAuthenticationFailed.Code)
			mechanism, _, _ := strings.Cut(name, ":")
			if mechanism == "SCRAM" {
				mechanism = ScramSHA256
			}
			r.counts(mechanism + " credentials")
			if a.Message != refusal(mechanism) || len(a.Token) > 0 { // invariant B
				t.Errorf("it was told %q %q", a.Message, a.Token)
			}
			if r.Through() || r.Principal() != "" {
				t.Errorf("principal %q", r.Principal())
			}
		})
	}
}

func TestMessagesThatCannotBeRead(t *testing.T) {
	for mechanism, messages := range map[string][]string{
		Plain: {
			"", "\x00", "\x00alice", "\x00alice\x00", "\x00\x00alice's", "\x00alice\x00alice's\x00", "alice",
			"\x00alice\x00" + strings.Repeat("x", PasswordBytesMax+1), "\x00alice\x00" + strings.Repeat("x", 400<<10),
		},
		ScramSHA256: {
			"", "=", "n", "n,,", "n,,n=a=2Cb", "n,,m=x,n=alice,r=x", "n,n=alice,r=x", "x,,n=alice,r=x", "n,,r=x,n=alice", strings.Repeat("n", 400<<10),
		},
	} {
		for _, m := range messages {
			r := newRig(t, Config{})
			r.handshake(mechanism)
			r.failed(r.token(m), kerr.SaslAuthenticationFailed.Code)
			r.counts(mechanism + " malformed")
		}
	}
	for _, name := range []string{"a=2Cb=", "=", "a=2cb"} {
		r := newRig(t, Config{})
		r.handshake(ScramSHA256)
		r.failed(r.token("n,,n="+name+",r=x"), kerr.SaslAuthenticationFailed.Code)
	}
	for _, final := range []string{"", "c=biws", "c=biws,r=%,p=!", "c=!,r=%,p=AAAA", "r=%,c=biws,p=AAAA"} {
		r := newRig(t, Config{})
		r.handshake(ScramSHA256)
		first := r.token("n,,n=alice,r=x")
		r.failed(r.token(strings.ReplaceAll(final, "%", between(string(first.Token), "r=", ","))), kerr.SaslAuthenticationFailed.Code)
	}
}

// A name with a comma is one name.
func TestNamesAreUnescaped(t *testing.T) {
	u := usersOf(t, "a,b", "a=b")
	for _, name := range []string{"a,b", "a=b"} {
		r := newRig(t, Config{Users: func() *Users { return u }})
		r.through(r.scram(ScramSHA512, name, name+"'s", nil), Principal("User:"+name))
	}
}

func spoil(at int, old, by string) func(int, string) string {
	return func(step int, message string) string {
		if step == at {
			return strings.Replace(message, old, by, 1)
		}
		return message
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// Rows 14 to 16: what may be asked for before a login is over, and in which order.
func TestTheOrderOfALogin(t *testing.T) {
	t.Run("nothing else before", func(t *testing.T) {
		for key := range int16(100) {
			allowed := key == KeyAPIVersions || key == KeySaslHandshake || key == KeySaslAuthenticate
			r := newRig(t, Config{})
			if err := r.Admit(key, r.clock); (err == nil) != allowed || !allowed && !errors.Is(err, ErrUnauthenticated) {
				t.Errorf("key %d: %v", key, err)
			}
			r.handshake(ScramSHA256)
			if err := r.Admit(key, r.clock); (err == nil) != (allowed && key != KeyAPIVersions) {
				t.Errorf("key %d in the middle: %v", key, err)
			}
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		r := newRig(t, Config{})
		for range requestsMax {
			if err := r.Admit(KeyAPIVersions, r.clock); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Admit(KeyAPIVersions, r.clock); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("one more: %v", err)
		}
	})
	t.Run("unknown mechanism", func(t *testing.T) {
		r := newRig(t, Config{Mechanisms: []string{ScramSHA512}})
		r.failed(r.handshake(Plain), kerr.UnsupportedSaslMechanism.Code)
		r.counts("none mechanism")
	})
	t.Run("two handshakes", func(t *testing.T) {
		r := newRig(t, Config{})
		r.handshake(Plain)
		r.failed(r.handshake(ScramSHA256), kerr.IllegalSaslState.Code)
		r.counts("PLAIN order")
	})
	t.Run("no handshake", func(t *testing.T) {
		r := newRig(t, Config{})
		r.failed(r.token("\x00alice\x00alice's"), kerr.IllegalSaslState.Code)
		r.counts("none order")
	})
	t.Run("clients are not asked", func(t *testing.T) {
		var a *Authenticator
		near, far := net.Pipe()
		defer near.Close()
		l := a.Connect(far)
		if answer := l.Handshake(Plain, time.Now()); answer.Code != kerr.IllegalSaslState.Code || answer.End != nil || l.Principal() != Anonymous {
			t.Errorf("%+v, %q", answer, l.Principal())
		}
		if err := l.Admit(0, time.Now()); err != nil {
			t.Error(err)
		}
	})
}

// KIP-368, row 22.
func TestSessionsAreRenewed(t *testing.T) {
	const lifetime = time.Minute
	begin := func(t *testing.T) *rig {
		t.Helper()
		r := newRig(t, Config{SessionLifetime: lifetime})
		if a := r.plain("alice", "alice's"); a.Lifetime != lifetime {
			t.Errorf("told a lifetime of %s", a.Lifetime)
		}
		r.counted = nil
		return r
	}
	t.Run("in time", func(t *testing.T) {
		r := begin(t)
		for range 3 {
			r.clock = r.clock.Add(lifetime - time.Second)
			r.through(r.plain("alice", "alice's"), "User:alice")
			if err := r.Admit(0, r.clock); err != nil {
				t.Error(err)
			}
		}
		r.counts("PLAIN renewed, PLAIN renewed, PLAIN renewed")
	})
	t.Run("late", func(t *testing.T) {
		r := begin(t)
		r.clock = r.clock.Add(lifetime + time.Millisecond)
		if err := r.Admit(0, r.clock.Add(-2*time.Millisecond)); err != nil {
			t.Errorf("a request that came before the end: %v", err)
		}
		if err := r.Admit(0, r.clock); !errors.Is(err, ErrExpired) {
			t.Errorf("a request that came behind it: %v", err)
		}
		if err := r.Admit(KeySaslHandshake, r.clock); err != nil {
			t.Errorf("the renewal itself, late: %v", err)
		}
	})
	t.Run("as another principal", func(t *testing.T) {
		r := begin(t)
		r.clock = r.clock.Add(lifetime / 2)
		r.failed(r.plain("bob", "bob's"), kerr.SaslAuthenticationFailed.Code)
		if r.Principal() != "User:alice" {
			t.Errorf("principal %q", r.Principal())
		}
		r.counts("PLAIN principal")
	})
	t.Run("by another mechanism", func(t *testing.T) {
		r := begin(t)
		r.clock = r.clock.Add(lifetime / 2)
		r.failed(r.handshake(ScramSHA256), kerr.UnsupportedSaslMechanism.Code)
		r.counts("SCRAM-SHA-256 mechanism")
	})
	t.Run("with a wrong password", func(t *testing.T) {
		r := begin(t)
		r.clock = r.clock.Add(lifetime / 2)
		r.failed(r.plain("alice", "wrong"), kerr.SaslAuthenticationFailed.Code)
	})
	t.Run("too often", func(t *testing.T) {
		r := begin(t)
		if a := r.handshake(Plain); a.Code != kerr.IllegalSaslState.Code || a.End != nil {
			t.Errorf("%+v", a)
		}
	})
	t.Run("nothing in the middle", func(t *testing.T) {
		r := begin(t)
		r.clock = r.clock.Add(lifetime / 2)
		r.handshake(Plain)
		if err := r.Admit(0, r.clock); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("a Produce in the middle: %v", err)
		}
	})
	t.Run("never, where sessions have no end", func(t *testing.T) {
		r := newRig(t, Config{})
		r.through(r.plain("alice", "alice's"), "User:alice")
		r.clock = r.clock.Add(1000 * time.Hour)
		if a := r.handshake(Plain); a.Code != kerr.IllegalSaslState.Code || a.End != nil {
			t.Errorf("%+v", a)
		}
		if err := r.Admit(0, r.clock); err != nil {
			t.Error(err)
		}
	})
}

// Users who are no more cannot renew, and new passwords count at once.
func TestUsersOfNow(t *testing.T) {
	u := usersOf(t, "alice", "bob")
	r := newRig(t, Config{Users: func() *Users { return u }, SessionLifetime: time.Minute})
	r.through(r.plain("alice", "alice's"), "User:alice")
	u = usersOf(t, "bob")
	r.clock = r.clock.Add(30 * time.Second)
	r.failed(r.plain("alice", "alice's"), kerr.SaslAuthenticationFailed.Code)
}

// No more passwords are checked at once than there are slots for.
func TestPasswordsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{})
		slots := r.of.hashing.slots
		for range cap(slots) {
			slots <- struct{}{}
		}
		r.handshake(Plain)
		a := r.token("\x00alice\x00alice's")
		// An answer would say that the password is wrong, and clients would not try again.
		if !errors.Is(a.End, ErrFailed) || !a.Silent {
			t.Errorf("%+v", a)
		}
		r.counts("PLAIN busy")

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		r = newRig(t, Config{})
		r.of.hashing.slots = slots
		r.handshake(Plain)
		if a := r.Authenticate(gone, []byte("\x00alice\x00alice's"), r.clock, r.now); a.End == nil || !a.Silent {
			t.Errorf("a client that has gone: %+v", a)
		}
		r.counts("")
	})
}

// A client that comes with all its connections is checked once, also while it waits.
func TestEqualLoginsAreOneCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections = 1000
		h, users := newHashing(), usersOf(t, "alice", "bob")
		for range cap(h.slots) {
			h.slots <- struct{}{}
		}
		host := netip.MustParsePrefix("192.0.2.1/32")
		verdicts := make(chan bool, 2*connections)
		first, cancel := context.WithCancel(t.Context())
		go func() {
			if _, err := h.check(first, users, host, "alice", []byte("alice's")); !errors.Is(err, errGone) {
				t.Errorf("the first, which has gone: %v", err)
			}
		}()
		synctest.Wait()
		for i := range 2 * connections {
			go func() {
				right, err := h.check(t.Context(), users, host, "alice", []byte([]string{"alice's", "wrong"}[i%2]))
				if err != nil {
					t.Error(err)
				}
				verdicts <- right == (i%2 == 0)
			}()
		}
		synctest.Wait()
		if n := len(h.mu.checks); n != 2 {
			t.Errorf("%d checks wait", n)
		}
		cancel() // the others do not go with it
		synctest.Wait()
		for range cap(h.slots) {
			<-h.slots
		}
		for range 2 * connections {
			if !<-verdicts {
				t.Fatal("a wrong verdict")
			}
		}
		if len(h.mu.checks)+len(h.mu.hosts) > 0 {
			t.Errorf("left: %v %v", h.mu.checks, h.mu.hosts)
		}
	})
}

// One address cannot take all turns: beyond some it is sent away at once.
func TestAnAddressHasFewChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, users := newHashing(), usersOf(t, "alice")
		for range cap(h.slots) {
			h.slots <- struct{}{}
		}
		host := netip.MustParsePrefix("192.0.2.1/32")
		began, errs := time.Now(), make(chan error, 2*hashHostMax)
		for i := range 2 * hashHostMax {
			go func() {
				_, err := h.check(t.Context(), users, host, "alice", fmt.Append(nil, i))
				errs <- err
			}()
		}
		for range hashHostMax {
			if err := <-errs; !errors.Is(err, errBusy) || time.Since(began) > 0 {
				t.Errorf("%v after %s", err, time.Since(began))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := h.check(ctx, users, netip.MustParsePrefix("192.0.2.2/32"), "alice", []byte("x"))
			errs <- err
		}()
		synctest.Wait()
		if len(errs) > 0 {
			t.Error("another address is sent away too")
		}
		cancel()
		if err := <-errs; !errors.Is(err, errGone) && !errors.Is(err, errBusy) {
			t.Error(err)
		}
	})
}

// Messages cost what they are long, whatever is in them.
func TestAMessageOfNULsCostsLittle(t *testing.T) {
	r := newRig(t, Config{})
	p := &plainExchange{users: r.of.config.Users, hashing: r.of.hashing}
	for _, size := range []int{tokenBytesMax, 1 << 20} {
		message := make([]byte, size)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := p.step(t.Context(), message); !errors.Is(err, errMalformed) {
			t.Errorf("%v", err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
			t.Errorf("%d NULs cost %d bytes", size, n)
		}
	}
}

// What the file says at the last message of a login counts, not what it said at the first.
func TestUsersChangeInTheMiddleOfALogin(t *testing.T) {
	for _, m := range Passwords {
		u := usersOf(t, "alice", "bob")
		r := newRig(t, Config{Users: func() *Users { return u }})
		var a Answer
		if m == Plain {
			r.handshake(m)
			u = usersOf(t, "bob")
			a = r.token("\x00alice\x00alice's")
		} else {
			a = r.scram(m, "alice", "alice's", func(step int, message string) string {
				if step == 2 {
					u = usersOf(t, "bob")
				}
				return message
			})
		}
		r.failed(a, kerr.SaslAuthenticationFailed.Code)
	}
}

// A client has some seconds for its next message, from when it was told the answer before:
// that may wait behind other answers of the gateway for long.
func TestALoginThatTakesLong(t *testing.T) {
	r := newRig(t, Config{})
	r.handshake(Plain)
	r.clock = r.clock.Add(exchangeMax + time.Second)
	if a := r.token("\x00alice\x00alice's"); !a.Silent || a.Code != 0 || !errors.Is(a.End, ErrFailed) {
		t.Errorf("a message that came too late: %+v", a)
	}
	r = newRig(t, Config{})
	r.Handshake(Plain, r.clock)
	r.clock = r.clock.Add(time.Minute)
	r.Told(r.clock)
	r.clock = r.clock.Add(exchangeMax)
	if a := r.token("\x00alice\x00alice's"); a.End != nil || !r.Through() {
		t.Errorf("the answer to the handshake took a minute: %+v", a)
	}
}

func FuzzLogin(f *testing.F) {
	f.Add(uint8(0), []byte("\x00alice\x00alice's"), []byte{})
	f.Add(uint8(1), []byte("n,,n=alice,r=x"), []byte("c=biws,r=x,p=AAAA"))
	f.Fuzz(func(t *testing.T, mechanism uint8, first, second []byte) {
		u, err := ParseUsers([]byte("x SCRAM-SHA-256 salt=AAAAAAAAAAA=,stored_key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,server_key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,iterations=4096"))
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, Config{Users: func() *Users { return u }})
		r.handshake(Passwords[int(mechanism)%len(Passwords)])
		if a := r.token(string(first)); a.End == nil {
			r.token(string(second))
		}
		if r.Through() { // nobody knows a password of this file
			t.Errorf("%q and %q let somebody in", first, second)
		}
	})
}
