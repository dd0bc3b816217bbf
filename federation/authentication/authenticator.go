package authentication

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Passwords are the mechanisms that need Users, Mechanisms all that can be asked for.
var (
	Passwords  = []string{Plain, ScramSHA256, ScramSHA512}
	Mechanisms = append(slices.Clone(Passwords), OAuthBearer)
)

// Config is how clients are asked who they are.
type Config struct {
	Mechanisms []string      // of SASL, best first; empty: clients are not asked
	Users      func() *Users // those of now; for Passwords
	Tokens     *Tokens       // for OAuthBearer
	// SessionLifetime is how long a login is good for; then the client logs in again on the
	// same connection (KIP-368). A certificate is good for it too, and no longer than until
	// it runs out. 0: as long as the connection.
	SessionLifetime time.Duration
	// FailureDelay passes before a failure is answered; default 100 ms.
	FailureDelay time.Duration
	// Authenticated: a login ended. The mechanism is one of Mechanisms, Certificate or
	// none, the outcome one of the Outcomes: both are fit for labels. A nil func is skipped.
	Authenticated func(mechanism, outcome string)
}

// Certificate stands for the mechanism where a certificate says who a client is, none
// where the client named none that is served.
const (
	Certificate = "certificate"
	none        = "none"
)

// Outcomes of logins.
const (
	OutcomeSuccess     = "success"
	OutcomeRenewed     = "renewed"     // on the same connection, before its session was over
	OutcomeCredentials = "credentials" // wrong user or password
	OutcomeMalformed   = "malformed"   // a message that cannot be read, or a subject
	OutcomeMechanism   = "mechanism"   // one that is not served, or another one than before
	OutcomePrincipal   = "principal"   // another one than before
	OutcomeOrder       = "order"       // a step of SASL at the wrong time
	OutcomeExpired     = "expired"     // a token has run out, or is not good yet
	OutcomeKey         = "key"         // a token is signed by a key that is not known
	OutcomeBusy        = "busy"        // too many passwords to check at once; it is not answered
)

// Authenticator asks the clients of one gateway. Nil: it takes what certificates say, and
// asks nobody.
type Authenticator struct {
	config  Config
	hashing *hashing
}

// New checks the configuration.
func New(c Config) (*Authenticator, error) {
	for _, m := range c.Mechanisms {
		if !slices.Contains(Mechanisms, m) {
			return nil, fmt.Errorf("mechanism %q is none of %s", m, strings.Join(Mechanisms, ", "))
		}
	}
	if c.Users == nil && slices.ContainsFunc(c.Mechanisms, func(m string) bool { return slices.Contains(Passwords, m) }) {
		return nil, errors.New("users are required")
	}
	if slices.Contains(c.Mechanisms, OAuthBearer) {
		if c.Tokens == nil {
			return nil, errors.New("tokens are required")
		}
		tokens, err := c.Tokens.check()
		if err != nil {
			return nil, err
		}
		c.Tokens = &tokens
	}
	if c.FailureDelay <= 0 {
		c.FailureDelay = 100 * time.Millisecond
	}
	return &Authenticator{config: c, hashing: newHashing()}, nil
}

// Offers tells whether clients are asked by SASL.
func (a *Authenticator) Offers() bool { return a != nil && len(a.config.Mechanisms) > 0 }

func (a *Authenticator) count(mechanism, outcome string) {
	if a != nil && a.config.Authenticated != nil {
		a.config.Authenticated(mechanism, outcome)
	}
}

// Connect begins a connection. Its handshake is over if it is one of TLS.
func (a *Authenticator) Connect(c net.Conn) *Login {
	l := &Login{of: a, host: HostOf(c.RemoteAddr())}
	switch secured, ok := c.(*tls.Conn); {
	case a.Offers():
		return l // as in Kafka, the certificate says nothing then
	case ok && len(secured.ConnectionState().PeerCertificates) > 0:
		shown := secured.ConnectionState().PeerCertificates[0]
		who, err := certificatePrincipal(shown)
		if err != nil {
			a.count(Certificate, OutcomeMalformed)
			l.ended = fmt.Errorf("%w: %w", ErrFailed, err)
			return l
		}
		a.count(Certificate, OutcomeSuccess)
		l.expires = shown.NotAfter
		if a != nil && a.config.SessionLifetime > 0 {
			if by := time.Now().Add(a.config.SessionLifetime); by.Before(l.expires) {
				l.expires = by
			}
		}
		l.principal.Store(&who)
	default:
		who := Anonymous
		l.principal.Store(&who)
	}
	return l
}

func (a *Authenticator) begin(mechanism string, host netip.Prefix) (exchange, error) {
	switch mechanism {
	case Plain:
		return &plainExchange{users: a.config.Users, hashing: a.hashing, host: host}, nil
	case OAuthBearer:
		return &bearerExchange{tokens: *a.config.Tokens}, nil
	}
	return newScramExchange(a.config.Users, mechanism)
}
