package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// Drills are the accounts of a group's last drills, oldest first.
func (o *Operator) Drills(ctx context.Context, group string) ([]history.Drill, error) {
	drills, _, err := o.drills(ctx, group)
	return drills, err
}

func (o *Operator) drills(ctx context.Context, group string) ([]history.Drill, uint64, error) {
	e, err := o.store.Get(ctx, o.keys.Drills(group))
	if errors.Is(err, coordination.ErrNotFound) {
		return []history.Drill{}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	drills, err := history.DecodeDrills(e.Value)
	return drills, e.Version, err
}

// KeepDrill adds the account of a drill to those of the group. While the store does not
// answer, as when its leader was lost with the site that the drill met with, it tries again
// until ctx ends.
func (o *Operator) KeepDrill(ctx context.Context, group string, d history.Drill) error {
	for {
		earlier, version, err := o.drills(ctx, group)
		there := slices.ContainsFunc(earlier, func(e history.Drill) bool { return e.At.Equal(d.At) }) // its answer was lost
		if err == nil && !there {
			_, err = o.store.Put(ctx, o.keys.Drills(group), history.EncodeDrills(history.WithDrill(earlier, d)), version)
		}
		switch {
		case errors.Is(err, coordination.ErrConflict):
		case errors.Is(err, coordination.ErrUnavailable) && ctx.Err() == nil:
			pause(ctx, keepPause)
		case err != nil:
			return fmt.Errorf("keep the account of the drill of %s: %w", group, err)
		default:
			return nil
		}
	}
}

// keepPause lies between two tries of KeepDrill.
const keepPause = 250 * time.Millisecond

// MoveTo is the account of the move to an epoch of a group.
func (o *Operator) MoveTo(ctx context.Context, group string, epoch spillway.Epoch) (history.Record, error) {
	return readRecord(ctx, o.store, o.keys.History(spillway.ShareID{Group: group}, epoch))
}

// Automation tells whether failovers may happen without a person.
func (o *Operator) Automation(ctx context.Context) (a failover.Automation, err error) {
	e, err := o.store.Get(ctx, o.keys.Automation())
	if errors.Is(err, coordination.ErrNotFound) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(e.Value, &a)
}
