package session

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// sockets are two ends of a connection.
func sockets(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// A connection has a buffer while something comes, and none before and after. What was
// sent meanwhile is read, the end of the stream is seen, and so is a deadline.
func TestSilentConnectionsHaveNoBuffer(t *testing.T) {
	client, server := sockets(t)
	b := newBuffered(server)
	if b.in != nil {
		t.Fatal("it has a buffer before anything came")
	}
	for _, sent := range []string{"one", "another"} {
		if _, err := client.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if err := b.await(); err != nil {
			t.Fatal(err)
		}
		b.release()
		if b.in == nil {
			t.Fatal("it gave a buffer back that somebody has to read")
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(b, got); err != nil || string(got) != sent {
			t.Fatalf("read %q, %v", got, err)
		}
		b.release()
		if b.in != nil {
			t.Fatal("it keeps an empty buffer")
		}
		server.SetReadDeadline(time.Now().Add(-time.Second))
		if err := b.await(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("behind the deadline: %v", err)
		}
		server.SetReadDeadline(time.Time{})
	}
	client.Close()
	if err := b.await(); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end of the stream: %v", err)
	}
}

// Requests that come before and after a rest are served, by a session that gave its buffer
// back in between, also where one comes in two parts; and idle connections end in time.
func TestSessionsRest(t *testing.T) {
	client, server := sockets(t)
	h := &handler{begun: make(chan Request, 10), answers: make(chan []byte, 10)}
	reason := make(chan Reason, 1)
	s := New(server, h, Limits{IdleMax: time.Minute}, nil, Events{})
	go func() { reason <- s.Run(t.Context()) }()
	for i := range int32(3) {
		frame := frameOf(i, 100)
		for _, part := range [][]byte{frame[:50], frame[50:]} {
			if _, err := client.Write(part); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * bufferIdle)
		}
		select {
		case req := <-h.begun:
			if req.CorrelationID != i {
				t.Fatalf("request %d came for %d", req.CorrelationID, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("request %d did not come", i)
		}
		h.answers <- []byte{byte(i)}
		answer := make([]byte, 4+4+1)
		if _, err := io.ReadFull(client, answer); err != nil || answer[8] != byte(i) {
			t.Fatalf("answer %v, %v", answer, err)
		}
	}
	client.Close()
	if r := <-reason; r != ReasonClient {
		t.Errorf("it ended for %s", r)
	}
}

// A connection that gave its buffer back ends when it has been idle for as long as may be.
func TestSessionsThatRestEnd(t *testing.T) {
	_, server := sockets(t)
	h := &handler{begun: make(chan Request, 1), answers: make(chan []byte, 1)}
	if r := New(server, h, Limits{IdleMax: 3 * bufferIdle}, nil, Events{}).Run(t.Context()); r != ReasonIdle {
		t.Errorf("it ended for %s", r)
	}
}
