package replay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway"
	"spillway/mirror"
)

// drawn makes a record out of few contents, keys and producers, so that all of them meet.
func drawn(t *rapid.T, name string, producers int64) record {
	r := record{
		key: fmt.Append(nil, rapid.IntRange(0, 2).Draw(t, name+": key")), value: fmt.Append(nil, rapid.IntRange(0, 2).Draw(t, name+": value")),
		timestamp: rapid.Int64Range(0, 1).Draw(t, name+": time"), sequence: -1,
	}
	if id := rapid.Int64Range(0, producers).Draw(t, name+": producer"); id > 0 {
		r.producer, r.sequence = producer{spillway.ClientProducerID(uint64(id)), 0}, rapid.Int32Range(0, 20).Draw(t, name+": sequence")
	}
	return r
}

// twin decides the same with lists and loops.
func twin(lost, log []record, compacted bool) []fate {
	same := func(a, b record) bool {
		return string(a.key) == string(b.key) && string(a.value) == string(b.value) && a.timestamp == b.timestamp
	}
	fates := make([]fate, len(lost))
	byNumber := func(r record) bool {
		return r.sequence >= 0 && slices.ContainsFunc(lost, func(l record) bool { return l.producer == r.producer })
	}
	foreign := make(map[string]bool)
	var contents []record
	for _, r := range log {
		i := slices.IndexFunc(lost, func(l record) bool { return l.producer == r.producer && l.sequence == r.sequence && same(l, r) })
		switch {
		case byNumber(r) && i >= 0:
			fates[i] = numbered
		case !byNumber(r) && slices.ContainsFunc(lost, func(l record) bool { return same(l, r) }):
			contents = append(contents, r)
		default:
			foreign[string(r.key)] = true
		}
	}
	for _, r := range contents {
		for i, l := range lost {
			if fates[i] == missing && same(l, r) {
				fates[i] = there
				break
			}
		}
	}
	if compacted {
		for i, l := range lost {
			if fates[i] != missing {
				continue
			}
			over := foreign[string(l.key)]
			for j := i + 1; j < len(lost); j++ {
				over = over || string(lost[j].key) == string(l.key) && (fates[j] == numbered || fates[j] == there)
			}
			if over {
				fates[i] = superseded
			}
		}
	}
	return fates
}

func TestComparisonAgainstATwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		compacted := rapid.Bool().Draw(t, "compacted")
		var lost, log []record
		next := make(map[producer]int32)
		for i := range rapid.IntRange(0, 12).Draw(t, "lost") {
			r := drawn(t, fmt.Sprintf("lost %d", i), 2)
			r.local = spillway.LocalOffset(100 + 2*i)
			if r.sequence >= 0 {
				r.sequence = next[r.producer]
				next[r.producer]++
			}
			lost = append(lost, r)
		}
		c := newComparison(rules{compacted: compacted})
		for _, r := range lost {
			if err := c.add(r); err != nil {
				t.Fatal(err)
			}
		}
		for i := range rapid.IntRange(0, 20).Draw(t, "log") {
			r := drawn(t, fmt.Sprintf("log %d", i), 3)
			if len(lost) > 0 && rapid.Bool().Draw(t, "it is a copy") {
				r = rapid.SampledFrom(lost).Draw(t, "of")
				if rapid.Bool().Draw(t, "under other numbers") {
					r.producer, r.sequence = producer{}, -1
				}
			}
			log = append(log, r)
			c.see(c.look(r))
			if want, got := twin(lost, log, compacted), c.settle().fates; !slices.Equal(got, want) {
				t.Fatalf("fates %v, want %v\nlost %+v\nlog %+v", got, want, lost, log)
			}
		}
		fates := c.settle()
		if all := fates; len(lost) > 1 && (all.next(lost[1].local-1) != unknown || all.next(lost[1].local) != c.settle().fates[1]) {
			t.Fatal("a record that was not compared has a fate, or one that was has none")
		}
	})
}

func TestComparisonIsBounded(t *testing.T) {
	c := newComparison(rules{})
	c.contents = make([]digest, RecordsMax)
	if err := c.add(record{}); err == nil || !strings.Contains(err.Error(), "more than 1048576 records") {
		t.Errorf("one too many: %v", err)
	}
}

// A partition has another producer in each term, and partitions have different ones:
// numbers of one must not mean records of another.
func TestOwnProducers(t *testing.T) {
	tp := spillway.TopicPartition{Topic: "orders", Partition: 1}
	ids := map[int64]bool{
		ownProducer("shop", tp, 2): true, ownProducer("shop", tp, 3): true, ownProducer("other", tp, 2): true,
		ownProducer("shop", spillway.TopicPartition{Topic: "carts", Partition: 1}, 2): true, ownProducer("shop", spillway.TopicPartition{Topic: "orders"}, 2): true,
	}
	for id := range ids {
		if !spillway.IsClientProducerID(id) {
			t.Errorf("gateways refuse the id %d", id)
		}
	}
	if len(ids) != 5 || !ids[ownProducer("shop", tp, 2)] {
		t.Errorf("%d ids of 5", len(ids))
	}
}

// What was kept of an epoch counts for how far the log has to reach back; what was not, does not.
func TestWhereRecordsBegin(t *testing.T) {
	tp := spillway.TopicPartition{Topic: "orders"}
	term := func(epoch spillway.Epoch, verified, start spillway.Offset) Term {
		return Term{Epoch: epoch, Start: func(spillway.TopicPartition) spillway.Offset { return start }, Verified: func(spillway.TopicPartition) spillway.Offset { return verified }}
	}
	for _, c := range []struct {
		terms Terms
		want  spillway.Offset
	}{
		{Terms{term(1, -1, -1)}, 0},
		{Terms{term(1, -1, -1), term(2, 100, 150)}, 150},
		{Terms{term(1, -1, -1), term(2, 100, 150), term(3, 170, 200)}, 150},
		{Terms{term(1, -1, -1), term(2, 100, 150), term(3, 150, 200)}, 200},
		{Terms{term(1, -1, -1), term(2, 100, 150), term(3, 150, 200), term(4, 201, 250)}, 200},
		{Terms{term(1, -1, -1), term(2, -1, -1)}, 0},
	} {
		if got := c.terms.begun(tp, 1); got != c.want {
			t.Errorf("%d terms: %d, want %d", len(c.terms), got, c.want)
		}
	}
}

// Where brokers stamp records, the same record has another time at each site.
func TestTimesOfBrokersDoNotCount(t *testing.T) {
	for appendTime, want := range map[bool]fate{true: there, false: missing} {
		c := newComparison(rules{appendTime: appendTime})
		if err := c.add(record{key: []byte("k"), timestamp: 1, sequence: -1}); err != nil {
			t.Fatal(err)
		}
		c.see(c.look(record{key: []byte("k"), timestamp: 2, sequence: -1}))
		if got := c.settle().fates[0]; got != want {
			t.Errorf("append time %t: fate %d, want %d", appendTime, got, want)
		}
	}
	s := topicSettings{rules: rules{appendTime: true}, beforeMax: time.Second}
	if why := s.refuses(mirror.UnreplicatedRecord{}, time.Now()); why != "" {
		t.Errorf("a broker that stamps records itself takes old ones: %s", why)
	}
}

func TestRecordsOfAnotherAgeAreRefused(t *testing.T) {
	now := time.Now()
	s := topicSettings{beforeMax: time.Hour, afterMax: time.Minute}
	for _, c := range []struct {
		at   time.Duration
		want string
	}{{-2 * time.Hour, "message.timestamp.before.max.ms"}, {-time.Minute, ""}, {30 * time.Second, ""}, {2 * time.Minute, "message.timestamp.after.max.ms"}} {
		why := s.refuses(mirror.UnreplicatedRecord{Topic: "orders", Timestamp: now.Add(c.at).UnixMilli()}, now)
		if (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s: %q", c.at, why)
		}
	}
	if why := (topicSettings{}).refuses(mirror.UnreplicatedRecord{}, now); why != "" {
		t.Error(why)
	}
}
