package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"spillway"
)

// Brokers are those of a site.
type Brokers struct {
	Alive int
	// Absent have replicas of the group's partitions, and are not there.
	Absent []int32
}

// Disk is a directory in which a broker keeps logs.
type Disk struct {
	Broker int32
	Path   string
	// Offline: the broker has given it up.
	Offline bool
	// TotalBytes and UsableBytes are those of its volume; −1: not told.
	TotalBytes, UsableBytes int64
	// Has are the partitions of the group that lie there.
	Has []spillway.TopicPartition
}

// Arrivals are how many bytes were written to each partition of the group in the last
// hour, by the times of the records; nil: not known.
type Arrivals map[spillway.TopicPartition]int64

// ArrivalsIn is the time over which arrivals are counted.
const ArrivalsIn = time.Hour

// Arrived reckons one of them, from the size of a log, how many offsets it has, and how
// many of them are of the last hour.
func Arrived(bytes, offsets, inLastHour int64) int64 {
	if offsets <= 0 || inLastHour <= 0 {
		return 0
	}
	return int64(float64(bytes) * float64(min(inLastHour, offsets)) / float64(offsets))
}

// burst is how many times as much as before an hour may have that is taken for one like it.
const burst = 10

// Sure tells whether what a log got in the last hour says what it will take from now on: if
// in the time before, as long as there has to be room for, some was written too. Where one
// record has a time that is to come, all behind it seem to be of the last hour, and nothing of
// the time before. And where a log holds nothing older, retention is that short: it takes the
// same all the time, by its mirror before a move and by its clients after.
func Sure(start, before, since, end int64, room time.Duration) bool {
	return before > start && float64(end-since) <= burst*float64(since-before)/room.Hours()
}

const (
	// fullBytes is less than a broker needs to begin new segments of some partitions.
	fullBytes = 64 << 20
	// soon is by how much the room must be beyond what refuses a move, or it is told.
	soon = 6
)

// brokers tells what a site has lost, or has fewer of.
func brokers(active *Site, target Site) []Finding {
	var found []Finding
	if absent := target.Brokers.Absent; len(absent) > 0 {
		var names []string
		for _, id := range absent {
			names = append(names, fmt.Sprint(id))
		}
		found = append(found, Finding{About: AboutBrokers, What: fmt.Sprintf("brokers of %s that have replicas of the group are not there, so one more that fails may stop its producers: %s", target.ID, few(names))})
	}
	if active != nil && target.Brokers.Alive > 0 && target.Brokers.Alive < active.Brokers.Alive {
		found = append(found, Finding{About: AboutBrokers, What: fmt.Sprintf("%s has %s now, %s has %d: each of them will have more to do", target.ID, number(target.Brokers.Alive, "broker"), active.ID, active.Brokers.Alive)})
	}
	return found
}

// disks tells whether the target has room for what the group writes. What retention will
// delete meanwhile is not counted, and neither is what others write.
func disks(active *Site, target Site, l Limits) []Finding {
	arrivals, unsure := target.Arrivals, target.Unsure
	if active != nil && active.Arrivals != nil {
		arrivals, unsure = active.Arrivals, active.Unsure
	}
	doubted := map[spillway.TopicPartition]bool{}
	for _, tp := range unsure {
		doubted[tp] = true
	}
	window := cmp.Or(l.Room, RoomDefault)
	var offline, full, otherFull, tight, maybe, soonTight, untold []string
	for _, d := range target.Disks {
		name := fmt.Sprintf("broker %d (%s)", d.Broker, d.Path)
		if d.Offline {
			offline = append(offline, name)
			continue
		}
		if d.UsableBytes < 0 {
			untold = append(untold, fmt.Sprintf("broker %d", d.Broker))
			continue
		}
		var hourly, sure int64
		for _, tp := range d.Has {
			hourly += arrivals[tp]
			if !doubted[tp] {
				sure += arrivals[tp]
			}
		}
		arrives := float64(hourly) * window.Hours()
		switch has := fmt.Sprintf("disk of %s has %s left", name, Bytes(d.UsableBytes)); {
		case d.UsableBytes < fullBytes && len(d.Has) == 0: // what the group writes does not go there
			otherFull = append(otherFull, has)
		case d.UsableBytes < fullBytes:
			full = append(full, has)
		case arrives > float64(d.UsableBytes) && float64(sure)*window.Hours() <= float64(d.UsableBytes):
			maybe = append(maybe, fmt.Sprintf("%s, the group seems to write %s/h to it", has, Bytes(hourly)))
		case arrives > float64(d.UsableBytes):
			tight = append(tight, fmt.Sprintf("%s, the group writes %s/h to it", has, Bytes(hourly)))
		case arrives*soon > float64(d.UsableBytes):
			soonTight = append(soonTight, fmt.Sprintf("%s, the group writes %s/h to it", has, Bytes(hourly)))
		}
	}
	var found []Finding
	tell := func(names []string, refuses bool, format string, args ...any) {
		if len(names) > 0 {
			found = append(found, Finding{About: AboutDisks, Refuses: refuses, Lasting: refuses, What: fmt.Sprintf(format, args...) + ": " + few(names)})
		}
	}
	tell(full, true, "disks are full at %s", target.ID)
	tell(otherFull, false, "disks on which the group has nothing are full at %s", target.ID)
	tell(tight, true, "disks of %s have no room for %s of what the group writes", target.ID, words(window))
	tell(maybe, false, "disks of %s have no room for %s of what the group seems to write; but of that there are logs that hold nothing older than %s, or had far less in the time before, so look at their retention and at the times of their records", target.ID, words(window), words(window+ArrivalsIn))
	tell(soonTight, false, "disks of %s have no room for %s of what the group writes", target.ID, words(soon*window))
	tell(offline, false, "directories are offline at %s, with all replicas that lie there", target.ID)
	tell(slices.Compact(untold), false, "how much room the disks of %s have is not told, and was not checked", target.ID)
	return found
}

// words is a time without the zeros that time.Duration writes.
func words(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// Bytes is a size as a person reads it.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	size, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB", "PiB"}
	for size >= unit && len(names) > 1 {
		size, names = size/unit, names[1:]
	}
	if size < 10 {
		return fmt.Sprintf("%.1f %s", size, names[0])
	}
	return fmt.Sprintf("%.0f %s", size, names[0])
}
