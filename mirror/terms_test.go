package mirror

import (
	"testing"

	"spillway"
	"spillway/mirror/offsetmap"
)

func TestTermsSayWhatCounts(t *testing.T) {
	t.Parallel()
	tp := spillway.TopicPartition{Topic: "orders"}
	newer := spillway.TopicPartition{Topic: "orders", Partition: 1}
	at := func(o spillway.Offset) map[spillway.TopicPartition]spillway.Offset {
		return map[spillway.TopicPartition]spillway.Offset{tp: o}
	}
	// East serves, a failover to west (2) is given up (3), a lossy one to west
	// succeeds (4), and a switchover to north (5).
	terms := []Term{{Epoch: 1, Site: "east"}, {Epoch: 3, Site: "east"}, term(4, "west", at(990)), term(5, "north", at(1200))}
	for _, c := range []struct {
		epoch spillway.Epoch // of the last record
		want  spillway.Offset
	}{{1, 990}, {3, 990}, {4, 1200}, {5, noBound}, {0, 990}} {
		if got := givenUp(terms, tp, c.epoch); got != c.want {
			t.Errorf("records of epoch %d count up to %d, want %d", c.epoch, got, c.want)
		}
	}
	if got := givenUp(terms, newer, 0); got != noBound {
		t.Errorf("a newer partition is cut at %d", got)
	}
	for _, c := range []struct {
		name  string
		terms []Term
		site  spillway.SiteID
		tp    spillway.TopicPartition
		open  offsetmap.EpochStart
		end   spillway.Offset
		over  bool
	}{
		{"in force", terms[:1], "east", tp, offsetmap.EpochStart{Epoch: 1}, 0, false},
		{"about to open", terms[:1], "west", tp, offsetmap.EpochStart{Epoch: 2, Virtual: 1100}, 0, false},
		{"given up", terms[:2], "west", tp, offsetmap.EpochStart{Epoch: 2, Virtual: 1100}, 1100, true},
		{"goes on after an abort", terms[:2], "east", tp, offsetmap.EpochStart{Epoch: 1}, 0, false},
		{"failed over", terms, "east", tp, offsetmap.EpochStart{Epoch: 1}, 990, true},
		{"started after the abort", terms, "east", tp, offsetmap.EpochStart{Epoch: 3}, 990, true},
		{"switched over", terms, "west", tp, offsetmap.EpochStart{Epoch: 4, Virtual: 1100}, 1200, true},
		{"nobody who was heard had the partition", terms, "east", newer, offsetmap.EpochStart{Epoch: 3, Virtual: 1000}, 0, true},
		{"no control plane", nil, "east", tp, offsetmap.EpochStart{Epoch: 1}, 0, false},
	} {
		if end, isOver := over(c.terms, c.site, c.tp, c.open); end != c.end || isOver != c.over {
			t.Errorf("%s: ends at %d, %v; want %d, %v", c.name, end, isOver, c.end, c.over)
		}
	}
}
