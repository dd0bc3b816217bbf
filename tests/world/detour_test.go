//go:build e2e

package world

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// A connection that was made before goes on over a detour, whose packets are late, overtaken and
// repeated, without a byte wrong, and takes the usual way again afterwards.
func TestADetourCarriesWhatTheUsualWayDid(t *testing.T) {
	n, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.remove(); err != nil {
			t.Error(err)
		}
	}()
	ours, theirs := joined(t, n)
	defer ours.Close()
	defer theirs.Close()

	usual := exchange(t, ours, theirs)
	d, err := n.newDetour(Weather{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Repeated: 5})
	if err != nil {
		t.Fatal(err)
	}
	late := exchange(t, ours, theirs)
	if err := d.close(); err != nil {
		t.Error(err)
	}
	after := exchange(t, ours, theirs)
	t.Logf("there and back in %v, %v on a detour, %v after it: %v", usual, late, after, d.did())
	if late < 40*time.Millisecond {
		t.Errorf("there and back took %v over a detour of 20 ms each way", late)
	}
	if did := d.did(); did.Overtaken == 0 || did.Repeated == 0 {
		t.Errorf("%v", did)
	}
}

// joined is a connection to what listens in the network of a site.
func joined(t *testing.T, n *network) (ours, theirs net.Conn) {
	t.Helper()
	var l net.Listener
	err := n.inside(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(n.there, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// exchange sends some hundred packets and has them sent back, then one byte each way, and says
// how long that took.
func exchange(t *testing.T, ours, theirs net.Conn) time.Duration {
	t.Helper()
	echoed := make(chan error, 1)
	sent := make([]byte, 512<<10)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		if _, err := io.CopyN(theirs, theirs, int64(len(sent))); err != nil {
			echoed <- err
			return
		}
		_, err := io.CopyN(theirs, theirs, 1)
		echoed <- err
	}()
	written := make(chan error, 1)
	go func() {
		_, err := ours.Write(sent)
		written <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(ours, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Error("other bytes came back")
	}
	began := time.Now()
	if _, err := ours.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(ours, got[:1]); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if err := <-echoed; err != nil {
		t.Fatal(err)
	}
	return took
}
