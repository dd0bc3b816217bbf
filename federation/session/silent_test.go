package session

import (
	"testing"
	"testing/synctest"
)

// A client that waits for no answer may close right behind its last request:
// what was read is carried out. What others sent is dropped, for they send it
// again.
func TestSilentRequestsOutliveTheirClient(t *testing.T) {
	for _, silent := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, Limits{}, nil)
			r.silent, r.hold = silent, make(chan struct{})
			for i := range int32(3) {
				r.write(frameOf(i, 10))
			}
			synctest.Wait() // the first is being begun, the others have been read
			r.client.Close()
			synctest.Wait() // the session has seen the end
			close(r.hold)
			if reason := <-r.reason; reason != ReasonClient {
				t.Errorf("reason %s", reason)
			}
			want := 1
			if silent {
				want = 3
			}
			if len(r.begun) != want {
				t.Errorf("silent %v: %d requests were begun, want %d", silent, len(r.begun), want)
			}
			for i, ctx := range r.ctx {
				if silent && ctx.Err() != nil {
					t.Errorf("silent request %d was begun with an ended context", i)
				}
			}
			if r.closed.Load() != 1 {
				t.Error("the handler was not closed once")
			}
		})
	}
}
