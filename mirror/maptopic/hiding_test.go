package maptopic

import (
	"maps"
	"testing"

	"spillway"
	"spillway/mirror/offsetmap"
)

// What a log hides behind records that clients see is told after any restart, also of a
// topic that hid it long ago, until the topic begins anew; what lies below all that clients
// see, and what no cleaner counts, is not.
func TestHiding(t *testing.T) {
	t.Parallel()
	tp := func(topic string, partition int32) spillway.TopicPartition {
		return spillway.TopicPartition{Topic: topic, Partition: partition}
	}
	mirrored := func(tp spillway.TopicPartition, first spillway.LocalOffset, n int64) []Entry {
		return []Entry{
			SessionEntry(tp, offsetmap.Session{Session: 1, Worker: "w", ProducerID: 7, Opened: true, Local: first, Virtual: 1000}),
			ChunkEntry(tp, &offsetmap.Chunk{Session: 1, Worker: "w", First: first, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: 1000, Local: first, Length: n}}}),
			VerifiedEntry(tp, offsetmap.Verified{Session: 1, Local: first + spillway.LocalOffset(n), Virtual: 1000 + spillway.Offset(n)}),
		}
	}
	gap := func(tp spillway.TopicPartition, kind string, from, to spillway.LocalOffset) Entry {
		return GapEntry(Gap{ID: tp.String() + kind, Kind: kind, Topic: tp.Topic, Partition: tp.Partition, LocalFrom: from, LocalTo: to})
	}
	for name, test := range map[string]struct {
		entries []Entry
		want    map[string]string
	}{
		"deletions that were missed are no reason to stop a cleaner": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapLate, -1, -1)), nil},
		"nothing": {mirrored(tp("carts", 0), 0, 100), nil},
		"a tail that no other site has": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapUnreplicated, 100, 105)),
			map[string]string{"carts": "unreplicated in partition 0"}},
		"several kinds, in several partitions": {
			append(append(mirrored(tp("carts", 3), 0, 100), mirrored(tp("carts", 5), 0, 9)...), gap(tp("carts", 3), GapForeign, 100, 105), gap(tp("carts", 5), GapStaleWorker, 9, 10), gap(tp("carts", 5), GapOverhang, 5, 6)),
			map[string]string{"carts": "foreign-write, overhang, stale-worker in 2 partitions"}},
		"records from before the mirror came, below all others": {
			append([]Entry{gap(tp("carts", 0), GapExisting, 0, 5)}, mirrored(tp("carts", 0), 5, 100)...), nil},
		"a copy twice, between others": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapDuplicate, 50, 51)),
			map[string]string{"carts": "duplicate in partition 0"}},
		"markers, and what was never here": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapTransaction, 50, 51), gap(tp("carts", 0), GapRetention, 0, 0), gap(tp("carts", 0), GapRefused, 100, 100), gap(tp("carts", 0), GapSource, 100, 100)), nil},
		"the log lost its end": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapForeign, 50, 51), gap(tp("carts", 0), GapTruncated, 40, 100)),
			map[string]string{"carts": "foreign-write in partition 0"}},
		"the topic began anew": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapForeign, 50, 51), gap(tp("carts", 0), GapTruncated, 0, 100)), nil},
		"it began anew, and hides again": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapForeign, 50, 51), gap(tp("carts", 0), GapTruncated, 0, 100), gap(tp("carts", 0), GapForeign, 50, 51)),
			map[string]string{"carts": "foreign-write in partition 0"}},
		"a person gave the tail up": {
			append(mirrored(tp("carts", 0), 0, 100), gap(tp("carts", 0), GapUnreplicated, 100, 105), gap(tp("carts", 0), GapDiscarded, 100, 105)),
			map[string]string{"carts": "unreplicated in partition 0"}},
	} {
		r := new(Reader)
		r.forget()
		for i, e := range test.entries {
			r.applyRecord(int64(i), []byte(e.Key), e.Value)
		}
		if got := r.Hiding(); r.Skipped() > 0 || !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v; %d skipped", name, got, test.want, r.Skipped())
		}
	}
}

// Deletions that were missed make a site unfit, like what is hidden, until the topic begins
// anew (C15). The level is what was said last.
func TestUnfit(t *testing.T) {
	t.Parallel()
	tp := spillway.TopicPartition{Topic: "carts", Partition: 3}
	late := GapEntry(Gap{ID: "1", Kind: GapLate, Topic: "carts", Partition: 3, From: 7, To: 9, LocalFrom: -1, LocalTo: -1})
	anew := GapEntry(Gap{ID: "2", Kind: GapTruncated, Topic: "carts", Partition: 3, LocalFrom: 0, LocalTo: 100})
	r := new(Reader)
	r.forget()
	for i, step := range []struct {
		entry Entry
		want  map[string]string
	}{
		{late, map[string]string{"carts": "late in partition 3"}},
		{anew, map[string]string{}},
		{late, map[string]string{"carts": "late in partition 3"}},
		{LevelEntry(tp, Level{Virtual: 5}), map[string]string{"carts": "late in partition 3"}},
		{LevelEntry(tp, Level{Virtual: 6}), map[string]string{"carts": "late in partition 3"}},
	} {
		r.applyRecord(int64(i), []byte(step.entry.Key), step.entry.Value)
		if got := r.Unfit(); !maps.Equal(got, step.want) || len(r.Hiding()) > 0 {
			t.Errorf("step %d: %v, want %v; hidden %v", i, got, step.want, r.Hiding())
		}
	}
	if l, known := r.Level(tp); !known || l.Virtual != 6 || r.Skipped() > 0 {
		t.Errorf("%+v, %t; %d skipped", l, known, r.Skipped())
	}
}
