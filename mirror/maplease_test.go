package mirror

import (
	"testing"

	"spillway/mirror/maptopic"
)

func TestLeaseOfAnEndedProcessIsTakenSoon(t *testing.T) {
	t.Parallel()
	ended := maptopic.ThisProcess()
	ended.Started = "0" // as long as the machine: another process, with an id that was given again
	for name, c := range map[string]struct {
		lease maptopic.Lease
		want  bool
	}{
		"ended":           {maptopic.Lease{Holder: ended}, true},
		"lives":           {maptopic.Lease{Holder: maptopic.ThisProcess()}, false},
		"nothing is told": {maptopic.Lease{}, false},
	} {
		if got := patience(c.lease) == leaseMargin; got != c.want {
			t.Errorf("%s: taken after %s", name, patience(c.lease))
		}
	}
}

// A run that ends before it has heard that it got the lease gives it back all the same:
// the next one need not wait for it.
func TestALeaseThatWasAskedForIsGivenBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	west := embeddedSite(t, "west", nil)
	m := testMirror(t, west)
	if err := m.writer.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	asked := maptopic.Lease{Worker: m.config.Worker, Term: 3, Beat: 1}
	at, err := m.writer.Save(ctx, maptopic.LeaseEntry("run/east", asked))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.reader.WaitFor(ctx, at); err != nil {
		t.Fatal(err)
	}
	l := &mapLease{m: m, name: "run/east"}
	l.mu.wrote = 3
	l.release()
	eventually(t, "the lease is free", func() bool { return m.reader.Lease("run/east").Beat == leaseFree })

	// One that somebody else has is not touched.
	other := maptopic.Lease{Worker: "other", Term: 4, Beat: 9}
	if _, err = m.writer.Save(ctx, maptopic.LeaseEntry("run/east", other)); err != nil {
		t.Fatal(err)
	}
	l.mu.wrote = 4
	l.release()
	if err := m.reader.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	if got := m.reader.Lease("run/east"); got != other {
		t.Errorf("the lease of another run became %+v", got)
	}
}
