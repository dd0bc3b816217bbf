package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// forgetful is a store that reads nobody the history.
type forgetful struct {
	coordination.Store
	asked *atomic.Int64
}

var errForgotten = errors.New("too large to be read in time")

func (f forgetful) Get(ctx context.Context, key string) (coordination.Entry, error) {
	if strings.Contains(key, "/history/") {
		f.asked.Add(1)
		return coordination.Entry{}, errForgotten
	}
	return f.Store.Get(ctx, key)
}

func (f forgetful) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	if strings.Contains(prefix, "/history/") {
		return nil, errForgotten
	}
	return f.Store.List(ctx, prefix)
}

// Years of moves cannot be read in time: a site fails over all the same, the rate limit
// counts, and people move groups. Only what is told of the pause is missing.
func TestNoMoveDependsOnTheHistory(t *testing.T) {
	t.Parallel()
	store := forgetful{coordtest.NewMemory(), &atomic.Int64{}}
	w := newWorld(t, options{store: store, group: func(g *spillway.FailoverGroup) {
		g.Failover = spillway.AutomaticFailover{Enabled: true, After: 200 * time.Millisecond, LossRecordsMax: 1000}
	}})
	w.settled(1)
	w.kill("east")
	share := w.settled(2)
	if n := share.FailoversAfter(time.Now().Add(-time.Hour)); n != 1 {
		t.Errorf("%d failovers in the last hour", n)
	}
	to := spillway.SiteID("north")
	if share.Active == to {
		to = "west"
	}
	if plan := w.switchover(to, ""); plan.PauseMillis < 0 || !strings.Contains(plan.PauseWhy, "no earlier move was measured") {
		t.Errorf("%+v", plan)
	}
	if store.asked.Load() == 0 {
		t.Error("nobody asked for the history")
	}
}

// moveOver is a loop that is about to end a move of many partitions.
func moveOver(store coordination.Store, partitions int, at time.Time) (d *driver, next failover.Share) {
	offsets := failover.PartitionOffsets{}
	for i := range partitions {
		offsets.Set(spillway.TopicPartition{Topic: "orders", Partition: int32(i)}, 9_000_000_000+spillway.Offset(i))
	}
	c := &Control{cfg: Config{Store: store, Clock: coordination.SystemClock{}}, keys: "shop"}
	d = &driver{c: c, id: spillway.ShareID{Group: "orders"}}
	d.share = failover.Share{Group: "orders", State: failover.Open, Kind: failover.Switchover, Epoch: 2, Active: "west", Target: "west", Start: offsets, Cutover: offsets,
		Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "west"}}}
	next = d.share
	next.State, next.Since, next.Start, next.Cutover = failover.Stable, at, nil, nil
	next.Passages = []failover.Passage{{State: failover.Stable, At: at, Why: at.String()}}
	return d, next
}

// Two loops end a move of many partitions at once, and each writes its account in parts:
// what is there afterwards is the account of one of them.
func TestTwoLoopsWriteALargeHistory(t *testing.T) {
	t.Parallel()
	const partitions = 30_000
	store, at := coordtest.NewMemory(), time.Date(2026, 5, 1, 12, 0, 0, 123_000_000, time.UTC)
	first, nextFirst := moveOver(store, partitions, at)
	second, nextSecond := moveOver(store, partitions, at.Add(45_678*time.Microsecond)) // written with more digits
	version, err := store.Put(within(t), first.c.keys.Share(first.id), first.share.Encode()[:0], 0)
	if err != nil {
		t.Fatal(err)
	}
	first.version, second.version = version, version
	between := false
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		// The second loop does all of it when the first has written a part.
		if when == coordtest.BeforeWrite && strings.HasSuffix(ops[0].Key, "/0001") && !between {
			between = true
			if _, _, _, err := second.finish(within(t), nextSecond); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if _, _, _, err := first.finish(within(t), nextFirst); !errors.Is(err, coordination.ErrConflict) || !between {
		t.Fatalf("the first loop: %v", err)
	}
	store.Fail(nil)
	want, err := json.Marshal(history.Of(second.share, nextSecond, 0))
	if err != nil {
		t.Fatal(err)
	}
	one, err := readRecord(within(t), store, first.c.keys.History(first.id, 2))
	if err != nil {
		t.Fatal(err)
	}
	all, err := readHistory(within(t), store, first.c.keys, first.id)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d records, %v", len(all), err)
	}
	for _, r := range []history.Record{one, all[0]} {
		if got, err := json.Marshal(r); err != nil || string(got) != string(want) {
			t.Errorf("not what the loop wrote whose record stands: %.300s", got)
		}
	}
	if parts := store.Peek(first.c.keys.History(first.id, 2) + "/"); len(parts) != (len(want)+chunkBytes-1)/chunkBytes {
		t.Errorf("%d parts are left of %d bytes", len(parts), len(want))
	}
}

// storedMove is a large moveOver whose record the store has.
func storedMove(t *testing.T, store coordination.Store) (d *driver, next failover.Share) {
	t.Helper()
	d, next = moveOver(store, 30_000, time.Now())
	version, err := store.Put(within(t), d.c.keys.Share(d.id), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	d.version = version
	return d, next
}

// A part that is gone, or another one's, is noticed; it hides no other move.
func TestAHistoryWithAWrongPart(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	d, next := storedMove(t, store)
	key := d.c.keys.History(d.id, 2)
	if _, _, _, err := d.finish(within(t), next); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(within(t), d.c.keys.History(d.id, 3), []byte(`{"group":"orders","epoch":3,"who":"ann"}`), 0); err != nil {
		t.Fatal(err)
	}
	part := store.Peek(key + "/")[1]
	wrong := []byte(strings.Replace(string(part.Value), "90000", "90001", 1))
	version, err := store.Put(within(t), part.Key, wrong, part.Version)
	if err != nil {
		t.Fatal(err)
	}
	part.Version = version
	look := func(want string) {
		t.Helper()
		if _, err := readRecord(within(t), store, key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		all, err := readHistory(within(t), store, d.c.keys, d.id)
		if err != nil || len(all) != 2 || all[0].Epoch != 2 || !strings.Contains(all[0].Unread, want) || all[1].Who != "ann" || all[1].Unread != "" {
			t.Errorf("%+v, %v", all, err)
		}
	}
	look("parts are not what was written")
	if err := store.Delete(within(t), part.Key, part.Version); err != nil {
		t.Fatal(err)
	}
	look("no such key")
	share := failover.Share{Group: "orders", Terms: []failover.Term{{Epoch: 1}, {Epoch: 2, Trimmed: true}, {Epoch: 3, Continues: true}, {Epoch: 5}}}
	if last := lastMoves(within(t), store, d.c.keys, share); len(last) != 0 {
		t.Errorf("%+v", last)
	}
	for _, epoch := range []spillway.Epoch{4, 5} {
		if _, err := store.Put(within(t), d.c.keys.History(d.id, epoch), fmt.Appendf(nil, `{"epoch":%d}`, epoch), 0); err != nil && epoch > 3 {
			t.Fatal(err)
		}
	}
	share.Terms = append(share.Terms, failover.Term{Epoch: 7, Continues: true})
	if last := lastMoves(within(t), store, d.c.keys, share); len(last) != 1 || last[0].Epoch != 5 {
		t.Errorf("%+v", last)
	}
}

// slowHistory is a store that takes its time for each account, and counts how many are
// asked for at the same time.
type slowHistory struct {
	coordination.Store
	asked, now, most atomic.Int64
}

func (s *slowHistory) Get(ctx context.Context, key string) (coordination.Entry, error) {
	s.asked.Add(1)
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(5 * time.Millisecond)
	return s.Store.Get(ctx, key)
}

// A mirror that starts after many moves reads where each began, several at a time and each
// once, and says what to do about one that is gone.
func TestManyTrimmedTermsAreRead(t *testing.T) {
	t.Parallel()
	const terms = 200
	store := &slowHistory{Store: coordtest.NewMemory()}
	keys, share := failover.Keys("shop"), failover.Share{Group: "orders", Terms: []failover.Term{{Epoch: 1}}}
	for e := spillway.Epoch(2); e <= terms; e++ {
		share.Terms = append(share.Terms, failover.Term{Epoch: e, Trimmed: true, Mask: uint64(e)})
		r := history.Record{Epoch: e, Start: failover.PartitionOffsets{"orders": {spillway.Offset(1000 * e), 7, -1}}, Verified: failover.PartitionOffsets{"orders": {spillway.Offset(1000*e - 1), -1, -1}}}
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(within(t), keys.History(share.ID(), e), value, 0); err != nil {
			t.Fatal(err)
		}
	}
	gone := keys.History(share.ID(), 77)
	e, err := store.Get(within(t), gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(within(t), gone, e.Version); err != nil {
		t.Fatal(err)
	}
	known := map[spillway.Epoch]failover.Term{}
	store.asked.Store(0)
	if _, err := untrimmed(within(t), store, keys, share, known); err == nil || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "restore that key from a backup") {
		t.Errorf("%v", err)
	}
	if most := store.most.Load(); most < 4 || most > readAtOnce || store.asked.Load() != terms-1 {
		t.Errorf("%d were asked for, %d at once", store.asked.Load(), most)
	}
	if _, err := store.Put(within(t), gone, e.Value, 0); err != nil {
		t.Fatal(err)
	}
	store.asked.Store(0)
	full, err := untrimmed(within(t), store, keys, share, known)
	if err != nil || store.asked.Load() != 1 {
		t.Fatalf("%v, %d were asked for again", err, store.asked.Load())
	}
	for i, term := range full.Terms[1:] {
		epoch := spillway.Epoch(i + 2)
		for partition, want := range []spillway.Offset{spillway.Offset(1000*epoch - 1), 0, -1} {
			bound, ok := term.Bound(spillway.TopicPartition{Topic: "orders", Partition: int32(partition)})
			if ok != (want >= 0) || ok && bound != want || term.Trimmed || term.Mask != uint64(epoch) || term.Start != nil {
				t.Fatalf("epoch %d, partition %d: %d, %v; %+v", epoch, partition, bound, ok, term)
			}
		}
	}
}

// While the store refuses the end of a move, it is tried again every 200 ms: with the same
// parts, however often, also where the answer to the write of one was lost.
func TestAnEndThatIsRefusedDoesNotFillTheStore(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	d, next := storedMove(t, store)
	key := d.c.keys.History(d.id, 2)
	lost, whole := false, []coordination.Entry(nil)
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		switch {
		case when == coordtest.BeforeWrite && len(ops) > 1:
			return errors.New("413 Request Entity Too Large")
		case when == coordtest.AfterWrite && strings.HasSuffix(ops[0].Key, "/0001") && !lost:
			lost = true
			return errors.New("its answer was lost")
		}
		return nil
	})
	for i := range 8 {
		if _, _, _, err := d.finish(within(t), next); err == nil {
			t.Fatal("it was to fail")
		}
		next.Since = next.Since.Add(time.Millisecond)
		if i == 1 {
			whole = store.Peek(key + "/")
		}
	}
	if parts := store.Peek(key + "/"); !reflect.DeepEqual(parts, whole) || !lost || len(whole) < 3 {
		t.Errorf("%d parts after 2 tries, %d or others after 8", len(whole), len(parts))
	}
	// The last write is done, and its answer lost: what it names stays.
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.AfterWrite && len(ops) > 1 {
			return errors.New("its answer was lost")
		}
		return nil
	})
	if _, _, _, err := d.finish(within(t), next); err == nil {
		t.Fatal("it was to fail")
	}
	store.Fail(nil)
	if _, _, _, err := d.finish(within(t), next); !errors.Is(err, coordination.ErrConflict) {
		t.Error(err)
	}
	if r, err := readRecord(within(t), store, key); err != nil || len(r.Start["orders"]) != 30_000 {
		t.Errorf("the account of the move: %v", err)
	}
}

// What a loop wrote that could not end a move goes: its own parts where another one was
// faster, also when the time for the write was over by then, and those of one that died.
func TestPartsThatNobodyNamesAreDeleted(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	first, nextFirst := moveOver(store, 30_000, time.Now())
	second, nextSecond := moveOver(store, 30_000, time.Now().Add(45_678*time.Microsecond))
	dead, nextDead := moveOver(store, 30_000, time.Now().Add(time.Second))
	key := first.c.keys.History(first.id, 2)
	version, err := store.Put(within(t), first.c.keys.Share(first.id), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	first.version, second.version, dead.version = version, version, version
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeWrite && len(ops) > 1 {
			return errors.New("not now")
		}
		return nil
	})
	for d, next := range map[*driver]failover.Share{first: nextFirst, dead: nextDead} {
		if _, _, _, err := d.finish(within(t), next); err == nil {
			t.Fatal("it was to fail")
		}
	}
	store.Fail(nil)
	if _, _, _, err := second.finish(within(t), nextSecond); err != nil {
		t.Fatal(err)
	}
	all := len(store.Peek(key + "/"))
	over, cancel := context.WithCancel(t.Context())
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeWrite && len(ops) > 1 {
			cancel()
		}
		return nil
	})
	if _, _, _, err := first.finish(over, nextFirst); !errors.Is(err, coordination.ErrConflict) {
		t.Fatal(err)
	}
	store.Fail(nil)
	if parts := len(store.Peek(key + "/")); parts*3 != all*2 {
		t.Errorf("%d parts, %d are left by the one that was too late", all, parts)
	}
	second.share = nextSecond
	second.sweep(within(t))
	if parts := len(store.Peek(key + "/")); parts*3 != all {
		t.Errorf("%d parts, %d are left when the dead one's are swept", all, parts)
	}
	if r, err := readRecord(within(t), store, key); err != nil || !r.Ended.Equal(nextSecond.Since) && len(r.Start["orders"]) != 30_000 {
		t.Errorf("the account of the move: %v", err)
	}
}

// Only what is gone or spoilt is to be restored: what could not be read now may be read later.
func TestARestoreIsAskedForWhereItHelps(t *testing.T) {
	t.Parallel()
	memory := coordtest.NewMemory()
	keys, share := failover.Keys("shop"), failover.Share{Group: "orders", Terms: []failover.Term{{Epoch: 1}, {Epoch: 2, Trimmed: true}}}
	ask := func(store coordination.Store) bool {
		t.Helper()
		_, err := untrimmed(within(t), store, keys, share, map[spillway.Epoch]failover.Term{})
		if err == nil {
			t.Fatal("it was to fail")
		}
		return strings.Contains(err.Error(), "restore that key from a backup")
	}
	if !ask(memory) {
		t.Error("it is gone")
	}
	if ask(forgetful{memory, &atomic.Int64{}}) { // denied, say
		t.Error("it could not be read")
	}
	version := uint64(0)
	for _, spoilt := range []string{"{", `{"epoch":2,"chunks":1,"parts":"a","sum":"other"}`} {
		if err := memory.Txn(within(t), []coordination.Op{{Key: keys.History(share.ID(), 2), Value: []byte(spoilt), Version: version}}); err != nil {
			t.Fatal(err)
		}
		if version == 0 {
			if _, err := memory.Put(within(t), keys.History(share.ID(), 2)+"/a/0000", []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if !ask(memory) {
			t.Errorf("%s is spoilt", spoilt)
		}
		e, err := memory.Get(within(t), keys.History(share.ID(), 2))
		if err != nil {
			t.Fatal(err)
		}
		version = e.Version
	}
}

// What stands still because its record is too large says so, once.
func TestARecordThatIsTooLargeSaysSo(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	d, _ := moveOver(store, 10, time.Now())
	version, err := store.Put(within(t), d.c.keys.Share(d.id), d.share.Encode(), 0)
	if err != nil {
		t.Fatal(err)
	}
	d.take(coordination.Entry{Key: d.c.keys.Share(d.id), Value: d.share.Encode(), Version: version})
	large := make([]byte, 300<<10)
	tooLarge := coordination.CheckOps([]coordination.Op{{Key: "a", Value: large}, {Key: "b", Value: large}})
	d.tellSize(within(t), errors.New("not now"))
	if d.stored.Asking != "" {
		t.Errorf("%q", d.stored.Asking)
	}
	d.tellSize(within(t), tooLarge)
	e, err := store.Get(within(t), d.c.keys.Share(d.id))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := failover.Decode(e.Value); err != nil || !strings.Contains(back.Asking, "too large for the coordinator store") {
		t.Errorf("%q, %v", back.Asking, err)
	}
	d.tellSize(within(t), tooLarge)
	if again, err := store.Get(within(t), e.Key); err != nil || again.Version != e.Version {
		t.Errorf("it is written again: %v", err)
	}
}
