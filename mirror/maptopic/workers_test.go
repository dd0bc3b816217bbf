package maptopic

import (
	"context"
	"slices"
	"testing"
	"time"

	"spillway/broker/embedded"
	"spillway/mirror/workers"
)

// What workers say is read in the order of the topic, by flow; what is said under a
// wrong name is not understood.
func TestWorkersAreReadByFlow(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := embedded.Start(embedded.Config{Site: "west"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // nothing is left to be written
	w := NewWriter(ctx, c, -1)
	defer w.Close()
	if err := w.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	r := Tail(ctx, c, nil)
	defer r.Close()
	save := func(entries ...Entry) {
		t.Helper()
		at, err := w.Save(ctx, entries...)
		if err == nil {
			err = r.WaitFor(ctx, at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	says := func(name string, beat int64) workers.Record { return workers.Record{Worker: name, Term: 1, Beat: beat} }
	changed := r.WorkersChanged()
	save(WorkerEntry("run/east", says("a-1", 1)), WorkerEntry("run/east", says("b-2", 1)), WorkerEntry("run/north", says("c-3", 1)))
	select {
	case <-changed:
	default:
		t.Error("nobody was told that workers came")
	}
	if east, north := r.Workers("run/east").Members(), r.Workers("run/north").Members(); !slices.Equal(east, []string{"a-1", "b-2"}) || !slices.Equal(north, []string{"c-3"}) {
		t.Errorf("workers: %v and %v", east, north)
	}
	wrong := WorkerEntry("run/east", says("d-4", 1))
	wrong.Key = "w/run/east/e-5"
	changed = r.WorkersChanged()
	save(wrong, WorkerEntry("run/east", says("a-1", 2)))
	select {
	case <-changed:
		t.Error("that a worker lives is no change")
	default:
	}
	save(NoWorkerEntry("run/east", "a-1"))
	if left := r.Workers("run/east").Members(); !slices.Equal(left, []string{"b-2"}) || r.Skipped() != 1 {
		t.Errorf("left: %v, skipped %d", left, r.Skipped())
	}
	if r.Workers("run/east").Position() != r.Position() {
		t.Errorf("the table is at %d, the reader at %d", r.Workers("run/east").Position(), r.Position())
	}
}

func TestHolderIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, h := range []Holder{{}, {Boot: "b", Processes: "pid:[7]", PID: 12, Started: "99"}, ThisProcess()} {
		if got := ParseHolder(h.String()); got != h {
			t.Errorf("%+v became %+v", h, got)
		}
	}
	for _, s := range []string{"x", "b p 0 1", "b p -3 1", "b p x 1", "b p 1 2 3"} {
		if got := ParseHolder(s); got != (Holder{}) {
			t.Errorf("%q: %+v", s, got)
		}
	}
}
