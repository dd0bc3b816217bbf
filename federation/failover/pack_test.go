package failover

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"spillway"
	"spillway/federation/coordination"
)

// What is packed is what JSON would have said, in each state of many moves.
func TestPackedRecordsSayTheSame(t *testing.T) {
	t.Parallel()
	seen := 0
	hundredMoves(t, 60, rand.New(rand.NewPCG(5, 6)), func(s Share) {
		var want Share
		if err := json.Unmarshal(s.plain(), &want); err != nil {
			t.Fatal(err)
		}
		before := string(s.plain())
		packed := s.pack()
		if string(s.plain()) != before {
			t.Fatal("packing a record changes it")
		}
		if got, err := Decode(packed); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n%s\n%s", err, got.plain(), want.plain())
		}
		if !bytes.Equal(packed, want.pack()) {
			t.Fatal("the same record is packed in two ways")
		}
		seen++
	})
	if seen < 200 {
		t.Errorf("%d records", seen)
	}
	// Odd ones: partitions that nobody knows, topics without any, of other lengths.
	odd := stable()
	odd.Burnt = PartitionOffsets{"a": {-1, 5, -1}, "b": {}, "c": {7}}
	odd.Restore, odd.Start = PartitionOffsets{"a": {9, -1, 1 << 62, 0}}, PartitionOffsets{"c": {-1, -1}}
	odd.PrefixSite = map[string][]spillway.SiteID{"a": {"", "west", "north"}, "z": {}}
	if got, err := Decode(odd.pack()); err != nil || !reflect.DeepEqual(got, odd) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A group of 10,000 partitions moves a hundred times, and its record goes through a
// transaction each time.
func TestALargeGroupMoves(t *testing.T) {
	t.Parallel()
	largest, plain, seen := 0, 0, 0
	hundredMoves(t, 10_000, rand.New(rand.NewPCG(3, 4)), func(s Share) {
		if seen++; s.State == Stable {
			return // without the lists of the move
		}
		encoded := s.pack()
		largest = max(largest, len(encoded))
		if seen%20 > 0 {
			return
		}
		plain = max(plain, len(s.plain()))
		if !bytes.Equal(encoded, s.EncodeBeside()) {
			t.Fatal("a large record is not packed")
		}
		if back, err := Decode(encoded); err != nil || !reflect.DeepEqual(back.Terms, s.Terms) {
			t.Fatal(err)
		}
	})
	if largest > RecordBytesMax {
		t.Errorf("%d bytes, %d go through a transaction", largest, RecordBytesMax)
	}
	t.Logf("%d bytes at most, %d as JSON", largest, plain)
}

// A version that knows only JSON takes a packed record for none. What is cut off or
// changed is refused or reads as something, and never costs much.
func TestPackedRecordsAreNoJSON(t *testing.T) {
	t.Parallel()
	s := stable()
	s.Burnt = PartitionOffsets{}
	random := rand.New(rand.NewPCG(7, 8))
	for i := range 100 {
		s.Burnt.Set(spillway.TopicPartition{Topic: "orders", Partition: int32(i)}, spillway.Offset(random.Int64N(1<<40)))
	}
	packed := s.pack()
	var old Share
	if json.Unmarshal(packed, &old) == nil {
		t.Error("it reads as JSON")
	}
	for n := len(packedMark); n < len(packed); n++ {
		if _, err := Decode(packed[:n]); err == nil {
			t.Fatalf("%d of %d bytes are a record", n, len(packed))
		}
	}
	for range 300 {
		broken := bytes.Clone(packed)
		broken[len(packedMark)+random.IntN(len(broken)-len(packedMark))] ^= byte(1 + random.IntN(255))
		_, _ = Decode(broken) // must come back
	}
	huge := s
	huge.Why = strings.Repeat("x", unpackedMax)
	if huge.pack() != nil {
		t.Error("more than may be unpacked is packed")
	}
}

// What the release before could write stays JSON, so that its processes read it while some
// are upgraded: a record that is put alone up to what a value may have.
func TestOnlyWhatItsWriteDoesNotTakeIsPacked(t *testing.T) {
	t.Parallel()
	packed := func(b []byte) bool { return bytes.HasPrefix(b, []byte(packedMark)) }
	s := stable()
	for _, row := range []struct {
		bytes         int
		alone, beside bool // packed
	}{{340 << 10, false, false}, {coordination.ValueBytesMax * 3 / 4, false, true}, {coordination.ValueBytesMax, false, true}, {coordination.ValueBytesMax + 1, true, true}} {
		s.Why = ""
		s.Why = strings.Repeat("x", row.bytes-len(s.plain())-len(`"why":"",`))
		if len(s.plain()) != row.bytes {
			t.Fatalf("%d bytes, not %d", len(s.plain()), row.bytes)
		}
		if alone, beside := packed(s.Encode()), packed(s.EncodeBeside()); alone != row.alone || beside != row.beside {
			t.Errorf("%d bytes: packed %v alone and %v in a transaction", row.bytes, alone, beside)
		}
	}
}
