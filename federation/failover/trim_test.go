package failover

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"spillway"
	"spillway/federation/coordination"
)

// hundredMoves moves a share of three sites about as Step does, and hands over the
// record of each state with all that it carries then.
func hundredMoves(t *testing.T, partitions int, random *rand.Rand, see func(Share)) {
	t.Helper()
	sites := []spillway.SiteID{"east", "west", "north"}
	v, l := healthy()
	l.Group.OffsetBase = 1000
	s := stable()
	s.Epoch, s.Terms = 1, []Term{{Epoch: 1, Site: "east", Mask: 1 << 60}}
	// Partitions are as far as their keys have brought them, up to 10¹² records.
	reached := make([]int, partitions)
	for i := range reached {
		reached[i] = random.IntN(1 << 40)
	}
	end := func(most int) PartitionOffsets {
		p := PartitionOffsets{}
		for i := range partitions {
			reached[i] += random.IntN(1 << 20)
			p.Set(spillway.TopicPartition{Topic: fmt.Sprint("orders-", i%3), Partition: int32(i / 3)}, spillway.Offset(reached[i]+random.IntN(most)))
		}
		return p
	}
	for range 100 {
		s.Target = sites[(slices.Index(sites, s.Active)+1+random.IntN(2))%3]
		s.Epoch, s.Mask, s.State, s.Kind = s.Epoch+1, random.Uint64()>>3, CaughtUp, Switchover
		s.Cutover = end(100)
		s.Start = s.Cutover.Clone()
		if random.IntN(3) == 0 {
			s.Kind, s.Prefix, s.Cutover, s.PrefixSite = Failover, s.Cutover, nil, map[string][]spillway.SiteID{}
			for topic, offs := range s.Prefix {
				s.PrefixSite[topic] = slices.Repeat([]spillway.SiteID{"north"}, len(offs))
			}
			s.Start = above(s.Prefix, end(500))
		}
		see(s)
		if random.IntN(4) == 0 {
			s.Abort = "somebody"
			s, _ = s.giveUp(v, l)
		} else {
			for _, site := range sites {
				v.Sites[site] = SiteView{Mirror: true, Report: &SiteReport{Opened: true, Armed: true}}
			}
			s, _ = caughtUp(s, v, l)
			if s.State != Open {
				t.Fatalf("%s", s.State)
			}
			see(s)
			s, _ = opened(s, v, l)
		}
		if s.State != Stable {
			t.Fatalf("%s", s.State)
		}
		see(s)
	}
}

// A group of 3,000 partitions moves a hundred times, a third of that by failovers,
// and its record stays far below what a store takes.
func TestTheRecordDoesNotGrowWithItsMoves(t *testing.T) {
	t.Parallel()
	largest, moves := 0, 0
	hundredMoves(t, 3000, rand.New(rand.NewPCG(1, 2)), func(s Share) {
		largest = max(largest, len(s.Encode()))
		if back, err := Decode(s.Encode()); err != nil || !reflect.DeepEqual(back.Terms, s.Terms) {
			t.Fatalf("%v", err)
		}
		if s.State == Open {
			moves++
		}
		if last := s.Current(); s.State == Open && (last.Trimmed || last.Start == nil || last.Verified == nil) {
			t.Fatalf("the newest term has no offsets: %+v", last)
		}
	})
	if largest > coordination.ValueBytesMax*2/3 || moves < 50 {
		t.Errorf("%d bytes after %d moves, the limit is %d", largest, moves, coordination.ValueBytesMax)
	}
	t.Logf("%d bytes at most, %d moves", largest, moves)
}

// What failovers burnt at the very beginning of a partition has nothing below it, so
// no map tells of it: it is kept apart, and grows only as long as nothing came between.
func TestBurntBeginningsAreKept(t *testing.T) {
	t.Parallel()
	s := stable()
	s.Terms = []Term{
		{Epoch: 1, Site: "east"},
		{Epoch: 2, Site: "west", Lossy: true, Verified: PartitionOffsets{"t": {1000, -1, 1500}}, Start: PartitionOffsets{"t": {1050, 1070, 1600}}},
		{Epoch: 3, Site: "east", Lossy: true, Verified: PartitionOffsets{"t": {1050, 1090, 1700}}, Start: PartitionOffsets{"t": {1100, 1200, 1800}}},
		{Epoch: 4, Site: "west", Start: PartitionOffsets{"t": {1100, 1300, 1900}}},
		{Epoch: 5, Site: "east", Lossy: true, Verified: PartitionOffsets{"t": {1200, 1300, 1900}}, Start: PartitionOffsets{"t": {1300, 1300, 1900}}},
	}
	s = s.trim(1000).trim(1000)
	if want := (PartitionOffsets{"t": {1100, 1070}}); !reflect.DeepEqual(s.Burnt, want) {
		t.Errorf("%v, want %v", s.Burnt, want)
	}
	for i, trimmed := range []bool{false, true, true, true, false} {
		if s.Terms[i].Trimmed != trimmed {
			t.Errorf("epoch %d trimmed: %v", s.Terms[i].Epoch, s.Terms[i].Trimmed)
		}
	}
}

// A record as it was written before, with the offsets of all terms, decodes, and the
// next move trims it.
func TestOldRecordsDecode(t *testing.T) {
	t.Parallel()
	s, err := Decode([]byte(`{"group":"orders","state":"STABLE","epoch":3,"active":"east","terms":[
		{"epoch":1,"site":"east","mask":"7"},
		{"epoch":2,"site":"west","mask":"8","start":{"t":[1010]},"verified":{"t":[1010]}},
		{"epoch":3,"site":"east","mask":"9","start":{"t":[1050]},"verified":{"t":[1020]},"lossy":true}]}`))
	if err != nil || s.Terms[1].Trimmed || s.Terms[1].Start.Get(spillway.TopicPartition{Topic: "t"}) != 1010 {
		t.Fatalf("%+v, %v", s, err)
	}
	if s = s.trim(1000); s.Terms[0].Trimmed || !s.Terms[1].Trimmed || s.Terms[2].Trimmed || s.Terms[1].Mask != 8 {
		t.Errorf("%+v", s.Terms)
	}
}
