package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// floorWait bounds how long a site is asked for the highest epoch that it has
// seen. A site that cannot be asked is left out, but for the one that is to serve.
const floorWait = 2 * time.Second

// boot finds the record of a share, or creates it. A store that knows less than
// the sites was restored or emptied; to believe it would take the world back to an
// epoch that is over (C30), so the share is not driven.
func (d *driver) boot(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*floorWait)
	defer cancel()
	e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id))
	absent := errors.Is(err, coordination.ErrNotFound)
	if err != nil && !absent {
		d.c.cfg.Events.actionFailed(d.id, "read the share record", err)
		pause(ctx, retryPause)
		return
	}
	if !absent {
		d.take(e)
	}
	floor, at, err := d.floor(ctx, absent)
	if err != nil {
		d.c.cfg.Events.actionFailed(d.id, "ask for epochs", err)
		pause(ctx, retryPause)
		return
	}
	known := spillway.Epoch(0)
	if !absent {
		known = d.share.Epoch
	}
	if floor > known && (floor > 1 || !absent) {
		have := fmt.Sprintf("its store has epoch %d", known)
		if absent {
			have = "its store has no record"
		}
		d.c.cfg.Events.refused(d.id, fmt.Sprintf("site %s has seen epoch %d of share %s, but %s: the coordinator store was emptied or restored from a backup; restore a newer one", at, floor, d.id, have))
		pause(ctx, retryPause)
		return
	}
	if absent && !d.create(ctx) {
		return
	}
	d.booted = true
}

// floor is the highest epoch that any reachable site has seen.
func (d *driver) floor(ctx context.Context, needHome bool) (floor spillway.Epoch, at spillway.SiteID, err error) {
	ctx, cancel := context.WithTimeout(ctx, floorWait)
	defer cancel()
	faults := make([]error, len(d.group.Sites))
	var wg sync.WaitGroup
	for i, site := range d.group.Sites {
		wg.Go(func() { faults[i] = d.c.caughtUp(ctx, site) })
	}
	wg.Wait()
	for i, site := range d.group.Sites {
		if err := faults[i]; err != nil && !errors.Is(err, broker.ErrUnknownTopic) { // unknown: never mirrored
			if i == 0 && needHome {
				return 0, "", fmt.Errorf("%s is to serve share %s first and cannot be asked: %w", site, d.id, err)
			}
			continue
		}
		if f := d.c.mu.maps[site].Floor(d.id); f > floor {
			floor, at = f, site
		}
	}
	return floor, at, nil
}

// create writes the first record: the first preferred site serves epoch 1.
func (d *driver) create(ctx context.Context) bool {
	home := d.group.Sites[0]
	s := failover.Share{
		Group: d.id.Group, Index: d.id.Index, State: failover.Stable, Epoch: 1, Active: home,
		Terms: []failover.Term{{Epoch: 1, Site: home, Mask: newMask()}},
	}
	version, err := d.c.cfg.Store.Put(ctx, d.c.keys.Share(d.id), s.Encode(), 0)
	if errors.Is(err, coordination.ErrConflict) {
		return false // another loop was faster; read it
	}
	if err != nil {
		d.c.cfg.Events.actionFailed(d.id, "create the share record", err)
		pause(ctx, retryPause)
		return false
	}
	d.take(coordination.Entry{Key: d.c.keys.Share(d.id), Value: s.Encode(), Version: version})
	d.c.cfg.Events.stateChanged(StateInfo{Share: d.id, To: failover.Stable, Epoch: 1, Active: home, Why: fmt.Sprintf("share %s begins at %s", d.id, home)})
	return true
}
