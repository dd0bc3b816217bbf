package authentication

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Mechanisms lists what can be asked for.
var Mechanisms = []string{Plain, ScramSHA256, ScramSHA512}

// Config is how clients are asked who they are.
type Config struct {
	Mechanisms []string      // of SASL, best first; empty: clients are not asked
	Users      func() *Users // those of now; for all mechanisms
	// SessionLifetime is how long a login is good for; then the client logs in again on the
	// same connection (KIP-368). 0: as long as the connection.
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
	OutcomeBusy        = "busy"        // too many passwords to check at once
)

// Authenticator asks the clients of one gateway. Nil: it takes what certificates say, and
// asks nobody.
type Authenticator struct {
	config  Config
	hashing chan struct{}
}

// New checks the configuration.
func New(c Config) (*Authenticator, error) {
	for _, m := range c.Mechanisms {
		if !slices.Contains(Mechanisms, m) {
			return nil, fmt.Errorf("mechanism %q is none of %s", m, strings.Join(Mechanisms, ", "))
		}
	}
	if len(c.Mechanisms) > 0 && c.Users == nil {
		return nil, errors.New("users are required")
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
	l := &Login{of: a}
	switch secured, ok := c.(*tls.Conn); {
	case a.Offers():
		return l // as in Kafka, the certificate says nothing then
	case ok && len(secured.ConnectionState().PeerCertificates) > 0:
		who, err := certificatePrincipal(secured.ConnectionState().PeerCertificates[0])
		if err != nil {
			a.count(Certificate, OutcomeMalformed)
			l.ended = fmt.Errorf("%w: %w", ErrFailed, err)
			return l
		}
		a.count(Certificate, OutcomeSuccess)
		l.principal.Store(&who)
	default:
		who := Anonymous
		l.principal.Store(&who)
	}
	return l
}

func (a *Authenticator) begin(mechanism string) (exchange, error) {
	if mechanism == Plain {
		return &plainExchange{users: a.config.Users(), hashing: a.hashing}, nil
	}
	return newScramExchange(a.config.Users(), mechanism)
}
