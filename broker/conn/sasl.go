package conn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/xdg-go/scram"
)

// SCRAM iteration counts that are accepted from a broker: fewer weaken the
// password, more only burn time.
const (
	scramIterationsMin = 4096
	scramIterationsMax = 1_000_000
)

func (c *Conn) authenticate(s SASL) error {
	handshake := kmsg.NewPtrSASLHandshakeRequest()
	handshake.Version = 1
	handshake.Mechanism = s.Mechanism
	body, err := c.exchange(handshake)
	if err != nil {
		return err
	}
	offer := kmsg.NewPtrSASLHandshakeResponse()
	offer.Version = 1
	if err := Decode(offer, body); err != nil {
		return err
	}
	if err := kerr.ErrorForCode(offer.ErrorCode); err != nil {
		return fmt.Errorf("%w; the broker offers %s", err, strings.Join(offer.SupportedMechanisms, ", "))
	}
	switch s.Mechanism {
	case "PLAIN":
		_, err := c.token([]byte("\x00" + s.User + "\x00" + s.Password))
		return err
	case "SCRAM-SHA-256":
		return c.scram(s, scram.SHA256)
	case "SCRAM-SHA-512":
		return c.scram(s, scram.SHA512)
	}
	return errors.New("the mechanism is not known; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
}

func (c *Conn) scram(s SASL, hash scram.HashGeneratorFcn) error {
	client, err := hash.NewClient(s.User, s.Password, "")
	if err != nil {
		return err
	}
	talk := client.WithMinIterations(scramIterationsMin).NewConversation()
	challenge := ""
	for !talk.Done() {
		answer, err := talk.Step(challenge)
		if err != nil {
			return err
		}
		if talk.Done() {
			break
		}
		reply, err := c.token([]byte(answer))
		if err != nil {
			return err
		}
		challenge = string(reply)
		if n := iterations(challenge); n > scramIterationsMax {
			return fmt.Errorf("the broker asks for %d iterations, at most %d", n, scramIterationsMax)
		}
	}
	if !talk.Valid() {
		return errors.New("the broker did not prove that it knows the password")
	}
	return nil
}

// iterations reads i= of a server's first message, 0 if there is none.
func iterations(message string) int {
	for field := range strings.SplitSeq(message, ",") {
		if digits, ok := strings.CutPrefix(field, "i="); ok {
			n, err := strconv.Atoi(digits)
			if err != nil {
				return scramIterationsMax + 1
			}
			return n
		}
	}
	return 0
}

func (c *Conn) token(bytes []byte) ([]byte, error) {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.Version = max(0, min(c.MaxVersion(req.Key()), req.MaxVersion()))
	req.SASLAuthBytes = bytes
	body, err := c.exchange(req)
	if err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	if err := Decode(resp, body); err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		if resp.ErrorMessage != nil {
			return nil, fmt.Errorf("%w: %s", err, *resp.ErrorMessage)
		}
		return nil, err
	}
	return resp.SASLAuthBytes, nil
}
