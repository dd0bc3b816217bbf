package drill

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/history"
)

var drilled = spillway.TopicPartition{Topic: "drill", Partition: 1}

// announcing is a failover that announced the offsets from 5 to 10.
func announcing(kind failover.Kind, aborted string) []history.Record {
	m := history.Record{Kind: kind, Aborted: aborted, Verified: failover.PartitionOffsets{}, Start: failover.PartitionOffsets{}}
	m.Verified.Set(drilled, 5)
	m.Start.Set(drilled, 10)
	return []history.Record{m}
}

// told is a client that wrote records 0, 1, … and was told these offsets; −1: nothing.
func told(offsets ...spillway.Offset) (s seen) {
	s.tp = drilled
	for i, o := range offsets {
		if o >= 0 {
			s.acked = append(s.acked, acked{number: int64(i), offset: o})
		}
	}
	return s
}

func (s seen) reading(numbersAndOffsets ...int64) seen {
	for pair := range slices.Chunk(numbersAndOffsets, 2) {
		s.read = append(s.read, read{pair[0], spillway.Offset(pair[1]), time.Time{}})
	}
	return s
}

// opened is when the failover had another site serve, and late too long after that.
var (
	opened = time.Unix(1000, 0)
	late   = opened.Add(6 * time.Second)
	served = map[spillway.Epoch]time.Time{0: opened}
)

func (s seen) acking(number int64, o spillway.Offset, at time.Time) seen {
	s.acked = append(s.acked, acked{number, o, at})
	return s
}

func (s seen) readingAt(number int64, o spillway.Offset, at time.Time) seen {
	s.read = append(s.read, read{number, o, at})
	return s
}

func TestWhatAClientMayNotBeTold(t *testing.T) {
	failed := announcing(failover.Failover, "")
	for name, c := range map[string]struct {
		saw   seen
		moves []history.Record
		lost  int64
		want  string // in the only problem; empty: there is none
	}{
		"nothing moved":                      {saw: told(3, 4).reading(0, 3, 1, 4)},
		"one was never answered":             {saw: told(3, -1, 5).reading(0, 3, 1, 4, 2, 5)},
		"announced, and never read":          {saw: told(4, 5, 10).reading(0, 4, 2, 10), moves: failed, lost: 1},
		"announced, and read before":         {saw: told(4, 9, 10).reading(0, 4, 1, 9, 2, 10), moves: failed, lost: 1},
		"missing before what is lost":        {saw: told(3, 4, 10).reading(0, 3, 2, 10), moves: failed, want: "record 1 was acknowledged at offset 4, and is missing"},
		"missing behind what is lost":        {saw: told(4, 10, 11).reading(0, 4, 2, 11), moves: failed, want: "record 1 was acknowledged at offset 10, and is missing"},
		"not read yet":                       {saw: told(3, 4, 5).reading(0, 3, 1, 4)},
		"given up, and written again":        {saw: told(4, 10).reading(0, 4, 1, 5, 1, 10), moves: failed},
		"acknowledged by the old site, late": {saw: told(4).acking(1, 5, late).reading(0, 4), moves: failed, want: "record 1 was acknowledged at offset 5, of the old site, 6s after another one served"},
		"read at the old site, late":         {saw: told(4).reading(0, 4).readingAt(1, 5, late), moves: failed, want: "record 1 was read at offset 5, of the old site, 6s after another one served"},
		"missing in a switchover":            {saw: told(4, 5, 10).reading(0, 4, 2, 10), moves: announcing(failover.Switchover, ""), want: "and is missing"},
		"missing in one that was given up":   {saw: told(4, 5, 10).reading(0, 4, 2, 10), moves: announcing(failover.Failover, "by a person"), want: "and is missing"},
		"twice":                              {saw: told(3, 4).reading(0, 3, 1, 4, 0, 5), want: "record 0 was read at offset 3, and again at 5"},
		"in another order":                   {saw: told(-1, -1).reading(1, 3, 0, 4), want: "record 0 was read at offset 4, behind record 1"},
		"an offset that falls":               {saw: told(-1, -1).reading(0, 4, 1, 3), want: "record 1 was read at offset 3 after one at 4"},
		"elsewhere than was said":            {saw: told(3).reading(0, 4), want: "record 0 was acknowledged at offset 3, and is at 4"},
	} {
		lost, problems := c.saw.judge(burntIn(c.moves, served, drilled))
		if lost != c.lost {
			t.Errorf("%s: %d lost, want %d", name, lost, c.lost)
		}
		if c.want == "" && len(problems) > 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.want)) {
			t.Errorf("%s: %q, want %q", name, problems, c.want)
		}
	}
}

func TestTheLongestSilenceIsThatOfTheMove(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	s := seen{acked: []acked{{at: at(0)}, {at: at(900)}, {at: at(1000)}, {at: at(1300)}, {at: at(1310)}, {at: at(2400)}}}
	for _, c := range []struct{ from, to, want int }{
		{1100, 1200, 300},  // within a gap
		{1000, 1310, 300},  // the first gap ended as it began
		{950, 1305, 300},   // over several
		{800, 850, 900},    // a long one that overlaps
		{2500, 2600, 6600}, // nothing came any more
	} {
		if got := s.silent(at(c.from), at(c.to), at(9000)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("from %d to %d: %s, want %d ms", c.from, c.to, got, c.want)
		}
	}
}
