package session

import (
	"testing"
	"testing/synctest"
	"time"
)

func never() bool { return false }

// muted starts a session and has it muted by its first request. A second request has been
// met already when that happens, as mostly; a third one is being sent.
func muted(t *testing.T, until time.Duration, lifted func() bool) *rig {
	r := start(t, Limits{}, nil)
	r.write(frameOf(1, 0))
	synctest.Wait() // it waits for the next one
	(<-r.begun).Mute(time.Now().Add(until), lifted)
	r.answers <- []byte("x")
	r.receive(t) // the answer is not late for it
	go func() {
		r.write(frameOf(2, 0))
		r.write(frameOf(3, 0))
	}()
	<-r.begun
	return r
}

// Invariant E: nothing is read before the time, and all of it afterwards; what is longest
// counts.
func TestAMutedConnectionIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := start(t, Limits{}, nil)
		r.write(frameOf(1, 0))
		synctest.Wait() // it waits for the next one
		first := <-r.begun
		first.Mute(began.Add(20*time.Second), never)
		first.Mute(began.Add(10*time.Second), never)
		go func() {
			r.write(frameOf(2, 0))
			r.write(frameOf(3, 0))
		}()
		<-r.begun
		time.Sleep(20*time.Second - time.Millisecond)
		if n := len(r.begun); n != 0 {
			t.Errorf("%d requests were read while it was muted", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := len(r.begun); n != 1 {
			t.Errorf("%d requests were read afterwards, want 1", n)
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

func TestAMuteEndsEarly(t *testing.T) {
	t.Run("lifted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			moves := time.Now().Add(5 * time.Second)
			r := muted(t, 30*time.Second, func() bool { return !time.Now().Before(moves) })
			<-r.begun
			if took := time.Since(moves); took < 0 || took > mutePause {
				t.Errorf("it was read %s after it was lifted", took)
			}
			r.client.Close()
			r.ends(t, ReasonClient)
		})
	})
	t.Run("drained", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := muted(t, 30*time.Second, never)
			began := time.Now()
			r.s.Drain()
			r.answers <- []byte("x")
			r.receive(t)
			r.ends(t, ReasonDrained)
			if took := time.Since(began); took > 0 {
				t.Errorf("it took %s", took)
			}
			r.client.Close()
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := muted(t, 30*time.Second, never)
			began := time.Now()
			r.cancel()
			r.ends(t, ReasonShutdown)
			if took := time.Since(began); took > 0 {
				t.Errorf("it took %s", took)
			}
			r.client.Close()
		})
	})
}
