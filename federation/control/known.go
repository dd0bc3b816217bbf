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

// beside is what the history keeps of a move beside its record.
type beside struct {
	known *history.Known
	found []history.Found
}

// besideOf takes the last part of such a key apart.
func besideOf(name string) (epoch spillway.Epoch, what string, ok bool) {
	number, what, ok := strings.Cut(name, "-")
	if n, err := strconv.ParseInt(number, 10, 32); ok && err == nil && (what == "known" || strings.HasPrefix(what, "found-")) {
		return spillway.Epoch(n), what, true
	}
	return 0, "", false
}

func (b *beside) take(what string, value []byte) error {
	if what == "known" {
		b.known = &history.Known{}
		return json.Unmarshal(value, b.known)
	}
	var f history.Found
	err := json.Unmarshal(value, &f)
	b.found = append(b.found, f)
	return err
}

// known says what is written down when a move begins: the verdicts, and what was
// foretold.
func (p Plan) known(view failover.View) history.Known {
	k := history.Known{At: view.Now, Evidence: []history.Evidence{}, Forecast: history.Forecast{
		PauseMillis: p.PauseMillis, PauseWhy: p.PauseWhy, LostLeast: p.LostLeast, LostMost: p.LostMost, Behind: p.Behind,
		Losses: p.Losses, Reread: p.Reread, Silent: p.Silent,
	}}
	if more := len(p.Losses) - history.LossesMax; more > 0 {
		k.Forecast.Losses, k.Forecast.LossesMore = p.Losses[:history.LossesMax], more
	}
	for _, site := range p.sites {
		j := view.Sites[site].Judgement
		k.Evidence = append(k.Evidence, history.Evidence{Site: site, Down: j.Down, Why: cmp.Or(j.Why, "nobody has voted")})
	}
	return k
}

// knownOp writes it with the record that begins the move; nothing if it is there.
func knownOp(ctx context.Context, store coordination.Store, key string, k history.Known) ([]coordination.Op, error) {
	switch _, err := store.Get(ctx, key); {
	case err == nil:
		return nil, nil
	case !errors.Is(err, coordination.ErrNotFound):
		return nil, err
	}
	value, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("what is known of the move: %w", err)
	}
	return []coordination.Op{{Key: key, Value: value}}, nil
}

// foretellMax bounds what is read for the history before a failover begins.
const foretellMax = time.Second

// begin writes the record that begins a move without a person, together with what is
// known. A failover does not wait for that: what cannot be read is left out.
func (d *driver) begin(ctx context.Context, next failover.Share, encoded []byte) (uint64, error) {
	ops := []coordination.Op{{Key: d.c.keys.Share(d.id), Value: encoded, Version: d.version}}
	reading, cancel := context.WithTimeout(ctx, foretellMax)
	if plan, view, err := d.foretell(reading, next); err == nil {
		if known, err := knownOp(reading, d.c.cfg.Store, d.c.keys.HistoryKnown(d.id, next.Epoch), plan.known(view)); err == nil {
			ops = append(ops, known...)
		}
	}
	cancel()
	if err := d.c.cfg.Store.Txn(ctx, ops); err != nil {
		return 0, err
	}
	return d.versionOf(ctx, encoded)
}

// foretell says of a failover what a dry run would say, by the leases and the maps of
// the sites, which this loop has read already.
func (d *driver) foretell(ctx context.Context, next failover.Share) (Plan, failover.View, error) {
	view := d.viewed
	if err := d.readReserved(ctx); err != nil {
		return Plan{}, view, err
	}
	view.Reserved = d.memo.reserved
	asked := d.c.cfg.Clock.Now()
	earlier, err := readHistory(ctx, d.c.cfg.Store, d.c.keys, d.id)
	if err != nil {
		return Plan{}, view, err
	}
	answer := asked.Shortest(d.c.cfg.Clock.Now())
	plan := newPlan(d.group, d.c.hub, view)
	known := failover.Known{Ends: map[spillway.SiteID]failover.PartitionOffsets{}, Reserved: view.Reserved}
	for _, site := range d.group.Sites {
		if site == d.share.Active || unheard(view.Sites[site], d.share.Epoch) != nil {
			continue
		}
		if known.Order = append(known.Order, site); site == next.Target {
			known.Order = append([]spillway.SiteID{site}, known.Order[:len(known.Order)-1]...)
		}
		known.Ends[site] = failover.PartitionOffsets{}
		r := d.c.mu.maps[site]
		for _, tp := range r.Partitions() {
			if d.c.cfg.Topology.Has(d.group, tp) {
				end, _ := r.View(tp).End()
				known.Ends[site].Set(tp, end)
			}
		}
	}
	plan.foreseen(known, d.limits)
	plan.expect(earlier, next, view, answer)
	plan.explain(d.group, d.share, next, view)
	return plan, view, nil
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
