package authentication

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Why a connection ends.
var (
	ErrFailed          = errors.New("the login failed")
	ErrUnauthenticated = errors.New("the client has not said who it is")
	ErrExpired         = errors.New("the login was not renewed in time")
)

// Keys that the state of a login depends on.
const (
	KeySaslHandshake    int16 = 17
	KeyAPIVersions      int16 = 18
	KeySaslAuthenticate int16 = 36
)

// requestsMax bounds what is answered before a login is over (invariant A).
const requestsMax = 32

// renewEvery is how often a connection may renew its login: each is work.
const renewEvery = time.Second

// exchangeMax is how long a client may take from an answer to its next message. The time
// before the answer is the gateway's own: a renewal waits behind all that was asked before.
const exchangeMax = 10 * time.Second

// Answer is what a step of a login leads to.
type Answer struct {
	Code     int16 // of Kafka's errors
	Message  string
	Token    []byte
	Lifetime time.Duration // of the session that begins; 0: no end
	Wait     time.Duration // before it is told
	End      error         // not nil: the connection ends behind it
	Silent   bool          // nothing is told before: clients try again only then
}

// Login is what is known of one connection's client.
type Login struct {
	of   *Authenticator
	host netip.Prefix // of the client

	principal atomic.Pointer[Principal] // nil until it is through
	told      atomic.Int64              // when the last answer was written, in nanoseconds; 0: it was not yet

	// Owned by who begins the requests.
	mechanism string // of the login that is through
	asked     string // of the one under way
	exchange  exchange
	requests  int
	expires   time.Time // of the session; zero: never
	began     time.Time // of the session
	ended     error
}

// Through tells whether the client said who it is, or need not.
func (l *Login) Through() bool { return l.principal.Load() != nil }

// Principal of the client; empty until it is through.
func (l *Login) Principal() Principal {
	if p := l.principal.Load(); p != nil {
		return *p
	}
	return ""
}

// Admit tells whether a request may be begun that came at a time, or why the connection
// has to end. The steps of a login say themselves what is wrong with them.
func (l *Login) Admit(key int16, came time.Time) error {
	switch {
	case l.ended != nil:
		return l.ended
	case !l.Through():
		if l.requests++; l.requests > requestsMax {
			return fmt.Errorf("%w after %d requests", ErrUnauthenticated, requestsMax)
		}
		if key == KeySaslHandshake || key == KeySaslAuthenticate || key == KeyAPIVersions && l.exchange == nil {
			return nil
		}
		return fmt.Errorf("%w and asks for API key %d", ErrUnauthenticated, key)
	case key == KeySaslHandshake || key == KeySaslAuthenticate:
		return nil
	case l.exchange != nil: // as Kafka: nothing in the middle of a renewal
		return fmt.Errorf("%w anew and asks for API key %d", ErrUnauthenticated, key)
	case !l.expires.IsZero() && came.After(l.expires):
		return ErrExpired
	}
	return nil
}

// Handshake begins a login, or its renewal, by a mechanism.
func (l *Login) Handshake(mechanism string, now time.Time) Answer {
	through := l.Through()
	switch {
	case !l.of.Offers():
		return illegal("clients are not asked for SASL here")
	case l.exchange != nil:
		return l.failed(OutcomeOrder, illegal("a login is under way"))
	case through && l.expires.IsZero(), through && now.Sub(l.began) < renewEvery: // as Kafka: no harm is done
		return illegal("the login needs no renewal yet")
	case !slices.Contains(l.of.config.Mechanisms, mechanism):
		return l.failed(OutcomeMechanism, Answer{Code: kerr.UnsupportedSaslMechanism.Code})
	}
	l.asked = mechanism
	if through && mechanism != l.mechanism { // invariant C
		return l.failed(OutcomeMechanism, Answer{Code: kerr.UnsupportedSaslMechanism.Code})
	}
	var err error
	if l.exchange, err = l.of.begin(mechanism, l.host); err != nil {
		return l.failed(OutcomeMechanism, Answer{Code: kerr.UnsupportedSaslMechanism.Code})
	}
	l.told.Store(0)
	return Answer{}
}

// Told notes that the answer to a step was written.
func (l *Login) Told(now time.Time) { l.told.Store(now.UnixNano()) }

// late tells whether a message that came at a time took too long.
func (l *Login) late(came time.Time) bool {
	told := l.told.Load()
	return told > 0 && came.Sub(time.Unix(0, told)) > exchangeMax
}

// Mechanisms is what a handshake may ask for.
func (l *Login) Mechanisms() []string {
	if !l.of.Offers() {
		return nil
	}
	return l.of.config.Mechanisms
}

// Authenticate takes a message of the mechanism that came at a time.
func (l *Login) Authenticate(ctx context.Context, token []byte, came time.Time, now func() time.Time) Answer {
	if l.exchange == nil {
		a := illegal("a handshake comes first")
		if l.Through() {
			return a
		}
		return l.failed(OutcomeOrder, a)
	}
	if l.late(came) {
		a := l.failed(OutcomeOrder, Answer{})
		a.Silent = true // clients take a refusal for final, and this is none
		return a
	}
	l.told.Store(0)
	reply, who, err := l.exchange.step(ctx, token)
	switch {
	case errors.Is(err, errGone):
		l.ended = fmt.Errorf("%w: %w", ErrUnauthenticated, err)
		return Answer{End: l.ended, Silent: true}
	case errors.Is(err, errBusy):
		a := l.failed(outcomeOf(err), Answer{})
		a.Silent = true
		return a
	case err != nil:
		return l.failed(outcomeOf(err), Answer{Code: kerr.SaslAuthenticationFailed.Code, Message: refusal(l.asked)})
	}
	if who == nil {
		return Answer{Token: reply}
	}
	l.exchange = nil
	principal, outcome := userPrincipal(who.name), OutcomeSuccess
	if l.Through() {
		if principal != l.Principal() { // invariant C
			return l.failed(OutcomePrincipal, Answer{Code: kerr.SaslAuthenticationFailed.Code, Message: "a connection cannot change its principal"})
		}
		outcome = OutcomeRenewed
	}
	l.began, l.mechanism = now(), l.asked
	lifetime := l.of.config.SessionLifetime
	if !who.until.IsZero() {
		left := max(time.Millisecond, who.until.Sub(l.began))
		if lifetime <= 0 || left < lifetime {
			lifetime = left
		}
	}
	if l.expires = (time.Time{}); lifetime > 0 {
		l.expires = l.began.Add(lifetime)
	}
	l.principal.Store(&principal)
	l.of.count(l.mechanism, outcome)
	return Answer{Token: reply, Lifetime: max(0, lifetime)}
}

// failed ends the login, and with it the connection.
func (l *Login) failed(outcome string, a Answer) Answer {
	mechanism := l.asked
	if mechanism == "" {
		mechanism = none
	}
	l.of.count(mechanism, outcome)
	l.ended = fmt.Errorf("%w: %s: %s", ErrFailed, mechanism, outcome)
	a.Wait, a.End = l.of.config.FailureDelay, l.ended
	return a
}

func illegal(why string) Answer {
	return Answer{Code: kerr.IllegalSaslState.Code, Message: why}
}

// refusal is the same for all that can be wrong (invariant B), in Kafka's words.
func refusal(mechanism string) string {
	return "Authentication failed during authentication due to invalid credentials with SASL mechanism " + mechanism
}
