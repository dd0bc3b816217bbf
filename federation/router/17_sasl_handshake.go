package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authentication"
	"spillway/federation/session"
)

// SaslHandshake (17). v1 says that the tokens come in SaslAuthenticate. v0 is left out:
// behind it they come without a header, as bare frames. (ApiVersions shows it all the same.)
//
// Where clients are not asked it is refused as Kafka does (ILLEGAL_SASL_STATE), and
// the connection stays. Where it begins a login that cannot be, the
// connection ends behind the answer.
var saslHandshakeAPI = api{
	key: authentication.KeySaslHandshake, min: 1, max: 1, needs: -1, sasl: true, begin: (*Client).beginSaslHandshake,
	treatment: answeredHere, about: "Where `gateway.sasl` is given. Version 0 sends tokens without a header and is closed.",
}

func (c *Client) beginSaslHandshake(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrSASLHandshakeRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
	a := c.login.Handshake(req.Mechanism, time.Now())
	resp.ErrorCode, resp.SupportedMechanisms = a.Code, c.login.Mechanisms()
	return c.loginAnswer(sreq, a, resp), nil
}

// loginAnswer waits if it is a failure, so that passwords are not tried fast, and ends the
// connection behind it.
func (c *Client) loginAnswer(sreq session.Request, a authentication.Answer, resp kmsg.Response) session.Answer {
	return func(ctx context.Context) ([]byte, error) {
		if a.End == nil {
			sreq.AfterWrite(func(error) { c.login.Told(time.Now()) })
			return resp.AppendTo([]byte{}), nil
		}
		if a.Silent {
			return nil, loginFault(a.End)
		}
		select {
		case <-time.After(a.Wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return resp.AppendTo([]byte{}), loginFault(a.End)
	}
}
