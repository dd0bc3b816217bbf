package failover

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"spillway"
	"spillway/federation/coordination"
)

// many is a share that stands still after a failover, with offsets of many partitions.
func many(partitions int) Share {
	s := stable()
	random := rand.New(rand.NewPCG(1, uint64(partitions)))
	list := func() PartitionOffsets {
		p := PartitionOffsets{}
		for i := range partitions {
			p.Set(spillway.TopicPartition{Topic: "orders", Partition: int32(i)}, spillway.Offset(random.Int64N(1<<40)))
		}
		return p
	}
	s.Terms = []Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "west", Lossy: true, Start: list(), Verified: list()}, {Epoch: 4, Site: "east", Start: list(), Verified: list()}}
	s.Burnt = list()
	return s
}

// A move whose record would be too large for the store is refused before clients are held,
// by people and by automation; one that fits begins.
func TestAMoveThatHasNoRoomIsRefused(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	for _, c := range []struct {
		partitions int
		kind       Kind
		refused    bool
	}{{100, Switchover, false}, {5000, Switchover, false}, {40_000, Switchover, true}, {5000, Failover, false}, {40_000, Failover, true}} {
		s := many(c.partitions)
		next, err := Begin(s, Request{Kind: c.kind, Target: "west", Who: "test", LossMax: -1}, v, l)
		if refused := errors.Is(err, ErrRefused); refused != c.refused || refused && !strings.Contains(err.Error(), "40000 partitions are too many for one failover group") {
			t.Errorf("%s of %d partitions: %v, %v", c.kind, c.partitions, next.State, err)
		}
		if c.refused && next.State != Stable {
			t.Errorf("%s", next.State)
		}
	}
}

// What is reckoned for a failover is never more than what it comes to, and for a
// switchover never less, so that none is refused that would have passed, and none is
// begun from which there is no way on.
func TestTheRoomOfAMoveIsReckoned(t *testing.T) {
	t.Parallel()
	_, l := healthy()
	s := many(10_000)
	random := rand.New(rand.NewPCG(9, 9))
	at := s.partitions()
	was := s
	s.Kind, s.Target, s.Epoch, s.State = Failover, "west", s.Epoch+1, CaughtUp
	s.Prefix, s.Start, s.PrefixSite = PartitionOffsets{}, PartitionOffsets{}, map[string][]spillway.SiteID{}
	at.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		s.Prefix.Set(tp, o+spillway.Offset(random.Int64N(1<<24)))
		s.Start.Set(tp, s.Prefix.Get(tp)+spillway.Offset(random.Int64N(20_000)))
		s.PrefixSite[tp.Topic] = append(s.PrefixSite[tp.Topic], []spillway.SiteID{"west", "north"}[random.IntN(2)])
	})
	came := len(s.EncodeBeside())
	least, most := was.largest(at, "west", 7, l.Group.OffsetBase), was.largest(at, "west", 30, l.Group.OffsetBase)
	if least > came || most < came {
		t.Errorf("%d bytes came, %d to %d were reckoned", came, least, most)
	}
	t.Logf("%d bytes, %d to %d were reckoned", came, least, most)
}

// What a record may have goes through a transaction with what is written beside it.
func TestARecordGoesThroughATransaction(t *testing.T) {
	t.Parallel()
	value, head := make([]byte, RecordBytesMax), make([]byte, 4<<10)
	if err := coordination.CheckOps([]coordination.Op{{Key: strings.Repeat("k", 500), Value: value}, {Key: strings.Repeat("h", 500), Value: head}, {Key: strings.Repeat("c", 500), Check: true}}); err != nil {
		t.Error(err)
	}
}

// A group that never moved, and one that got many partitions since, is reckoned by what
// its sites have: the record knows nothing of them yet.
func TestTheRoomOfAGroupThatNeverMoved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		share      Share
		partitions int // at the sites
		kind       Kind
		refused    bool
	}{{stable(), 3000, Switchover, false}, {stable(), 200_000, Switchover, true}, {stable(), 3000, Failover, false}, {stable(), 400_000, Failover, true},
		{many(5000), 5000, Switchover, false}, {many(5000), 200_000, Switchover, true}} {
		v, l := healthy()
		for site, s := range v.Sites {
			f := Following{}
			if s.Following != nil {
				f = *s.Following
			}
			f.Partitions = c.partitions
			s.Following = &f
			v.Sites[site] = s
		}
		_, err := Begin(c.share, Request{Kind: c.kind, Target: "west", Who: "test", LossMax: -1}, v, l)
		if refused := errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "partitions are too many for one failover group"); refused != c.refused || err != nil && !refused {
			t.Errorf("%s of %d partitions: %v", c.kind, c.partitions, err)
		}
		if c.refused && err != nil && !strings.Contains(err.Error(), fmt.Sprint("its ", c.partitions, " partitions")) {
			t.Error(err)
		}
	}
}
