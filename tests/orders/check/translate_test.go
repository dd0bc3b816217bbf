package check_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// The expected position, computed by counters, re-reads and skips nothing; one
// record lower or higher does, unless only holes lie between.
func TestTranslation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := randomLogs(t)
		tr := check.NewTranslation(source, target)
		at := rapid.Int64Range(0, source.End).Draw(t, "at")
		lowest, highest := tr.Expected(at)
		for o := range target.End + 1 {
			reread, skipped := tr.Judge(at, o)
			if exact := reread == 0 && skipped == 0; exact != (lowest <= o && o <= highest) {
				t.Fatalf("source %d → target %d: re-reads %d, skips %d; expected [%d, %d]", at, o, reread, skipped, lowest, highest)
			}
		}
	})
}

// randomLogs are a log with holes, and its mirror with others: some records
// were compacted away on one side only.
func randomLogs(t *rapid.T) (source, target *check.Log) {
	source, target = &check.Log{}, &check.Log{}
	counters := map[string]int64{}
	for range rapid.IntRange(1, 40).Draw(t, "records") {
		p := rapid.SampledFrom([]string{"one", "two"}).Draw(t, "producer")
		id := history.ID{Producer: p, Topic: "t", Counter: counters[p]}
		counters[p]++
		where := rapid.IntRange(0, 9).Draw(t, "where")
		for i, log := range []*check.Log{source, target} {
			log.End += rapid.Int64Range(0, 2).Draw(t, "hole")
			if where == i {
				continue
			}
			log.Records = append(log.Records, check.Record{Offset: log.End, ID: id})
			log.End++
		}
	}
	return source, target
}

func TestTranslationByExample(t *testing.T) {
	log := func(offsets ...int64) *check.Log {
		l := &check.Log{}
		for i, o := range offsets {
			l.Records = append(l.Records, check.Record{Offset: o, ID: history.ID{Producer: "p", Topic: "t", Counter: int64(i)}})
			l.End = o + 1
		}
		return l
	}
	tr := check.NewTranslation(log(0, 1, 5, 6), log(10, 11, 12, 20))
	for _, c := range []struct{ at, lowest, highest int64 }{
		{0, 0, 10}, {1, 11, 11}, {2, 12, 12}, {5, 12, 12}, {6, 13, 20}, {7, 21, 21},
	} {
		if lowest, highest := tr.Expected(c.at); lowest != c.lowest || highest != c.highest {
			t.Errorf("Expected(%d) = [%d, %d], want [%d, %d]", c.at, lowest, highest, c.lowest, c.highest)
		}
	}
	if reread, skipped := tr.Judge(5, 11); reread != 1 || skipped != 0 {
		t.Errorf("one too low: re-reads %d, skips %d", reread, skipped)
	}
	if reread, skipped := tr.Judge(5, 13); reread != 0 || skipped != 1 {
		t.Errorf("one too high: re-reads %d, skips %d", reread, skipped)
	}
}

// A million records are within what a test can afford.
func BenchmarkTranslationOfAMillion(b *testing.B) {
	source, target := &check.Log{}, &check.Log{}
	for i := range int64(1_000_000) {
		id := history.ID{Producer: fmt.Sprintf("p%d", i%3), Topic: "t", Counter: i / 3}
		source.Records = append(source.Records, check.Record{Offset: i + i/100, ID: id})
		target.Records = append(target.Records, check.Record{Offset: i, ID: id})
	}
	source.End, target.End = 1_010_000, 1_000_000
	tr := check.NewTranslation(source, target)
	b.ResetTimer()
	for range b.N {
		tr.Expected(rand.Int64N(source.End))
	}
}
