package offsetmap_test

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"spillway"
	"spillway/mirror/offsetmap"
)

// What a mark says is there is as if the map had been told that it was verified, as far as
// the map has heard of it.
func TestFollowedIsAsVerified(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 3))
		var records []offsetmap.Record
		virtual, local := spillway.Offset(1000), spillway.LocalOffset(10)
		records = append(records, offsetmap.Session{Session: 4, Worker: "w", Opened: true, Epoch: 1, Local: local, Virtual: virtual})
		var newest *offsetmap.Chunk
		for range 1 + random.IntN(4) {
			newest = &offsetmap.Chunk{Session: 4, Worker: "w", First: local}
			for range 1 + random.IntN(3) {
				virtual += spillway.Offset(random.IntN(3)) // a hole
				n := 1 + random.IntN(10)
				newest.Ranges = append(newest.Ranges, offsetmap.Range{Epoch: 1, Virtual: virtual, Local: local, Length: int64(n)})
				virtual, local = virtual+spillway.Offset(n), local+spillway.LocalOffset(n)
			}
			records = append(records, newest)
		}
		// The mark is behind one of the newest chunk's records.
		r := newest.Ranges[random.IntN(len(newest.Ranges))]
		n := 1 + random.Int64N(r.Length)
		end, at := r.Virtual+spillway.Offset(n), r.Local+spillway.LocalOffset(n)
		followed, verified := offsetmap.New(), offsetmap.New()
		for _, record := range records {
			followed.Apply(record)
			verified.Apply(record)
		}
		verified.Apply(offsetmap.Verified{Session: 4, Local: at, Virtual: end})
		before := followed.View().Ranges()
		got, want := followed.Followed(4, end, false), verified.View()
		if !reflect.DeepEqual(got.Ranges(), want.Ranges()) {
			t.Fatalf("seed %d: up to %d: %v, want %v", seed, end, got.Ranges(), want.Ranges())
		}
		if v, l := got.End(); v != end || l != at || got.Known(at) || !got.Known(at-1) {
			t.Fatalf("seed %d: the end is %d at %d, want %d at %d", seed, v, l, end, at)
		}
		if !reflect.DeepEqual(followed.View().Ranges(), before) {
			t.Fatalf("seed %d: the map itself has changed", seed)
		}
		if v, _ := followed.Followed(4, virtual+100, false).End(); v != virtual {
			t.Fatalf("seed %d: a mark beyond what was saved: %d, want %d", seed, v, virtual)
		}
		whole := followed.Followed(4, virtual+100, true)
		if v, l := whole.End(); v != virtual+100 || l != local {
			t.Fatalf("seed %d: a whole map reaches %d at %d, want %d at %d", seed, v, l, virtual+100, local)
		}
		if from, to, hole := whole.Hole(virtual + 50); !hole || from > virtual+50 || to != virtual+100 {
			t.Fatalf("seed %d: what was never saved is no hole: %d to %d, %t", seed, from, to, hole)
		}
		if _, _, hole := followed.Followed(4, virtual+100, false).Hole(virtual + 50); hole {
			t.Fatalf("seed %d: a map that is behind shows a hole", seed)
		}
		if v, _ := followed.Followed(3, virtual, false).End(); v != newest.Ranges[0].Virtual {
			t.Fatalf("seed %d: a mark of an older session reaches %d", seed, v)
		}
		followed.Apply(offsetmap.Session{Session: 5, Worker: "v"})
		if v, _ := followed.Followed(4, end, false).End(); v != end {
			t.Fatalf("seed %d: a claim that was not opened changes nothing, and it reaches %d", seed, v)
		}
		if followed.Followed(6, end, true) != nil {
			t.Fatalf("seed %d: a mark of a session that the map has not heard of", seed)
		}
		if followed.Followed(5, end, true) != nil {
			t.Fatalf("seed %d: a mark of a session that was claimed, and not opened", seed)
		}
		followed.Apply(offsetmap.Session{Session: 5, Worker: "v", Opened: true, Epoch: 1, Local: at - 1, Virtual: end - 1})
		if v, _ := followed.Followed(4, end, false).End(); v != end-1 {
			t.Fatalf("seed %d: the next session found less, and it reaches %d", seed, v)
		}
		followed.Apply(offsetmap.EpochStart{Epoch: 2, Virtual: end - 1, Local: at - 1, Session: 5})
		if followed.Followed(5, end, true) != nil {
			t.Fatalf("seed %d: a site that serves follows nobody", seed)
		}
	}
}
