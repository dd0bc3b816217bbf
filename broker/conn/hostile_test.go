package conn_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/conn"
	"spillway/broker/wire"
)

// peer plays a broker on the other end of a pipe: it answers ApiVersions as
// told, and everything else by the function.
func peer(t *testing.T, versions *kmsg.ApiVersionsResponse, answer func(h wire.RequestHeader, w io.Writer) error) conn.DialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		t.Cleanup(func() {
			ours.Close()
			theirs.Close()
			<-done
		})
		go func() {
			defer close(done)
			defer theirs.Close()
			for {
				frame, err := wire.ReadFrame(theirs, nil, 1<<20)
				if err != nil {
					return
				}
				h, _, err := wire.ParseRequest(frame)
				if err == nil && h.Key == 18 {
					_, err = theirs.Write(framed(h, versions.AppendTo(nil)))
				} else if err == nil {
					err = answer(h, theirs)
				}
				if err != nil {
					return
				}
			}
		}()
		return ours, nil
	}
}

func framed(h wire.RequestHeader, body []byte) []byte {
	b := wire.AppendResponseHeader(make([]byte, 4), h.Key, h.Version, h.CorrelationID)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func offering(keys ...kmsg.ApiVersionsResponseApiKey) *kmsg.ApiVersionsResponse {
	r := kmsg.NewPtrApiVersionsResponse()
	r.Version = 3
	r.ApiKeys = keys
	return r
}

var onlyMetadata = offering(kmsg.ApiVersionsResponseApiKey{ApiKey: 3, MaxVersion: 9})

// The broker may be broken or hostile (reliability 3.2, rows 59 and 60): the
// connection fails with a reason, nothing hangs, nothing large is allocated.
func TestHostileAnswers(t *testing.T) {
	metadata := func(h wire.RequestHeader) []byte {
		r := kmsg.NewPtrMetadataResponse()
		r.Version = h.Version
		return framed(h, r.AppendTo(nil))
	}
	for name, c := range map[string]struct {
		answer func(h wire.RequestHeader, w io.Writer) error
		want   error
	}{
		"59: length 2^31-1": {func(_ wire.RequestHeader, w io.Writer) error {
			_, err := w.Write([]byte{0x7f, 0xff, 0xff, 0xff})
			return err
		}, new(wire.FrameError)},
		"59: negative length": {func(_ wire.RequestHeader, w io.Writer) error {
			_, err := w.Write([]byte{0xff, 0xff, 0xff, 0xff})
			return err
		}, new(wire.FrameError)},
		"59: another request's correlation id": {func(h wire.RequestHeader, w io.Writer) error {
			h.CorrelationID += 7
			_, err := w.Write(metadata(h))
			return err
		}, wire.ErrMalformed},
		"a body that contradicts itself": {func(h wire.RequestHeader, w io.Writer) error {
			_, err := w.Write(framed(h, []byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}))
			return err
		}, wire.ErrMalformed},
		"an end instead of an answer": {func(wire.RequestHeader, io.Writer) error { return io.EOF }, io.EOF},
		"an end inside the answer": {func(h wire.RequestHeader, w io.Writer) error {
			_, err := w.Write(metadata(h)[:9])
			return errors.Join(io.EOF, err)
		}, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, conn.Config{Node: 4, Address: "broker:9092", Dial: peer(t, onlyMetadata, c.answer)})
			_, err := k.Do(t.Context(), kmsg.NewPtrMetadataRequest())
			var refused *wire.FrameError
			if _, wantsFrame := c.want.(*wire.FrameError); wantsFrame && !errors.As(err, &refused) || !wantsFrame && !errors.Is(err, c.want) {
				t.Errorf("error %v", err)
			}
			if err == nil || !strings.Contains(err.Error(), "site east node 4: Metadata v9: ") {
				t.Errorf("%v does not say where and what", err)
			}
		})
	}
}

func TestAnAnswerToNothingEndsTheConnection(t *testing.T) {
	k := open(t, conn.Config{Address: "broker:9092", Dial: peer(t, onlyMetadata, func(h wire.RequestHeader, w io.Writer) error {
		r := kmsg.NewPtrMetadataResponse()
		r.Version = h.Version
		answer := framed(h, r.AppendTo(nil))
		_, err := w.Write(append(answer, answer...))
		return err
	})})
	if _, err := k.Do(t.Context(), kmsg.NewPtrMetadataRequest()); err != nil {
		t.Fatal(err)
	}
	<-k.Closed()
	if !errors.Is(k.Err(), wire.ErrMalformed) {
		t.Errorf("error %v", k.Err())
	}
}

func TestHostileGreetings(t *testing.T) {
	for name, versions := range map[string]*kmsg.ApiVersionsResponse{
		"60: nothing is offered":   offering(),
		"60: all versions are -1":  offering(kmsg.ApiVersionsResponseApiKey{ApiKey: 3, MinVersion: -1, MaxVersion: -1}),
		"60: the lowest is higher": offering(kmsg.ApiVersionsResponseApiKey{ApiKey: 3, MinVersion: 5, MaxVersion: 2}),
		"an error":                 {Version: 3, ErrorCode: 58, ApiKeys: onlyMetadata.ApiKeys},
	} {
		if c, err := conn.Open(t.Context(), conn.Config{Site: "east", Node: -1, Address: "broker:9092", Dial: peer(t, versions, nil)}); err == nil {
			c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestASilentBrokerEndsTheGreeting(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	_, err := conn.Open(t.Context(), conn.Config{Site: "east", Node: -1, Address: "broker:9092", HandshakeTimeout: 20 * time.Millisecond,
		Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestNoCommonVersionIsSaid(t *testing.T) {
	k := open(t, conn.Config{Address: "broker:9092", Dial: peer(t, offering(kmsg.ApiVersionsResponseApiKey{ApiKey: 3, MinVersion: 900, MaxVersion: 901}), nil)})
	if _, err := k.Do(t.Context(), kmsg.NewPtrMetadataRequest()); !errors.Is(err, conn.ErrVersion) {
		t.Errorf("an answer from the future: %v", err)
	}
	if _, err := k.Do(t.Context(), kmsg.NewPtrFetchRequest()); !errors.Is(err, conn.ErrVersion) {
		t.Errorf("a request that is not offered: %v", err)
	}
}

// Requests over the bound wait for an answer, and leave when their context ends.
func TestInFlightIsBounded(t *testing.T) {
	release := make(chan struct{})
	k := open(t, conn.Config{Address: "broker:9092", InFlightMax: 2, Dial: peer(t, onlyMetadata, func(h wire.RequestHeader, w io.Writer) error {
		<-release
		r := kmsg.NewPtrMetadataResponse()
		r.Version = h.Version
		_, err := w.Write(framed(h, r.AppendTo(nil)))
		return err
	})})
	body := kmsg.NewPtrMetadataRequest().AppendTo(nil)
	first, second := k.Send(t.Context(), 3, 0, true, body), k.Send(t.Context(), 3, 0, true, body)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Send(ctx, 3, 0, true, body).Wait(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the third of two: %v", err)
	}
	close(release)
	for _, p := range []*conn.Pending{first, second, k.Send(t.Context(), 3, 0, true, body)} {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Pieces small and large, alone and together, arrive as one body.
func TestPiecesArriveAsOneBody(t *testing.T) {
	got := make(chan []byte, 1)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	greeted := make(chan struct{})
	go func() {
		defer close(got)
		for {
			frame, err := wire.ReadFrame(theirs, nil, 64<<20)
			if err != nil {
				return
			}
			h, body, err := wire.ParseRequest(frame)
			if err != nil {
				return
			}
			if h.Key == 18 {
				if _, err := theirs.Write(framed(h, onlyMetadata.AppendTo(nil))); err != nil {
					return
				}
				close(greeted)
				continue
			}
			got <- append([]byte{}, body...)
		}
	}()
	k := open(t, conn.Config{Address: "broker:9092", Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
	<-greeted
	for _, sizes := range [][]int{{0}, {1, 2, 3}, {5000}, {10, 5000, 10, 70_000, 0, 4096, 4097}, {1 << 20, 1, 1 << 20}} {
		var want []byte
		var pieces [][]byte
		for i, n := range sizes {
			piece := []byte(strings.Repeat(string(rune('a'+i)), n))
			pieces, want = append(pieces, piece), append(want, piece...)
		}
		if _, err := k.Send(t.Context(), 0, 9, false, pieces...).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if body := <-got; string(body) != string(want) {
			t.Fatalf("%v: %d bytes arrived, %d sent", sizes, len(body), len(want))
		}
	}
	k.Close()
	for range got {
	}
}
