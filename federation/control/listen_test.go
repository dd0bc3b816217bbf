package control

import (
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// How long there was no mirror counts from when this loop saw the last one go, not from
// when the state began; one that is back ends it.
func TestForHowLongNoMirrorIsAlive(t *testing.T) {
	t.Parallel()
	d := newDriver(&Control{}, spillway.FailoverGroup{Name: "orders"}, spillway.ShareID{Group: "orders"})
	clock := &movable{}
	look := func(alive bool, after time.Duration) time.Duration {
		clock.forward(after)
		v := failover.View{Sites: map[spillway.SiteID]failover.SiteView{"west": {Mirror: alive}}}
		d.listen(&v, clock.Now())
		return v.Sites["west"].Mute
	}
	if look(true, time.Hour) != 0 || look(false, time.Hour) > time.Second {
		t.Error("it counts from before it was seen to be gone")
	}
	if mute := look(false, 7*time.Second); mute < 6*time.Second {
		t.Errorf("%s", mute)
	}
	if look(true, time.Second) != 0 || look(false, time.Second) > 500*time.Millisecond {
		t.Error("it was back in between")
	}
}
