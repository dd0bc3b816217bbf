package workers

import (
	"slices"
	"strings"
	"testing"
)

// prefix has a worker be there for keys that begin with what it means.
func prefix(means, key string) bool { return strings.HasPrefix(key, means) }

func beat(worker string, term, n, seen int64, keeps ...string) Record {
	return Record{Worker: worker, Term: term, Beat: n, Seen: seen, Keeps: keeps}
}

// table is what a log says.
func table(log ...Record) *Table {
	t := Empty()
	for i, r := range log {
		t = t.With(int64(i), r)
	}
	return t
}

func TestATableSaysWhoIsThere(t *testing.T) {
	t.Parallel()
	out := func(r Record) Record { r.Evict = true; return r }
	for name, c := range map[string]struct {
		log  []Record
		want []string
	}{
		"nobody":                             {nil, nil},
		"two":                                {[]Record{beat("b", 1, 1, -1), beat("a", 1, 1, -1)}, []string{"a", "b"}},
		"put out":                            {[]Record{beat("a", 1, 1, -1), out(beat("a", 1, 1, 0))}, nil},
		"put out too late, it had beaten":    {[]Record{beat("a", 1, 1, -1), beat("a", 1, 2, 0), out(beat("a", 1, 1, 0))}, []string{"a"}},
		"what comes late does not count":     {[]Record{beat("a", 1, 1, -1), out(beat("a", 1, 1, 0)), beat("a", 1, 2, 0)}, nil},
		"comes again":                        {[]Record{beat("a", 1, 1, -1), out(beat("a", 1, 1, 0)), beat("a", 2, 1, 1)}, []string{"a"}},
		"somebody is put out who is unknown": {[]Record{out(beat("a", 1, 1, 0)), beat("a", 1, 2, 0)}, []string{"a"}},
	} {
		if got := table(c.log...).Members(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	left := table(beat("a", 1, 1, -1), beat("b", 1, 1, 0)).Without(2, "a")
	if got := left.With(3, beat("a", 1, 1, -1)).Members(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("a copy of its first word came after its good-bye: %v", got)
	}
}

// A key that changes hands is free when its former owner has said so, and before
// nobody takes it (C).
func TestAKeyIsFreeWhenItsOwnerHasLetItGo(t *testing.T) {
	t.Parallel()
	all := names(2)
	one, two := all[0], all[1]
	moves := slices.DeleteFunc(keys(50), func(key string) bool { return Owner(all, key) != two })
	key, slow := moves[0], moves[1]
	log := []Record{beat(one, 1, 1, -1), beat(one, 1, 2, 0), beat(two, 1, 1, 1)}
	now := table(log...)
	if now.Owner(key, prefix) != two || now.Free(two, key, prefix) || now.Free(one, key, prefix) {
		t.Error("the key is taken before its former owner knows")
	}
	now = now.With(3, beat(one, 1, 3, 1))
	if now.Free(two, key, prefix) {
		t.Error("the former owner acts by what was before")
	}
	before := now.Version()
	now = now.With(4, beat(one, 1, 4, 2, slow))
	if !now.Free(two, key, prefix) || now.Free(two, slow, prefix) || now.Version() == before {
		t.Error("of two keys one is let go, the other kept")
	}
	if now = now.With(5, beat(one, 1, 5, 4)); !now.Free(two, slow, prefix) {
		t.Error("the second one is let go")
	}
	// Keys of the one that was there stay free for it all the time.
	for _, stays := range keys(50) {
		if Owner(all, stays) == one && !table(log...).Free(one, stays, prefix) {
			t.Errorf("%s, which stays, is not free", stays)
		}
	}
	before = now.Version()
	if now = now.With(6, beat(one, 1, 6, 5)); now.Version() != before {
		t.Error("that somebody lives is no news")
	}
}

// Whoever does not mean a key is not there for it.
func TestWorkersAreThereForWhatTheyMean(t *testing.T) {
	t.Parallel()
	a, b := beat("a", 1, 1, -1), beat("b", 1, 1, 0)
	a.Means, b.Means = "p/orders", "p/carts"
	now := table(a, b)
	for key, want := range map[string]string{"p/orders>orders/0": "a", "p/carts>carts/0": "b", "p/others>others/0": ""} {
		if got := now.Owner(key, prefix); got != want {
			t.Errorf("%s belongs to %q", key, got)
		}
	}
}

// What is forgotten may have been anything.
func TestALongHistoryIsForgottenOnTheSafeSide(t *testing.T) {
	t.Parallel()
	all := names(3)
	now := table(beat(all[0], 1, 1, -1))
	for i := range int64(historyMax) {
		now = now.With(1+2*i, beat(all[1], i+1, 1, 2*i)).Without(2+2*i, all[1])
	}
	now = now.With(1000, beat(all[2], 1, 1, 999))
	for _, key := range keys(20) {
		if now.Owner(key, prefix) == all[2] && now.Free(all[2], key, prefix) {
			t.Fatal("the first worker has not told for long by what it acts")
		}
	}
	if len(now.history) > historyMax || len(now.terms) > termsMax {
		t.Errorf("%d, %d are remembered", len(now.history), len(now.terms))
	}
}

// E: who has the highest rank owns all, and has all when the others have said so.
func TestTheHighestRankOwnsAll(t *testing.T) {
	t.Parallel()
	all := names(2)
	one, two := all[0], all[1]
	ranked := func(r Record, rank int64) Record { r.Rank = rank; return r }
	log := []Record{ranked(beat(one, 1, 1, -1), 4), ranked(beat(two, 1, 1, 0), 4), ranked(beat(one, 1, 2, 1), 4)}
	now := table(log...)
	if now.Owner(Whole, prefix) != "" || now.Free(one, Whole, prefix) || now.Rank() != 4 || !slices.Equal(now.Highest(), all) {
		t.Error("of two that are alike one has the whole")
	}
	key := keys(50)[slices.IndexFunc(keys(50), func(key string) bool { return Owner(all, key) == two })]
	now = now.With(3, ranked(beat(one, 1, 3, 2), 7))
	if now.RankBeside(one) != 4 || now.RankBeside(two) != 7 || Empty().RankBeside(one) != 0 {
		t.Error("who compares itself with the others counts its own word, or not theirs")
	}
	if now.Owner(key, prefix) != one || now.Owner(Whole, prefix) != one || now.Rank() != 7 || !slices.Equal(now.Highest(), all[:1]) {
		t.Error("the higher rank owns nothing")
	}
	if now.Free(one, key, prefix) || now.Free(one, Whole, prefix) {
		t.Error("it has what the other one may be at work on")
	}
	if kept := now.With(4, ranked(beat(two, 1, 2, 3, key), 4)); kept.Free(one, key, prefix) || kept.Free(one, Whole, prefix) {
		t.Error("it has what the other one keeps")
	}
	now = now.With(4, ranked(beat(two, 1, 2, 3), 4))
	if !now.Free(one, key, prefix) || !now.Free(one, Whole, prefix) {
		t.Error("it has not what nobody else has")
	}
	now = now.With(5, ranked(beat(two, 1, 3, 4), 9))
	if now.Free(two, key, prefix) || now.Free(two, Whole, prefix) {
		t.Error("the next one does not wait")
	}
	if kept := now.With(6, ranked(beat(one, 1, 4, 5, Whole), 7)); kept.Free(two, key, prefix) || kept.Free(two, Whole, prefix) {
		t.Error("who keeps the whole keeps every key")
	}
	if now = now.With(6, ranked(beat(one, 1, 4, 5), 7)); !now.Free(two, key, prefix) || !now.Free(two, Whole, prefix) {
		t.Error("the next one has nothing")
	}
}
