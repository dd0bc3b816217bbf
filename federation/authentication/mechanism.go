package authentication

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/xdg-go/scram"
)

// tokenBytesMax bounds one message of PLAIN or SCRAM.
const tokenBytesMax = 4 << 10

// exchange is one login under way.
type exchange interface {
	// step takes a message. reply is the answer, who is set when it is over.
	step(ctx context.Context, token []byte) (reply []byte, who *identity, err error)
}

// identity is what an exchange found out.
type identity struct {
	name  string
	until time.Time // what it rests on ends then; zero: never
}

// Why a login failed. They are told to nobody but the counters.
var (
	errMalformed   = errors.New("a message of the mechanism cannot be read")
	errCredentials = errors.New("wrong user or password")
	errBusy        = errors.New("too many passwords are checked at once")
)

// outcomeOf names the reasons by which failures are counted.
func outcomeOf(err error) string {
	switch {
	case errors.Is(err, errMalformed):
		return OutcomeMalformed
	case errors.Is(err, errBusy):
		return OutcomeBusy
	case errors.Is(err, errExpiredToken):
		return OutcomeExpired
	case errors.Is(err, errUnknownKey):
		return OutcomeKey
	}
	return OutcomeCredentials
}

// hashing bounds how many passwords are checked at a time: it is work that anybody can
// ask for. hashWaitMax bounds the wait for it.
const hashWaitMax = 5 * time.Second

func newHashing() chan struct{} { return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)) }

// plainExchange is RFC 4616.
type plainExchange struct {
	users   *Users
	hashing chan struct{}
}

func (p *plainExchange) step(ctx context.Context, token []byte) ([]byte, *identity, error) {
	parts := bytes.Split(token, []byte{0})
	if len(token) > tokenBytesMax || len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 || len(parts[2]) > PasswordBytesMax {
		return nil, nil, errMalformed
	}
	name, password := string(parts[1]), parts[2]
	if as := string(parts[0]); as != "" && as != name {
		return nil, nil, errCredentials // nobody acts for another (CVE-2017-12610)
	}
	if !p.users.remembered(name, password) {
		ctx, cancel := context.WithTimeout(ctx, hashWaitMax)
		defer cancel()
		select {
		case p.hashing <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, errBusy
		}
		right := p.users.check(name, password)
		<-p.hashing
		if !right {
			return nil, nil, errCredentials
		}
	}
	return []byte{}, &identity{name: name}, nil
}

// scramExchange is RFC 5802. The library compares nonce and proof whole (CVE-2024-56128).
type scramExchange struct {
	conversation *scram.ServerConversation
	known        bool
	begun        bool
}

func newScramExchange(users *Users, mechanism string) (*scramExchange, error) {
	e := &scramExchange{}
	of := scram.SHA256
	if mechanism == ScramSHA512 {
		of = scram.SHA512
	}
	server, err := of.NewServer(func(name string) (scram.StoredCredentials, error) {
		c, known := users.credential(mechanism, name)
		e.known = known
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(c.salt), Iters: c.iterations},
			StoredKey:  c.storedKey, ServerKey: c.serverKey,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	e.conversation = server.NewConversation()
	return e, nil
}

func (e *scramExchange) step(_ context.Context, token []byte) ([]byte, *identity, error) {
	if len(token) > tokenBytesMax {
		return nil, nil, errMalformed
	}
	reply, err := e.conversation.Step(string(token))
	switch {
	case err != nil && reply == "":
		return nil, nil, errMalformed
	case err != nil:
		return nil, nil, errCredentials
	}
	name := e.conversation.Username()
	if as := e.conversation.AuthzID(); as != "" && as != name {
		return nil, nil, errCredentials
	}
	if !e.begun {
		e.begun = true
		return []byte(reply), nil, nil
	}
	if !e.conversation.Valid() || !e.known {
		return nil, nil, errCredentials
	}
	return []byte(reply), &identity{name: name}, nil
}
