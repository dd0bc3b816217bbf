package metadata

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func ptr(s string) *string { return &s }

func TestPlanSettings(t *testing.T) {
	for name, test := range map[string]struct {
		source       string
		wanted, here string // value of the key, "" for none
		owned        *Owned
		agreed       string
		change       string // new value, "-" for removed, "" for none
		kept         bool
		done         *Owned
	}{
		"nothing anywhere":                              {},
		"set at the source":                             {wanted: "1", change: "1", done: &Owned{Value: "1", From: "src"}},
		"equal by hand":                                 {wanted: "1", here: "1"},
		"another value by hand":                         {wanted: "1", here: "2", kept: true},
		"by hand, and nothing at the source":            {here: "2"},
		"ours, and changed at the source":               {wanted: "2", here: "1", owned: &Owned{Value: "1", From: "src"}, change: "2", done: &Owned{Value: "2", From: "src"}},
		"ours, and changed here by hand":                {wanted: "2", here: "3", owned: &Owned{Value: "1", From: "src"}, kept: true},
		"ours, and changed here to what the source has": {wanted: "2", here: "2", owned: &Owned{Value: "1", From: "src"}},
		"ours, and removed here: to be set again":       {wanted: "1", owned: &Owned{Value: "1", From: "src"}, change: "1", done: &Owned{Value: "1", From: "src"}},
		"ours, and removed at the source":               {here: "1", owned: &Owned{Value: "1", From: "src"}, change: "-"},
		"ours, and removed at both":                     {owned: &Owned{Value: "1", From: "src"}},
		"ours, changed by hand, removed at the source":  {here: "3", owned: &Owned{Value: "1", From: "src"}},
		"ours, from a cluster that is not the source":   {here: "1", owned: &Owned{Value: "1", From: "other"}, done: &Owned{Value: "1", From: "other"}},
		"ours, and the new source has it too":           {wanted: "1", here: "1", owned: &Owned{Value: "1", From: "other"}, done: &Owned{Value: "1", From: "src"}},
		"a change that was not made":                    {wanted: "2", here: "1", owned: &Owned{Value: "2", Before: ptr("1"), From: "src"}, change: "2", done: &Owned{Value: "2", From: "src"}},
		"a change that was made and not settled":        {wanted: "2", here: "2", owned: &Owned{Value: "2", Before: ptr("1"), From: "src"}, done: &Owned{Value: "2", From: "src"}},
		"a change not made, and taken back":             {here: "1", owned: &Owned{Value: "2", Before: ptr("1"), From: "src"}, change: "-"},
		"changed at the source after it served":         {wanted: "2", here: "1", agreed: "1", change: "2", done: &Owned{Value: "2", From: "src"}},
		"removed at the source after it served":         {here: "1", agreed: "1", change: "-"},
		"not what was agreed":                           {wanted: "2", here: "3", agreed: "1", kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, here, owned, agreed := map[string]Wanted{}, map[string]string{}, map[string]Owned{}, map[string]string{}
			if test.wanted != "" {
				wanted["k"] = Wanted{test.wanted, "src"}
			}
			if test.here != "" {
				here["k"] = test.here
			}
			if test.owned != nil {
				owned["k"] = *test.owned
			}
			if test.agreed != "" {
				agreed["k"] = test.agreed
			}
			p := PlanSettings("src", wanted, here, owned, agreed)
			change := ""
			if len(p.Changes) > 0 {
				if change = "-"; p.Changes[0].New != nil {
					change = *p.Changes[0].New
				}
			}
			if change != test.change || len(p.Kept) > 0 != test.kept {
				t.Errorf("change %q, kept %v", change, p.Kept)
			}
			var done *Owned
			if o, ok := p.Done["k"]; ok {
				done = &o
			}
			if !reflect.DeepEqual(done, test.done) {
				t.Errorf("owned at the end: %+v, want %+v", done, test.done)
			}
		})
	}
}

var (
	someKeys = []string{"a", "b", "c"}
	someKey  = rapid.SampledFrom(someKeys)
	some     = rapid.SampledFrom([]string{"1", "2", "3"})
)

// world is a source, this site, and what the mirror knows.
type world struct {
	source map[string]string
	here   map[string]string
	owned  map[string]Owned
	// byHand is what a person set here last and the mirror did not replace.
	byHand map[string]bool
}

func (w *world) plan(source string) SettingsPlan {
	wanted := make(map[string]Wanted)
	for k, v := range w.source {
		wanted[k] = Wanted{v, source}
	}
	return PlanSettings(source, wanted, w.here, w.owned, nil)
}

func (w *world) apply(c Change) {
	if c.New == nil {
		delete(w.here, c.Key)
	} else {
		w.here[c.Key] = *c.New
	}
}

// round does what the mirror does, and dies after some steps, if it is told so.
func (w *world) round(source string, steps int) {
	p := w.plan(source)
	if steps--; steps < 0 {
		return
	}
	w.owned = p.Intent
	for _, c := range p.Changes {
		if steps--; steps < 0 {
			return
		}
		w.apply(c)
	}
	if steps--; steps < 0 {
		return
	}
	w.owned = p.Done
}

const allSteps = 1 << 10

// Whatever people do at both sites and wherever the mirror dies, it never changes
// what a person set here, and comes to rest with all else as the source has it.
func TestSettingsFollowAndNeverTouchWhatOthersSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{source: map[string]string{}, here: map[string]string{}, owned: map[string]Owned{}, byHand: map[string]bool{}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			key := someKey.Draw(t, "key")
			switch rapid.SampledFrom([]string{"source sets", "source removes", "hand sets", "hand removes", "round", "round", "crash"}).Draw(t, "step") {
			case "source sets":
				w.source[key] = some.Draw(t, "value")
			case "source removes":
				delete(w.source, key)
			case "hand sets":
				value := some.Draw(t, "value")
				if o, ours := w.owned[key]; ours && o.wrote(value) {
					continue // the same as the mirror's cannot be told from it
				}
				w.here[key], w.byHand[key] = value, true
			case "hand removes":
				delete(w.here, key)
				delete(w.byHand, key)
			case "round":
				w.check(t, allSteps)
			case "crash":
				w.check(t, rapid.IntRange(0, 4).Draw(t, "dies after"))
			}
		}
		w.check(t, allSteps)
		for _, key := range someKeys {
			theirs, has := w.source[key]
			ours, set := w.here[key]
			if !w.byHand[key] && (has != set || theirs != ours) {
				t.Fatalf("%s: %q %v at the source, %q %v here, and nobody else set it", key, theirs, has, ours, set)
			}
		}
		if p := w.plan("src"); len(p.Changes) != 0 || !maps.Equal(p.Done, w.owned) {
			t.Fatalf("not at rest: %+v", p)
		}
	})
}

func (w *world) check(t *rapid.T, steps int) {
	before := maps.Clone(w.here)
	w.round("src", steps)
	for key := range w.byHand {
		if w.here[key] != before[key] {
			t.Fatalf("%s was set to %s by hand and is %q", key, before[key], w.here[key])
		}
	}
}

// A cluster that never had a setting does not take it away (B).
func TestAnEmptySourceRemovesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{source: rapid.MapOf(someKey, some).Draw(t, "source"), here: map[string]string{}, owned: map[string]Owned{}}
		w.round("src", allSteps)
		before := maps.Clone(w.here)
		w.source = map[string]string{}
		w.round("new", allSteps)
		if !maps.Equal(before, w.here) {
			t.Fatalf("%v became %v", before, w.here)
		}
	})
}

func TestCarried(t *testing.T) {
	got := Carried("src", map[string]string{
		"retention.ms": "1", "min.insync.replicas": "3", "remote.storage.enable": "true", "local.retention.ms": "5",
		"compression.type": "zstd", "message.timestamp.type": "LogAppendTime", "segment.bytes": "100", "flush.ms": "7",
	}, []string{"flush.*"})
	want := map[string]Wanted{"retention.ms": {"1", "src"}, "segment.bytes": {"100", "src"}, "unclean.leader.election.enable": {"false", ""}}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// What was borrowed while the mirror wrote becomes what the source had, when the
// site serves; what others changed meanwhile stays.
func TestBorrowedSettingsAreGivenBack(t *testing.T) {
	here := map[string]string{"message.timestamp.type": "LogAppendTime", "compression.type": "producer"}
	changes, borrowed := PlanBorrowed(map[string]string{"message.timestamp.type": "LogAppendTime"}, here, nil, false)
	keys := []string{"message.timestamp.after.max.ms", "message.timestamp.before.max.ms", "message.timestamp.type"}
	if got := slices.Sorted(maps.Keys(borrowed)); !slices.Equal(got, keys) || len(changes) != 3 {
		t.Fatalf("%v, changes %+v", borrowed, changes)
	}
	w := &world{here: here}
	for _, c := range changes {
		w.apply(c)
	}
	// The source changes a setting that is lent out, and somebody changes one here.
	again, borrowed := PlanBorrowed(map[string]string{"message.timestamp.type": "LogAppendTime", "message.timestamp.after.max.ms": "5"}, here, borrowed, false)
	if len(again) != 0 {
		t.Fatalf("changed again: %+v", again)
	}
	here["message.timestamp.before.max.ms"] = "17"
	returned, left := PlanReturned(here, borrowed, false)
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, c := range returned {
		w.apply(c)
	}
	want := map[string]string{"message.timestamp.type": "LogAppendTime", "message.timestamp.after.max.ms": "5", "message.timestamp.before.max.ms": "17", "compression.type": "producer"}
	if !maps.Equal(here, want) {
		t.Errorf("%v", here)
	}
}

// The cleaner of a log that hides records is stopped while the site follows and while it
// serves, and goes on as at the source when nothing is hidden any more (C11).
func TestCleanersAreStoppedAndGoOn(t *testing.T) {
	week, never := "604800000", Stopped["min.compaction.lag.ms"]
	theirs := map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": week}
	w := &world{here: map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": week}}
	apply := func(changes []Change) {
		for _, c := range changes {
			w.apply(c)
		}
	}
	is := func(when, least, most string) {
		t.Helper()
		if w.here["min.compaction.lag.ms"] != least || w.here["max.compaction.lag.ms"] != most {
			t.Fatalf("%s: %v", when, w.here)
		}
	}
	changes, borrowed := PlanBorrowed(theirs, w.here, nil, true)
	apply(changes)
	is("stopped", never, never)
	if b := borrowed["min.compaction.lag.ms"]; b == nil || *b != week {
		t.Fatalf("it is not known what to give back: %v", borrowed)
	}
	changes, borrowed = PlanReturned(w.here, borrowed, true) // the site serves
	apply(changes)
	is("while the site serves", never, never)
	if len(borrowed) != len(Stopped) {
		t.Fatalf("left: %v", borrowed)
	}
	changes, borrowed = PlanBorrowed(theirs, w.here, borrowed, true) // and follows again
	apply(changes)
	is("still stopped", never, never)
	changes, borrowed = PlanBorrowed(theirs, w.here, borrowed, false) // made anew
	apply(changes)
	is("goes on", week, "")
	if len(borrowed) != len(Needs) {
		t.Fatalf("borrowed: %v", borrowed)
	}
	// A topic that becomes compacted while the site serves.
	changes, left := PlanReturned(w.here, nil, true)
	apply(changes)
	is("stopped where it serves", never, never)
	changes, left = PlanReturned(w.here, left, false)
	apply(changes)
	is("given back where it serves", week, "")
	if len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
}
