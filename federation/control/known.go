package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// readBeside adds what is kept beside the records of moves. It counts for people only:
// what cannot be decoded is left out.
func readBeside(ctx context.Context, store coordination.Store, keys failover.Keys, id spillway.ShareID, records []history.Record) error {
	entries, err := store.List(ctx, keys.BesideOf(id))
	if err != nil {
		return err
	}
	moves := map[spillway.Epoch]*history.Record{}
	for i := range records {
		if r := &records[i]; r.Kind != failover.Degrade {
			moves[r.Epoch] = r
		}
	}
	for _, e := range entries {
		number, what, _ := strings.Cut(strings.TrimPrefix(e.Key, keys.BesideOf(id)), "/")
		epoch, err := strconv.ParseInt(number, 10, 32)
		move := moves[spillway.Epoch(epoch)]
		if err != nil || move == nil {
			continue
		}
		var known history.Known
		var found history.Found
		switch {
		case what == "known" && json.Unmarshal(e.Value, &known) == nil:
			move.Known = &known
		case strings.HasPrefix(what, "found/") && json.Unmarshal(e.Value, &found) == nil:
			move.Found = append(move.Found, found)
		}
	}
	return nil
}

// Bounds of what is kept of a forecast beside history.LossesMax.
const (
	silentMax   = 100
	sentenceMax = 1000 // bytes
)

// clip bounds a sentence.
func clip(s string) string { return history.Clip(s, sentenceMax) }

// known says what is written down of a move that begins: the verdicts, and what was
// foretold.
func (p Plan) known(view failover.View) history.Known {
	k := history.Known{At: view.Now, Evidence: []history.Evidence{}, Forecast: history.Forecast{
		PauseMillis: p.PauseMillis, PauseWhy: clip(p.PauseWhy), LostLeast: p.LostLeast, LostMost: p.LostMost, Behind: p.Behind,
		Losses: p.Losses, Reread: clip(p.Reread),
	}}
	for _, s := range p.Silent[:min(len(p.Silent), silentMax)] {
		k.Forecast.Silent = append(k.Forecast.Silent, clip(s))
	}
	if more := len(p.Silent) - silentMax; more > 0 {
		k.Forecast.Silent = append(k.Forecast.Silent, fmt.Sprintf("%d more", more))
	}
	if more := len(p.Losses) - history.LossesMax; more > 0 {
		k.Forecast.Losses, k.Forecast.LossesMore = p.Losses[:history.LossesMax], more
	}
	for _, site := range p.sites {
		j := view.Sites[site].Judgement
		k.Evidence = append(k.Evidence, history.Evidence{Site: site, Down: j.Down, Why: clip(cmp.Or(j.Why, "nobody has voted"))})
	}
	return k
}

// keepMax bounds keeping what was known of a move that has begun.
const keepMax = 2 * time.Second

// keep writes it, once for each move.
func keep(ctx context.Context, store coordination.Store, key string, k history.Known) error {
	value, err := json.Marshal(k)
	if err == nil {
		_, err = store.Put(ctx, key, value, 0)
	}
	if errors.Is(err, coordination.ErrConflict) {
		return nil // another loop has written it
	}
	return err
}

// begun keeps what was known of a move that this loop has begun: beside the move, which
// does not wait for it.
func (d *driver) begun(ctx context.Context, before, next failover.Share, view failover.View) {
	d.besides.Go(func() {
		keeping, cancel := context.WithTimeout(ctx, keepMax)
		defer cancel()
		plan, err := d.foretell(keeping, before, next, view)
		if err == nil {
			err = keep(keeping, d.c.cfg.Store, d.c.keys.HistoryKnown(d.id, next.Epoch), plan.known(view))
		}
		if err != nil && ctx.Err() == nil {
			d.c.cfg.Events.actionFailed(d.id, "keep what was known of the move", err)
		}
	})
}

// foretell says of a failover what a dry run would say, by the leases and the maps of
// the sites, which this loop has read already. It reads nothing of d that changes.
func (d *driver) foretell(ctx context.Context, before, next failover.Share, view failover.View) (Plan, error) {
	asked := d.c.cfg.Clock.Now()
	reserved, _, err := readReserved(ctx, d.c.cfg.Store, d.c.keys.Reserved(d.id))
	if err != nil {
		return Plan{}, err
	}
	answer := asked.Shortest(d.c.cfg.Clock.Now())
	earlier := lastMoves(ctx, d.c.cfg.Store, d.c.keys, before)
	view.Reserved = reserved
	plan := newPlan(d.group, d.c.hub, view)
	known := failover.Known{Ends: map[spillway.SiteID]failover.PartitionOffsets{}, Reserved: view.Reserved}
	for _, site := range d.group.Sites {
		if site == before.Active || unheard(view.Sites[site], before.Epoch) != nil {
			continue
		}
		if known.Order = append(known.Order, site); site == next.Target {
			known.Order = append([]spillway.SiteID{site}, known.Order[:len(known.Order)-1]...)
		}
		known.Ends[site] = failover.PartitionOffsets{}
		r := d.c.mu.maps[site]
		for _, tp := range r.PartitionsOf(d.group.Topics) {
			if d.c.cfg.Topology.Has(d.group, tp) {
				end, _ := r.View(tp).End()
				known.Ends[site].Set(tp, end)
			}
		}
	}
	plan.foreseen(known, before.Active, view, d.limits)
	plan.expect(earlier, next, view, answer)
	plan.explain(d.group, before, next, view)
	return plan, nil
}

// unheard tells why the word of a survivor does not count: Step would not hear it, or
// a later epoch has cut off what it has.
func unheard(seen failover.SiteView, epoch spillway.Epoch) error {
	switch {
	case seen.Judgement.Down:
		return errors.New("it is down")
	case !seen.Mirror || seen.Following == nil:
		return errors.New("its mirror is not heard")
	case seen.Following.Epoch != epoch:
		return fmt.Errorf("it follows epoch %d, not %d", seen.Following.Epoch, epoch)
	}
	return nil
}
