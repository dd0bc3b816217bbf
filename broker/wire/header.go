package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ErrMalformed is the sentinel below every refusal of a header or body.
var ErrMalformed = errors.New("malformed message")

// API keys with rules of their own.
const (
	keyControlledShutdown = 7
	keyAPIVersions        = 18
)

// ClientIDBytesMax bounds the client id that ParseRequest accepts.
const ClientIDBytesMax = 4096

// api is what kmsg knows of a key.
type api struct {
	max      int16 // highest version, −1 for a key that is not known
	flexible int16 // first flexible version, or max+1
}

var apis = func() []api {
	table := make([]api, kmsg.MaxKey+1)
	for key := range table {
		table[key] = api{max: -1}
		req := kmsg.RequestForKey(int16(key))
		if req == nil {
			continue
		}
		table[key].max = req.MaxVersion()
		for v := int16(0); ; v++ {
			req.SetVersion(v)
			if req.IsFlexible() || v > req.MaxVersion() {
				table[key].flexible = v
				break
			}
		}
	}
	return table
}()

// MaxVersion is the highest version of a key that this package can check, or
// −1 if it does not know the key.
func MaxVersion(key int16) int16 {
	if key < 0 || int(key) >= len(apis) {
		return -1
	}
	return apis[key].max
}

// Flexible tells whether bodies of a version use compact lengths and tags (KIP-482).
func Flexible(key, version int16) bool {
	return MaxVersion(key) >= 0 && version >= apis[key].flexible
}

// RequestHeader is the header of a request.
type RequestHeader struct {
	Key           int16
	Version       int16
	CorrelationID int32
	ClientID      string // as sent: escape it before logging, never use it as a label
	HasClientID   bool   // false: null
}

// ParseRequest reads the header of a request frame and returns the body. Keys
// that are not known are refused. A version above MaxVersion is not: of
// ApiVersions clients may send any, to be answered with error 35 (KIP-511).
func ParseRequest(frame []byte) (h RequestHeader, body []byte, err error) {
	if len(frame) < frameBytesMin {
		return h, nil, fmt.Errorf("%w: %d bytes are less than a request header", ErrMalformed, len(frame))
	}
	be := binary.BigEndian
	h.Key, h.Version = int16(be.Uint16(frame)), int16(be.Uint16(frame[2:]))
	h.CorrelationID = int32(be.Uint32(frame[4:]))
	if MaxVersion(h.Key) < 0 || h.Version < 0 {
		return h, nil, fmt.Errorf("%w: key %d version %d is not known", ErrMalformed, h.Key, h.Version)
	}
	c := cursor{rest: frame[8:]}
	if h.Key == keyControlledShutdown && h.Version == 0 {
		return h, c.rest, nil
	}
	if n := int(c.int16()); n >= 0 {
		h.ClientID, h.HasClientID = string(c.take(min(n, ClientIDBytesMax+1))), true
		if n > ClientIDBytesMax {
			c.fail("client id of more than %d bytes", ClientIDBytesMax)
		}
	} else if n < -1 {
		c.fail("client id of length %d", n)
	}
	if Flexible(h.Key, h.Version) {
		var tags tagBudget
		c.tags(&tags, nil)
	}
	if c.err != nil {
		return h, nil, fmt.Errorf("request header of key %d version %d: %w", h.Key, h.Version, c.err)
	}
	return h, c.rest, nil
}

// AppendRequestHeader appends a request header without length prefix.
func AppendRequestHeader(b []byte, key, version int16, correlationID int32, clientID string) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, uint16(key))
	b = be.AppendUint16(b, uint16(version))
	b = be.AppendUint32(b, uint32(correlationID))
	b = be.AppendUint16(b, uint16(len(clientID)))
	b = append(b, clientID...)
	if Flexible(key, version) {
		b = append(b, 0)
	}
	return b
}

// AppendResponseHeader appends a response header without length prefix.
// ApiVersions is answered without tags in all versions (KIP-511).
func AppendResponseHeader(b []byte, key, version int16, correlationID int32) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(correlationID))
	if Flexible(key, version) && key != keyAPIVersions {
		b = append(b, 0)
	}
	return b
}

// ParseResponse reads the header of the frame that answers a request of this
// key and version, and returns the body.
func ParseResponse(key, version int16, frame []byte) (correlationID int32, body []byte, err error) {
	if len(frame) < 4 {
		return 0, nil, fmt.Errorf("%w: %d bytes are less than a response header", ErrMalformed, len(frame))
	}
	correlationID = int32(binary.BigEndian.Uint32(frame))
	c := cursor{rest: frame[4:]}
	if Flexible(key, version) && key != keyAPIVersions {
		var tags tagBudget
		c.tags(&tags, nil)
	}
	if c.err != nil {
		return correlationID, nil, fmt.Errorf("response header of key %d version %d: %w", key, version, c.err)
	}
	return correlationID, c.rest, nil
}
