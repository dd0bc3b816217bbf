package drill

import (
	"fmt"
	"slices"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// acked is a record that was acknowledged, and where the producer was told that it is.
type acked struct {
	number int64 // of the record, within its partition
	offset spillway.Offset
	at     time.Time
}

// read is a record as the consumer got it.
type read struct {
	number int64
	offset spillway.Offset
	at     time.Time
}

// seen is what a client was told about one partition, in the order in which it was.
type seen struct {
	tp    spillway.TopicPartition
	acked []acked
	read  []read
}

// lateMost is how long an answer of the old site may be on its way once another one serves.
const lateMost = 5 * time.Second

// burnt are the offsets of a partition that a failover announced as what may be missing,
// and when the other site served.
type burnt struct {
	from, to spillway.Offset
	served   time.Time
}

// burntIn collects them from the accounts of failovers. served is by epoch.
func burntIn(moves []history.Record, served map[spillway.Epoch]time.Time, tp spillway.TopicPartition) (all []burnt) {
	for _, m := range moves {
		if m.Kind != failover.Failover || m.Aborted != "" {
			continue
		}
		// No survivor may have known a partition that was new: all of it is announced.
		if b := (burnt{max(0, m.Verified.Get(tp)), m.Start.Get(tp), served[m.Epoch]}); b.from < b.to {
			all = append(all, b)
		}
	}
	return all
}

func within(ranges []burnt, o spillway.Offset) (burnt, bool) {
	i := slices.IndexFunc(ranges, func(b burnt) bool { return o >= b.from && o < b.to })
	if i < 0 {
		return burnt{}, false
	}
	return ranges[i], true
}

// late tells whether something came after the other site had served for a while.
func (b burnt) late(at time.Time) bool { return !b.served.IsZero() && at.Sub(b.served) > lateMost }

// judge finds what a client may not be told: something of the old site once the new one
// serves (promise A), an acknowledged record that is missing although no failover announced
// it (B), one that is elsewhere than was said, and one that comes twice or behind a later one
// (C). lost counts what was announced. What was not read yet is not missing.
func (s seen) judge(ranges []burnt) (lost int64, problems []string) {
	fault := func(format string, args ...any) {
		problems = append(problems, s.tp.String()+": "+fmt.Sprintf(format, args...))
	}
	at := make(map[int64]spillway.Offset, len(s.read))
	last := read{number: -1, offset: -1}
	for _, r := range s.read {
		if b, gone := within(ranges, r.offset); gone {
			// It was given up: the same record may come again, with another offset.
			if b.late(r.at) {
				fault("record %d was read at offset %d, of the old site, %s after another one served", r.number, r.offset, r.at.Sub(b.served).Round(time.Millisecond))
			}
			continue
		}
		if earlier, again := at[r.number]; again {
			fault("record %d was read at offset %d, and again at %d", r.number, earlier, r.offset)
			continue
		}
		at[r.number] = r.offset
		if r.number < last.number {
			fault("record %d was read at offset %d, behind record %d", r.number, r.offset, last.number)
		}
		if r.offset <= last.offset {
			fault("record %d was read at offset %d after one at %d", r.number, r.offset, last.offset)
		}
		last = r
	}
	for _, a := range s.acked {
		b, gone := within(ranges, a.offset)
		offset, found := at[a.number]
		switch {
		case gone && b.late(a.at):
			fault("record %d was acknowledged at offset %d, of the old site, %s after another one served", a.number, a.offset, a.at.Sub(b.served).Round(time.Millisecond))
		case gone:
			lost++
		case !found && a.offset < last.offset:
			fault("record %d was acknowledged at offset %d, and is missing; no failover announced that", a.number, a.offset)
		case found && offset != a.offset:
			fault("record %d was acknowledged at offset %d, and is at %d", a.number, a.offset, offset)
		}
	}
	return lost, problems
}

// silent is the longest time without an acknowledgement that overlaps with a time. until is
// when nobody waited for one any more.
func (s seen) silent(from, to, until time.Time) (longest time.Duration) {
	ends := make([]time.Time, 0, len(s.acked)+1)
	for _, a := range s.acked {
		ends = append(ends, a.at)
	}
	ends = append(ends, until)
	for i := 1; i < len(ends); i++ {
		if a, b := ends[i-1], ends[i]; b.After(from) && a.Before(to) {
			longest = max(longest, b.Sub(a))
		}
	}
	return longest
}
