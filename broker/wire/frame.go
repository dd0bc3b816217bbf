package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Bounds for frames, in bytes without the length prefix.
const (
	// FrameBytesMax is the ceiling for a request and the default of Kafka's
	// socket.request.max.bytes.
	FrameBytesMax = 100 << 20
	// FrameBytesDefault bounds requests of authenticated clients.
	FrameBytesDefault = 16 << 20
	// FrameBytesUnauthenticated bounds requests before authentication.
	FrameBytesUnauthenticated = 128 << 10
	// frameBytesMin is the shortest request header: key, version, correlation id.
	frameBytesMin = 8
)

// growBytes is the first piece of a frame that is allocated, so that a peer which
// only claims a large frame costs little. Once it has come, the rest is allocated in
// one piece, and nothing is copied twice: sessions count what all frames claim before, and
// a site is trusted with bytesMax for each connection.
const growBytes = 64 << 10

// FrameError says why a length prefix was refused. Reason is one of a fixed
// set and fit for a metric label: negative, short, too-large, http, tls, proxy, ssh.
type FrameError struct {
	Reason string
	Length int32
	Max    int
}

func (e *FrameError) Error() string {
	switch e.Reason {
	case "http", "tls", "proxy", "ssh":
		return fmt.Sprintf("frame: the peer speaks %s instead of Kafka's protocol; check port and listener", e.Reason)
	}
	return fmt.Sprintf("frame: length %d is refused (%s); the bound is %d bytes", e.Length, e.Reason, e.Max)
}

// ReadFrame reads one frame without its length prefix into buf if that is
// large enough, else into new memory. Deadlines are the caller's. At the end
// of the stream before a first byte the error is io.EOF, inside a frame
// io.ErrUnexpectedEOF; a refused length is a *FrameError.
func ReadFrame(r io.Reader, buf []byte, bytesMax int) ([]byte, error) {
	var prefix [4]byte
	if cap(buf) >= 4 { // keeps prefix off the heap in the usual case
		if _, err := io.ReadFull(r, buf[:4]); err != nil {
			return nil, err
		}
		copy(prefix[:], buf[:4])
	} else {
		p := make([]byte, 4)
		if _, err := io.ReadFull(r, p); err != nil {
			return nil, err
		}
		copy(prefix[:], p)
	}
	n, err := frameLength(prefix, bytesMax)
	if err != nil {
		return nil, err
	}
	return readBody(r, buf[:0], n)
}

func readBody(r io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		piece := n - len(buf)
		if len(buf) == 0 {
			piece = min(piece, max(growBytes, cap(buf)))
		}
		buf = slices.Grow(buf, piece)
		got, err := io.ReadFull(r, buf[len(buf):len(buf)+piece])
		buf = buf[:len(buf)+got]
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
	return buf, nil
}

func frameLength(prefix [4]byte, bytesMax int) (int, error) {
	length := int32(binary.BigEndian.Uint32(prefix[:]))
	reason := ""
	switch {
	case length < 0:
		reason = "negative"
	case int64(length) > int64(bytesMax):
		reason = foreign(prefix)
	case length < frameBytesMin-4: // an answer may be only a correlation id
		reason = "short"
	}
	if reason != "" {
		return 0, &FrameError{Reason: reason, Length: length, Max: bytesMax}
	}
	return int(length), nil
}

// foreign names the other protocols that are met on a Kafka port. Their first
// bytes read as lengths far above the bound.
func foreign(prefix [4]byte) string {
	switch {
	case prefix[0] >= 0x14 && prefix[0] <= 0x17 && prefix[1] == 3:
		return "tls"
	case string(prefix[:]) == "PROX" || string(prefix[:]) == "\r\n\r\n":
		return "proxy"
	case string(prefix[:]) == "SSH-":
		return "ssh"
	case slices.Contains([]string{"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PRI ", "CONN", "PATC", "HTTP"}, string(prefix[:])):
		return "http"
	}
	return "too-large"
}
