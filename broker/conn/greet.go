package conn

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
)

// greetingBytesMax bounds answers before the connection is trusted.
const greetingBytesMax = 1 << 20

// greet negotiates versions and authenticates, on the bare transport.
func (c *Conn) greet() error {
	if err := c.negotiate(); err != nil {
		return fmt.Errorf("ApiVersions: %w", err)
	}
	if c.config.SASL == nil {
		return nil
	}
	if err := c.authenticate(*c.config.SASL); err != nil {
		return fmt.Errorf("authenticate as %s by %s: %w", c.config.SASL.User, c.config.SASL.Mechanism, err)
	}
	return nil
}

func (c *Conn) negotiate() error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 3
	req.ClientSoftwareName, req.ClientSoftwareVersion = "spillway", "1"
	body, err := c.exchange(req)
	if err != nil {
		return err
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = 3
	// A broker that does not know version 3 answers in version 0 with error
	// 35 (KIP-511), which reads the same up to the error code.
	if len(body) >= 2 && int16(body[0])<<8|int16(body[1]) == kerr.UnsupportedVersion.Code {
		resp.Version, req.Version = 0, 0
		if body, err = c.exchange(req); err != nil {
			return err
		}
	}
	if err := Decode(resp, body); err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	c.versions = make(map[int16]versionRange, len(resp.ApiKeys))
	for _, k := range resp.ApiKeys {
		if k.MinVersion >= 0 && k.MaxVersion >= k.MinVersion {
			c.versions[k.ApiKey] = versionRange{k.MinVersion, k.MaxVersion}
		}
	}
	c.features = make(map[string]int16, len(resp.FinalizedFeatures))
	for _, f := range resp.FinalizedFeatures {
		c.features[f.Name] = f.MaxVersionLevel
	}
	if len(c.versions) == 0 {
		return errors.New("the broker offers nothing")
	}
	return nil
}

// exchange sends one request and reads its answer, before the goroutines run.
func (c *Conn) exchange(req kmsg.Request) ([]byte, error) {
	p := &Pending{key: req.Key(), version: req.GetVersion(), body: [][]byte{req.AppendTo(nil)}}
	w := newWriter(c.transport)
	w.add(p, c.config.ClientID)
	if err := w.flush(); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	frame, err := wire.ReadFrame(c.transport, nil, greetingBytesMax)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	correlation, body, err := wire.ParseResponse(req.Key(), req.GetVersion(), frame)
	if err == nil && correlation != 0 {
		err = fmt.Errorf("%w: answer to request %d", wire.ErrMalformed, correlation)
	}
	return body, err
}
