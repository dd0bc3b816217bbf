package demo

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// What is sent while the line is held arrives when it is released, and not
// before; close ends all connections.
func TestRelayHoldsBack(t *testing.T) {
	dir := t.TempDir()
	store, err := net.Listen("unix", filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r, err := newRelay(t.Context(), filepath.Join(dir, "line"), filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := store.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	send := func(c net.Conn, s string) {
		t.Helper()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(c net.Conn, wait time.Duration) string {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		n, _ := c.Read(b) // nothing comes within the time
		return string(b[:n])
	}
	send(near, "one")
	if got := receive(far, time.Minute); got != "one" {
		t.Fatalf("the store got %q", got)
	}
	r.hold()
	send(near, "two")
	send(far, "three")
	if a, b := receive(far, 50*time.Millisecond), receive(near, 50*time.Millisecond); a != "" || b != "" {
		t.Fatalf("%q and %q passed a line that is held", a, b)
	}
	r.release()
	if a, b := receive(far, time.Minute), receive(near, time.Minute); a != "two" || b != "three" {
		t.Fatalf("after the release: %q and %q", a, b)
	}
	r.hold()
	send(near, "four")
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Fatal("the connection goes on")
	}
}
