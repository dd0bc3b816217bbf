package mirror

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"spillway"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/sitelog"
)

// Plans that are made at once, of which few may decode at a time, are those that are made
// one after the other, and give back all turns.
func TestPlansMadeAtOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		filters, err := rewrite.ParseFilters([]string{"key!=k2"})
		if err != nil {
			t.Fatal(err)
		}
		identity := offsetmap.New()
		identity.Apply(offsetmap.EpochStart{Epoch: 1})
		slots := make(chan struct{}, rapid.IntRange(1, 3).Draw(t, "slots"))
		var all []*planning
		var want []plan
		for i := range rapid.Int32Range(1, 12).Draw(t, "partitions") {
			l := drawLog(t)
			tp := spillway.TopicPartition{Topic: "orders", Partition: i}
			w := writer{producerID: spillway.MirrorProducerID(3), producerEpoch: 2, batchBytesMax: 1 << 20}
			switch rapid.IntRange(0, 2).Draw(t, "work") {
			case 1:
				w.rules = rewrite.Rules{Filters: filters}.For(tp)
			case 2:
				w.repackBytes = 1 << 20
			}
			f := sitelog.Fetched{Records: bytes.Join(l.batches, nil), Aborted: abortedFrom(l, 0)}
			f.TopicPartition = tp
			at := position{local: 50, bound: noBound}
			alone := f
			alone.Records, alone.Aborted = bytes.Clone(f.Records), slices.Clone(f.Aborted) // a plan changes both
			one, err := planPart(alone, identity.View(), at, w)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, one)
			w.turn = &turn{ctx: t.Context(), slots: slots}
			all = append(all, &planning{at: at, fetched: f, view: identity.View(), writer: w})
		}
		makePlans(all)
		for i, p := range all {
			if p.err != nil || !reflect.DeepEqual(p.made, want[i]) {
				t.Fatalf("plan of partition %d differs from the one made alone: %v", i, p.err)
			}
		}
		if len(slots) > 0 {
			t.Fatalf("%d turns were not given back", len(slots))
		}
	})
}

// A plan that waits for its turn ends with the lane.
func TestAPlanWithoutATurnEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		full := make(chan struct{}, 1)
		full <- struct{}{}
		l := drawLog(t)
		identity := offsetmap.New()
		identity.Apply(offsetmap.EpochStart{Epoch: 1})
		p := &planning{at: position{bound: noBound}, fetched: sitelog.Fetched{Records: bytes.Join(l.batches, nil), Aborted: abortedFrom(l, 0)}, view: identity.View(),
			writer: writer{producerID: spillway.MirrorProducerID(3), batchBytesMax: 1 << 20, repackBytes: 1 << 20, turn: &turn{ctx: ctx, slots: full}}}
		makePlans([]*planning{p})
		if p.err != nil && !errors.Is(p.err, context.Canceled) {
			t.Fatal(p.err)
		}
		if len(full) != 1 {
			t.Fatal("a turn was taken, or given back, that was another's")
		}
	})
}
