package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// teardown is a stack of named steps. Each part pushes its end as soon as it
// is built, so that a start that fails half-way and an ordinary stop run the
// same code, in reverse.
type teardown struct {
	log   *slog.Logger
	steps []step
}

type step struct {
	name string
	run  func(context.Context) error
}

func (t *teardown) push(name string, run func(context.Context) error) {
	t.steps = append(t.steps, step{name, run})
}

// run ends everything, the last part first. A step that fails does not keep
// the others from running.
func (t *teardown) run(ctx context.Context) error {
	var faults []error
	for len(t.steps) > 0 {
		last := t.steps[len(t.steps)-1]
		t.steps = t.steps[:len(t.steps)-1]
		started := time.Now()
		err := last.run(ctx)
		if err != nil {
			faults = append(faults, fmt.Errorf("stop %s: %w", last.name, err))
		}
		t.log.Debug("stopped", "part", last.name, "took", time.Since(started), "error", err)
	}
	return errors.Join(faults...)
}

// background runs a loop until the teardown ends it and waits for it.
func (t *teardown) background(name string, loop func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { loop(ctx) })
	t.push(name, func(context.Context) error {
		cancel()
		wg.Wait()
		return nil
	})
}
