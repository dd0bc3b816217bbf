package maptopic

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"spillway"
	"spillway/mirror/offsetmap"
)

var orders0 = spillway.TopicPartition{Topic: "orders"}

// history is a map topic as two mirrors of a site write it, one of them
// without knowing that it lost its lease.
type history struct {
	entries []Entry
	live    *offsetmap.Map
	epoch   spillway.Epoch
	late    []Entry // starts of epochs that began without them, or were given up, still on their way
}

func (h *history) write(t *rapid.T, e Entry) {
	h.entries = append(h.entries, e)
	h.live.Apply(read(t, e))
}

func read(t *rapid.T, e Entry) offsetmap.Record {
	d, err := decode([]byte(e.Key), e.Value)
	if err != nil {
		t.Fatal(err)
	}
	return d.record
}

// Whoever reads the map topic after its compaction knows what those know who
// read it as it was written.
func TestCompactionChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := &history{live: offsetmap.New(), epoch: 1}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			h.step(t)
		}
		// The cleaner leaves the head of the log alone.
		clean := rapid.IntRange(0, len(h.entries)).Draw(t, "cleaned")
		fresh := offsetmap.New()
		for _, e := range slices.Concat(compacted(h.entries[:clean]), h.entries[clean:]) {
			fresh.Apply(read(t, e))
		}
		want, got := h.live.View(), fresh.View()
		if a, b := describe(want), describe(got); a != b {
			t.Fatalf("written as\n%s\na fresh reader sees\n%s", a, b)
		}
		if a, b := h.live.Session(), fresh.Session(); a != b {
			t.Fatalf("session %+v, a fresh reader sees %+v", a, b)
		}
	})
}

func describe(v *offsetmap.View) string {
	virtual, local := v.End()
	source, known := v.Source(virtual)
	return fmt.Sprintf("ranges %v, end %d/%d, source %v %v, epochs %v, ends %v", v.Ranges(), virtual, local, source, known, v.Epochs(), v.Ends())
}

// compacted keeps the last entry of each key where it stands.
func compacted(entries []Entry) []Entry {
	last := make(map[string]int, len(entries))
	for i, e := range entries {
		last[e.Key] = i
	}
	var kept []Entry
	for i, e := range entries {
		if last[e.Key] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

func (h *history) step(t *rapid.T) {
	view := h.live.View()
	virtual, local := view.End()
	open, isOpen := view.Open()
	switch kind := rapid.SampledFrom([]string{"session", "chunk", "chunk", "verified", "start", "given up", "late", "stale", "end", "discard"}).Draw(t, "kind"); {
	case kind == "session" && !isOpen:
		h.session(t, virtual, local)
	case kind == "chunk" && !isOpen && h.live.Session().Opened:
		s := h.live.Session()
		n := rapid.Int64Range(1, 5).Draw(t, "records")
		from := virtual + spillway.Offset(rapid.IntRange(0, 2).Draw(t, "hole"))
		h.write(t, ChunkEntry(orders0, &offsetmap.Chunk{Session: s.Session, Worker: s.Worker, First: local,
			Ranges: []offsetmap.Range{{Epoch: h.epoch, Virtual: from, Local: local, Length: n}}}))
		h.write(t, VerifiedEntry(orders0, offsetmap.Verified{Session: s.Session, Local: local + spillway.LocalOffset(n), Virtual: from + spillway.Offset(n)}))
	case kind == "verified" && !isOpen && h.live.Session().Opened:
		v := offsetmap.Verified{Session: h.live.Session().Session, Local: local, Virtual: virtual + 1}
		if rapid.Bool().Draw(t, "the source's leader epoch is known") {
			v.Source = offsetmap.SourcePosition{Site: "east", Next: local + 7, LeaderEpoch: int32(h.epoch)}
		}
		h.write(t, VerifiedEntry(orders0, v))
	case kind == "start" && !isOpen:
		h.epoch++
		e := offsetmap.EpochStart{Epoch: h.epoch, Virtual: virtual + 10, Local: local, Session: h.live.Session().Session, Had: virtual, Worker: "a"}
		h.write(t, StartEntry(orders0, e))
		if rapid.Bool().Draw(t, "who led before has sent it too") {
			e.Worker = "b"
			h.late = append(h.late, StartEntry(orders0, e))
		}
	case kind == "given up" && !isOpen:
		e := offsetmap.EpochStart{Epoch: h.epoch + 1, Virtual: virtual, Local: local, Session: h.live.Session().Session, Had: virtual, Worker: "a"}
		h.late = append(h.late, StartEntry(orders0, e))
		h.epoch += 2
	case kind == "late":
		h.comesLate(t)
	case kind == "stale" && isOpen: // it does not know that the site serves
		s := offsetmap.Session{Session: h.live.Session().Session + 1, Worker: "c", ProducerID: 99, Virtual: -1}
		h.write(t, SessionEntry(orders0, s))
		s.Opened, s.Epoch, s.Local, s.Virtual = true, open.Epoch-spillway.Epoch(rapid.IntRange(0, 1).Draw(t, "older")), local, virtual
		h.write(t, SessionEntry(orders0, s))
	case kind == "end" && isOpen:
		n := rapid.Int64Range(0, 9).Draw(t, "served")
		e := offsetmap.EpochEnd{Epoch: open.Epoch, Virtual: open.Virtual + spillway.Offset(n), Local: open.Local + spillway.LocalOffset(n)}
		e.LogEnd = e.Local + spillway.LocalOffset(rapid.IntRange(0, 3).Draw(t, "unreplicated"))
		h.write(t, EndEntry(orders0, e))
		h.epoch++
	case kind == "discard" && len(view.Ends()) > 0:
		e := rapid.SampledFrom(view.Ends()).Draw(t, "discarded")
		e.Discarded = rapid.Bool().Draw(t, "and not replayed")
		e.Replayed = !e.Discarded
		h.write(t, EndEntry(orders0, e))
	}
}

// session has two workers claim the next session, in any order; the first one
// opens it.
func (h *history) session(t *rapid.T, virtual spillway.Offset, local spillway.LocalOffset) {
	s := offsetmap.Session{Session: h.live.Session().Session + 1, Worker: "a", ProducerID: 99, Virtual: -1}
	other := s
	if other.Worker = "b"; rapid.Bool().Draw(t, "b is first") {
		s, other = other, s
	}
	h.write(t, SessionEntry(orders0, s))
	if rapid.Bool().Draw(t, "the other claims too") {
		h.write(t, SessionEntry(orders0, other))
	}
	if rapid.Bool().Draw(t, "a start comes while the log is read back") {
		h.comesLate(t)
	}
	s.Opened, s.Epoch, s.Local, s.Virtual = true, h.epoch, local, max(virtual, 0)
	h.write(t, SessionEntry(orders0, s))
}

// comesLate has the start of an epoch arrive of which nobody knows any more.
func (h *history) comesLate(t *rapid.T) {
	if len(h.late) > 0 {
		i := rapid.IntRange(0, len(h.late)-1).Draw(t, "late start")
		h.write(t, h.late[i])
		h.late = slices.Delete(h.late, i, i+1)
	}
}
