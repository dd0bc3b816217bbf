package router

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authentication"
	"spillway/federation/session"
)

// SaslAuthenticate (36). v1 tells how long the session lasts (KIP-368), v2 flexible. A
// client of v0 is not told and is closed when its session is over, as by a broker.
var saslAuthenticateAPI = api{
	key: authentication.KeySaslAuthenticate, min: 0, max: 2, needs: -1, sasl: true, begin: (*Client).beginSaslAuthenticate,
	treatment: answeredHere, about: "Where `gateway.sasl` is given: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER.",
}

func (c *Client) beginSaslAuthenticate(ctx context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	a := c.login.Authenticate(ctx, req.SASLAuthBytes, sreq.CameAt(), time.Now)
	if a.End == nil && c.login.Through() && !c.Enter() { // told nothing: clients come again
		return nil, session.Close(session.ReasonPrincipal, nil)
	}
	resp.ErrorCode, resp.SASLAuthBytes, resp.SessionLifetimeMillis = a.Code, a.Token, a.Lifetime.Milliseconds()
	if resp.SASLAuthBytes == nil {
		resp.SASLAuthBytes = []byte{}
	}
	if a.Message != "" {
		resp.ErrorMessage = &a.Message
	}
	return c.loginAnswer(sreq, a, resp), nil
}

// loginFault gives a connection that ends for its login a reason.
func loginFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, authentication.ErrUnauthenticated):
		return session.Close(session.ReasonNoLogin, err)
	case errors.Is(err, authentication.ErrExpired):
		return session.Close(session.ReasonExpired, err)
	}
	return session.Close(session.ReasonLogin, err)
}
