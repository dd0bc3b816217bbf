package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"spillway/broker/wire"
	"spillway/broker/wire/wiretest"
)

func prefixed(length uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), body...)
}

// The hostile shapes of frames (reliability 3.2); the numbers are its rows.
func TestHostileFrames(t *testing.T) {
	for name, c := range map[string]struct {
		input  []byte
		reason string // of a FrameError, or "cut"
	}{
		"1: length 2^31-1":           {prefixed(0x7fffffff), "too-large"},
		"2: length -1":               {prefixed(0xffffffff), "negative"},
		"2: length -2^31":            {prefixed(0x80000000), "negative"},
		"3: length 0":                {prefixed(0), "short"},
		"3: length 1":                {prefixed(1, 0), "short"},
		"4: one byte over the bound": {prefixed(1<<20 + 1), "too-large"},
		"5: three bytes of a length": {[]byte{0, 0, 1}, "cut"},
		"6: half a body":             {prefixed(100, make([]byte, 50)...), "cut"},
		"7: HTTP":                    {[]byte("GET / HTTP/1.1\r\n\r\n"), "http"},
		"7: HTTP/2":                  {[]byte("PRI * HTTP/2.0"), "http"},
		"8: TLS hello":               {[]byte{0x16, 3, 1, 2, 0, 1}, "tls"},
		"8: TLS alert":               {[]byte{0x15, 3, 3, 0, 2, 1, 0}, "tls"},
		"10: PROXY version 1":        {[]byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"), "proxy"},
		"10: PROXY version 2":        {[]byte("\r\n\r\n\x00\r\nQUIT\n"), "proxy"},
		"11: SSH":                    {[]byte("SSH-2.0-OpenSSH_9.2\r\n"), "ssh"},
		"11: random bytes":           {[]byte{0x9c, 0x11, 0x4e, 0x00}, "negative"},
	} {
		_, err := wire.ReadFrame(bytes.NewReader(c.input), nil, 1<<20)
		var refused *wire.FrameError
		switch {
		case c.reason == "cut":
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.As(err, &refused) || refused.Reason != c.reason:
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := wire.ReadFrame(strings.NewReader(""), nil, 100); err != io.EOF {
		t.Errorf("an end between frames: %v", err)
	}
}

func TestFramesUpToTheBoundAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const bound = 300 << 10
		want := bytes.Repeat([]byte{7}, rapid.IntRange(4, bound).Draw(t, "size"))
		var r io.Reader = bytes.NewReader(prefixed(uint32(len(want)), want...))
		if rapid.Bool().Draw(t, "in pieces") {
			r = iotest.HalfReader(r)
		}
		got, err := wire.ReadFrame(r, make([]byte, rapid.IntRange(0, bound).Draw(t, "buffer")), bound)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
		}
	})
}

// Invariant A: a peer that claims 100 MiB and sends little costs little.
func TestAClaimAloneAllocatesLittle(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := wire.ReadFrame(bytes.NewReader(prefixed(wire.FrameBytesMax, make([]byte, 1000)...)), nil, wire.FrameBytesMax)
	runtime.ReadMemStats(&after)
	if cost := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, io.ErrUnexpectedEOF) || cost > 256<<10 {
		t.Errorf("%d bytes allocated, %v", cost, err)
	}
}

func TestRequestHeaders(t *testing.T) {
	wiretest.Every(func(kind string, m wiretest.Message) {
		req, ok := m.(kmsg.Request)
		if !ok || req.Key() == 7 { // ControlledShutdown v0 has a header of its own; no client sends it
			return
		}
		frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("a client")).AppendRequest(nil, req, 42)[4:]
		h, body, err := wire.ParseRequest(frame)
		if err != nil || h.Key != req.Key() || h.Version != req.GetVersion() || h.CorrelationID != 42 || h.ClientID != "a client" || !bytes.Equal(body, req.AppendTo(nil)) {
			t.Fatalf("%T v%d: %+v, %v", req, req.GetVersion(), h, err)
		}
		if ours := wire.AppendRequestHeader(nil, h.Key, h.Version, 42, "a client"); !bytes.Equal(ours, frame[:len(frame)-len(body)]) {
			t.Fatalf("%T v%d: header %x, kmsg writes %x", req, req.GetVersion(), ours, frame[:len(frame)-len(body)])
		}
		if flexible := wire.Flexible(h.Key, h.Version); flexible != req.IsFlexible() {
			t.Fatalf("%T v%d: flexible %v", req, req.GetVersion(), flexible)
		}
		answer := wire.AppendResponseHeader(nil, h.Key, h.Version, 42)
		if id, rest, err := wire.ParseResponse(h.Key, h.Version, append(answer, 1, 2)); err != nil || id != 42 || !bytes.Equal(rest, []byte{1, 2}) {
			t.Fatalf("%T v%d: response header %x, %v", req, req.GetVersion(), rest, err)
		}
	})
}

func TestHostileHeaders(t *testing.T) {
	header := func(key, version int16, rest ...byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(append(b, 0, 0, 0, 1), rest...)
	}
	for name, frame := range map[string][]byte{
		"3: seven bytes":                      make([]byte, 7),
		"12: key 32767":                       header(32767, 0, 0xff, 0xff),
		"12: key -1":                          header(-1, 0, 0xff, 0xff),
		"13: version -1":                      header(3, -1, 0xff, 0xff),
		"23: client id longer than the frame": header(3, 1, 0x7f, 0xff, 'a'),
		"23: client id of length -2":          header(3, 1, 0xff, 0xfe),
		"23: client id of 5,000 bytes":        header(3, 1, append([]byte{0x13, 0x88}, make([]byte, 5000)...)...),
		"24: 4 billion tagged fields":         header(3, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"no client id":                        header(3, 1),
	} {
		if h, _, err := wire.ParseRequest(frame); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	// Row 13: a version from the future of ApiVersions is to be answered.
	if h, _, err := wire.ParseRequest(header(18, 32767, 0xff, 0xff, 0)); err != nil || h.Version != 32767 || h.HasClientID {
		t.Errorf("ApiVersions from the future: %+v, %v", h, err)
	}
	// Row 23: what a client calls itself may be anything.
	if h, _, err := wire.ParseRequest(header(3, 1, 0, 3, 0xff, '\n', 0x1b)); err != nil || h.ClientID != "\xff\n\x1b" {
		t.Errorf("client id %q, %v", h.ClientID, err)
	}
}

// FuzzFrame: whatever comes, a frame is read or refused, and costs little more than
// what came of it.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(prefixed(0x7fffffff))
	f.Add(prefixed(0xffffffff))
	f.Add(prefixed(3, 1, 2, 3))
	f.Add(prefixed(8, make([]byte, 8)...))
	f.Add(prefixed(wire.FrameBytesMax, 1, 2))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		frame, err := wire.ReadFrame(r, nil, wire.FrameBytesMax)
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > allocationBaseMax+8*uint64(len(stream)) {
			t.Fatalf("%d bytes cost %d", len(stream), cost)
		}
		if err == nil && (len(frame) != int(binary.BigEndian.Uint32(stream)) || !bytes.Equal(frame, stream[4:4+len(frame)])) {
			t.Fatalf("frame of %d bytes", len(frame))
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(wire.AppendRequestHeader(nil, 3, 9, 1, "a"))
	f.Add(wire.AppendRequestHeader(nil, 18, 0, 1, ""))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, body, err := wire.ParseRequest(frame)
		if err == nil && len(body) > len(frame) {
			t.Fatalf("%+v", h)
		}
		_, _, _ = wire.ParseResponse(3, 9, frame)
	})
}
