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

// A log began anew. Until it has again all that it had the site owes it, also after a restart,
// and before the append session is opened that finds the log short. What the source lost too
// is not owed.
func TestOwed(t *testing.T) {
	t.Parallel()
	tp := spillway.TopicPartition{Topic: "carts"}
	anew := func(to spillway.Offset) Entry {
		return GapEntry(Gap{ID: "1", Kind: GapTruncated, Topic: "carts", From: 1000, To: to, LocalFrom: 0, LocalTo: 100})
	}
	session := func(number int64, opened bool, local spillway.LocalOffset, virtual spillway.Offset) Entry {
		return SessionEntry(tp, offsetmap.Session{Session: number, Worker: "w", ProducerID: 7, Opened: opened, Local: local, Virtual: virtual})
	}
	lost := func(from spillway.Offset) Entry {
		return GapEntry(Gap{ID: "2", Kind: GapSource, Topic: "carts", From: from, To: 1100, LocalFrom: -1, LocalTo: -1})
	}
	had := []Entry{session(1, true, 100, 1100), session(2, false, 0, -1), anew(1100)}
	for name, c := range map[string]struct {
		entries []Entry
		want    spillway.Offset
	}{
		"nothing has begun anew":                {had[:1], 0},
		"it is not opened yet":                  {had, 1100},
		"nothing is there":                      {append(had[:3:3], session(2, true, 0, 1000)), 1100},
		"a part is there":                       {append(had[:3:3], session(2, true, 0, 1000), session(3, true, 99, 1099)), 1100},
		"a part is there, and it begins again":  {append(had[:3:3], session(2, true, 50, 1050), session(3, false, 0, -1), anew(1050)), 1100},
		"all is there":                          {append(had[:3:3], session(2, true, 0, 1000), session(3, true, 100, 1100)), 0},
		"it had all, and a failover gave it up": {append(had[:3:3], session(3, true, 100, 1100), session(4, true, 90, 1090)), 0},
		"the source has a part":                 {append(had[:3:3], session(2, true, 0, 1000), lost(1050)), 1050},
		"the source has no more":                {append(had[:3:3], session(2, true, 50, 1050), lost(1050)), 0},
		"the source has nothing":                {append(had[:3:3], lost(0)), 0},
		"the map was cleaned":                   {[]Entry{anew(1100), session(9, true, 50, 1050)}, 1100},
		"the map was cleaned, and all is there": {[]Entry{anew(1100), session(9, true, 150, 1150)}, 0},
	} {
		r := new(Reader)
		r.forget()
		for i, e := range c.entries {
			r.applyRecord(int64(i), []byte(e.Key), e.Value)
		}
		if got := r.Owed()[tp]; r.Skipped() > 0 || got != c.want {
			t.Errorf("%s: owes up to %d, want %d; %d skipped", name, got, c.want, r.Skipped())
		}
	}
}
