package authentication

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"net/netip"
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
	errGone        = errors.New("the client was not waited for any longer")
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

// plainExchange is RFC 4616.
type plainExchange struct {
	users   func() *Users
	hashing *hashing
	host    netip.Prefix // of the client
}

func (p *plainExchange) step(ctx context.Context, token []byte) ([]byte, *identity, error) {
	if len(token) > tokenBytesMax {
		return nil, nil, errMalformed
	}
	parts := bytes.SplitN(token, []byte{0}, 4)
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 || len(parts[2]) > PasswordBytesMax {
		return nil, nil, errMalformed
	}
	name, password := string(parts[1]), parts[2]
	if as := string(parts[0]); as != "" && as != name {
		return nil, nil, errCredentials // nobody acts for another (CVE-2017-12610)
	}
	switch right, err := p.hashing.check(ctx, p.users(), p.host, name, password); {
	case err != nil:
		return nil, nil, err
	case !right:
		return nil, nil, errCredentials
	}
	return []byte{}, &identity{name: name}, nil
}

// scramExchange is RFC 5802. The library compares nonce and proof whole (CVE-2024-56128).
type scramExchange struct {
	users        func() *Users
	mechanism    string
	conversation *scram.ServerConversation
	asked        credential // that the first answer was made from
	known        bool
	begun        bool
}

func newScramExchange(users func() *Users, mechanism string) (*scramExchange, error) {
	e := &scramExchange{users: users, mechanism: mechanism}
	of := scram.SHA256
	if mechanism == ScramSHA512 {
		of = scram.SHA512
	}
	server, err := of.NewServer(func(name string) (scram.StoredCredentials, error) {
		c, known := e.users().credential(mechanism, name)
		e.asked, e.known = c, known
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
	// The file may have changed between the two messages: the users of now count.
	if now, known := e.users().credential(e.mechanism, name); !known || !hmac.Equal(now.storedKey, e.asked.storedKey) {
		return nil, nil, errCredentials
	}
	return []byte(reply), &identity{name: name}, nil
}
