package gatewaytest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"spillway"
	"spillway/broker/batch"
	"spillway/federation/failover"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Fence begins a move: the record goes to FENCING, and every gateway confirms
// that it has drained.
func (w *World) Fence(to spillway.SiteID, kind failover.Kind) {
	w.t.Helper()
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target, s.Kind = failover.Fencing, s.Epoch+1, to, kind
	})
	epoch := w.Share().Epoch
	Eventually(w.t, "all gateways are drained", func() bool {
		for id := range w.Gateways {
			if !w.Report(epoch, id).Drained {
				return false
			}
		}
		return true
	})
}

// Open ends a move: a dumb mirror copies what the old site has, but for the
// last lost records of each partition, and the share opens at the target. The
// virtual start is burnt offsets above what was copied.
func (w *World) Open(lost, burnt int64) {
	w.t.Helper()
	s := w.Share()
	mask := rand.Uint64() >> 3
	next := failover.Term{Epoch: s.Epoch, Site: s.Target, Mask: mask, Start: make(failover.PartitionOffsets), Lossy: lost > 0}
	position := int64(-1)
	for topic, partitions := range w.options.Topics {
		for p := range partitions {
			tp := spillway.TopicPartition{Topic: topic, Partition: p}
			start, at := w.copy(tp, s.Current(), next, lost, burnt)
			next.Start.Set(tp, start)
			position = max(position, at)
		}
	}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Active, s.Mask = failover.Open, s.Target, mask
		s.Terms = append(s.Terms, next)
		s.MapPosition = map[spillway.SiteID]int64{s.Target: position}
		s.Since = time.Now()
	})
	Eventually(w.t, "all gateways have opened", func() bool {
		for id := range w.Gateways {
			if !w.Report(s.Epoch, id).Opened {
				return false
			}
		}
		return true
	})
	w.SetShare(func(s *failover.Share) { s.State, s.Target = failover.Stable, "" })
}

// Follow writes into a site's map that it has mirrored n records of a partition, from
// its own first one on, as the virtual ones from there on.
func (w *World) Follow(site spillway.SiteID, tp spillway.TopicPartition, from spillway.Offset, n int64) {
	w.t.Helper()
	w.session++
	chunk := &offsetmap.Chunk{Session: w.session, Worker: "test", Verified: true, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: from, Length: n}}}
	if _, err := w.writers[site].Save(context.Background(), maptopic.ChunkEntry(tp, chunk)); err != nil {
		w.t.Fatal(err)
	}
}

// Save writes entries into a site's map, as its mirror does, and tells the position of the last.
func (w *World) Save(site spillway.SiteID, entries ...maptopic.Entry) (position int64) {
	w.t.Helper()
	position, err := w.writers[site].Save(context.Background(), entries...)
	if err != nil {
		w.t.Fatal(err)
	}
	return position
}

var errLost = errors.New("the rest is lost")

// copy brings one partition from the site of a term to that of the next, and
// writes both maps.
func (w *World) copy(tp spillway.TopicPartition, old, next failover.Term, lost, burnt int64) (start spillway.Offset, position int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	from, to := w.Direct[old.Site], w.Direct[next.Site]
	ends, err := from.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	must(err)
	end := ends[tp]
	local, virtual := w.start[old.Site][tp], w.virtual[tp]
	if _, ok := w.virtual[tp]; !ok {
		virtual = w.Topology.Groups()[0].OffsetBase
		_, err = w.writers[old.Site].Save(ctx, maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: 1, Virtual: virtual, Mask: old.Mask}))
		must(err)
	}
	targets, err := to.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	must(err)
	w.session++
	chunk := &offsetmap.Chunk{Session: w.session, Worker: "test", First: targets[tp], Verified: true}
	node, err := to.Leader(ctx, tp)
	must(err)
	c, err := to.Dial(ctx, node)
	must(err)
	defer c.Close()
	target, bound := targets[tp], end-spillway.LocalOffset(lost)
	err = sitelog.Scan(ctx, from, tp, local, end, func(b sitelog.Batch) error {
		h := b.Header
		if h.NextOffset() > int64(bound) {
			return errLost
		}
		if spillway.IsClientProducerID(h.ProducerID) {
			chunk.Trail = append(chunk.Trail, offsetmap.TrailEntry{
				ProducerID: h.ProducerID, Epoch: old.Epoch, ProducerEpoch: h.ProducerEpoch, First: h.BaseSequence, Last: h.LastSequence(),
				Virtual: virtual + spillway.Offset(h.BaseOffset) - spillway.Offset(local),
			})
		}
		batch.Clean(b.Bytes, -1, -1, -1)
		done, err := sitelog.Produce(ctx, c, []sitelog.ProducePart{{TopicPartition: tp, Batch: b.Bytes}}, 5*time.Second)
		if err != nil {
			return err
		}
		target = done[0].Base + spillway.LocalOffset(h.Count)
		return done[0].Err
	})
	if !errors.Is(err, errLost) {
		must(err)
	}
	start = virtual + spillway.Offset(target-targets[tp])
	var entries []maptopic.Entry
	if n := int64(target - targets[tp]); n > 0 {
		chunk.Ranges = []offsetmap.Range{{Epoch: old.Epoch, Virtual: virtual, Local: targets[tp], Length: n}}
		entries = append(entries, maptopic.ChunkEntry(tp, chunk))
	}
	_, err = w.writers[old.Site].Save(ctx, maptopic.EndEntry(tp, offsetmap.EpochEnd{
		Epoch: old.Epoch, Virtual: start, Local: local + (target - targets[tp]), LogEnd: end,
	}))
	must(err)
	start += spillway.Offset(burnt)
	entries = append(entries, maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: next.Epoch, Virtual: start, Local: target, Mask: next.Mask, Session: w.session}))
	position, err = w.writers[next.Site].Save(ctx, entries...)
	must(err)
	w.start[next.Site][tp], w.virtual[tp] = target, start
	return start, position
}
