package session

import (
	"context"
	"errors"
	"fmt"
)

// Reason says why a connection ended. The set is fixed, so it is fit for a
// metric label.
type Reason string

// Reasons. A refused frame adds "frame-" and the reason of wire.FrameError.
const (
	ReasonClient     Reason = "client"                // the client closed or reset it
	ReasonNoGreeting Reason = "no-greeting"           // the first request began, and little of it came within GreetMax
	ReasonIdle       Reason = "idle"                  // no request for IdleMax
	ReasonTruncated  Reason = "truncated"             // the stream ended inside a frame
	ReasonSlowFrame  Reason = "slow-frame"            // a frame took longer than FrameMax
	ReasonSlowReader Reason = "slow-reader"           // an answer was not taken within WriteMax
	ReasonHeader     Reason = "header"                // the request header cannot be read
	ReasonUnknownAPI Reason = "unknown-api"           // a key that is not served
	ReasonVersion    Reason = "version"               // a version that is not served
	ReasonMalformed  Reason = "malformed"             // the body cannot be read
	ReasonTooMany    Reason = "too-many"              // a request names more than is served in one
	ReasonRefused    Reason = "refused"               // a request without an answer could not be served (acks 0)
	ReasonUpstream   Reason = "upstream"              // the site closed the connection of a request without an answer
	ReasonNoLogin    Reason = "unauthenticated"       // the client did not say who it is, in time or before it asked
	ReasonLogin      Reason = "authentication"        // what it said was not accepted
	ReasonExpired    Reason = "session-expired"       // the login was not renewed in time
	ReasonPrincipal  Reason = "too-many-of-principal" // the client's principal has as many connections as it may
	ReasonDrained    Reason = "drained"               // the gateway leaves
	ReasonShutdown   Reason = "shutdown"              // the gateway ends
	ReasonInternal   Reason = "internal"              // anything else
)

type closeError struct {
	reason Reason
	err    error
}

func (e *closeError) Error() string {
	if e.err == nil {
		return string(e.reason)
	}
	return fmt.Sprintf("%s: %v", e.reason, e.err)
}

func (e *closeError) Unwrap() error { return e.err }

// Close makes the error with which a handler ends a connection.
func Close(reason Reason, err error) error { return &closeError{reason, err} }

// ReasonOf an error. Without one of its own it is ReasonShutdown for a context
// that ended, since every other end sets its reason first, else ReasonInternal.
func ReasonOf(err error) Reason {
	var c *closeError
	if errors.As(err, &c) {
		return c.reason
	}
	if errors.Is(err, context.Canceled) {
		return ReasonShutdown
	}
	return ReasonInternal
}
