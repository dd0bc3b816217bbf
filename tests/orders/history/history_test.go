package history

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPayloadSurvivesWriting(t *testing.T) {
	word := rapid.StringMatching(`[a-z][a-z0-9._-]{0,8}`)
	id := rapid.Custom(func(t *rapid.T) ID {
		return ID{word.Draw(t, "producer"), word.Draw(t, "topic"), rapid.Int32Min(0).Draw(t, "partition"), rapid.Int64Min(0).Draw(t, "counter")}
	})
	rapid.Check(t, func(t *rapid.T) {
		p := Payload{ID: id.Draw(t, "id"), Order: word.Draw(t, "order"), Step: word.Draw(t, "step"),
			After: rapid.SliceOfN(id, 0, 3).Draw(t, "after"), Pad: rapid.IntRange(0, 20).Draw(t, "pad")}
		b := p.Encode()
		got, err := Decode(b)
		if err != nil || got.ID != p.ID || got.Order != p.Order || got.Step != p.Step || len(got.After) != len(p.After) || got.Pad != p.Pad {
			t.Fatalf("%s: got %+v, %v", b, got, err)
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "flip")
		b[i] ^= 1
		if _, err := Decode(b); err == nil {
			t.Fatalf("one bit flipped at %d, and nobody saw it: %s", i, b)
		}
	})
}

// What the package comment shows is what other languages write.
func TestHistoryOfAnotherLanguage(t *testing.T) {
	lines := `[main] INFO some library says something
{"t":1795413600000000000,"e":"start","client":"java-1","role":"producer","idempotent":true,"acks":"all"}
{"t":1795413600000100000,"e":"invoke","client":"java-1","payload":"java-1/orders/3/17"}

{"t":1795413600004100000,"e":"ack","client":"java-1","payload":"java-1/orders/3/17","offset":0}
{"t":1795413600004100001,"e":"ack","client":"java-1","payload":"java-1/orders/3/18"}
{"t":1795413600004900000,"e":"consume","client":"kcat-1","topic":"orders","partition":3,"offset":1042,"payload":"java-1/orders/3/17"}
{"t":1795413600005000000,"e":"ack","client":"java-1","payl`
	var got []Event
	for e, err := range Read(strings.NewReader(lines)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 5 || !got[0].Idempotent || got[2].Offset != 0 || got[3].Offset != NoOffset || got[4].Partition != 3 || got[4].Payload.Counter != 17 {
		t.Errorf("got %+v", got)
	}
}

func TestBadLinesAreRefused(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{`{"t":1,"e":"invoke","client":"a"}`, `line 1: event "invoke" of "a" lacks "payload"`},
		{`{"t":1,"e":"consume","client":"a","payload":"a/b/0/0","topic":"b","partition":0}`, `lacks "topic, partition and offset"`},
		{`{"e":"stop","client":"a"}`, `lacks "t"`},
		{`{"t":1,"e":"stop"}`, `lacks "client"`},
		{`{"t":1,"e":"nonsense","client":"a"}`, `unknown kind "nonsense"`},
		{`{"t":1,"e":"start","client":"a","role":"boss"}`, `role "boss" is none of`},
		{`{"t":1,"e":"invoke","client":"a","payload":"a/b/c"}`, `"a/b/c" is not a payload id`},
		{`{"t":1,"e":`, `line 1:`},
	} {
		var err error
		for _, err = range Read(strings.NewReader(c.line + "\n")) {
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
}

func TestMergeIsByTime(t *testing.T) {
	a := []Event{{Time: 1, Client: "a"}, {Time: 5, Client: "a"}, {Time: 4, Client: "a"}}
	b := []Event{{Time: 2, Client: "b"}, {Time: 6, Client: "b"}}
	got := ""
	for e, err := range Merge(All(a), All(b), All(nil)) {
		if err != nil {
			t.Fatal(err)
		}
		got += e.Client
	}
	if got != "abaab" {
		t.Errorf("got %q, want abaab (a's step back evened out)", got)
	}
}

func TestRecorderWritesWhatReadReads(t *testing.T) {
	var buf bytes.Buffer
	r := NewRecorder(&buf)
	id := ID{"p", "orders", 0, 0}
	r.Record(Event{Kind: Start, Client: "p", Role: Producer, Acks: "1"})
	r.RecordAll([]Event{
		{Kind: Invoke, Client: "p", Payload: id},
		{Kind: Ack, Client: "p", Payload: id, Offset: 0},
		{Kind: Position, Client: "c", Topic: "orders", Offset: NoOffset},
		{Kind: Consume, Client: "c", Topic: "orders", Payload: id, Offset: 3},
		{Kind: Mark, Name: MoveStart, Move: Switchover, From: "east", To: "west"},
	})
	if err := r.Flush(); err != nil || r.Len() != 6 {
		t.Fatal(r.Len(), err)
	}
	var last Event
	n := 0
	for e, err := range Read(&buf) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Time < last.Time {
			t.Errorf("time falls from %d to %d", last.Time, e.Time)
		}
		if e.Kind == Position && e.Offset != NoOffset || e.Kind == Ack && e.Offset != 0 || e.Kind == Consume && (e.Offset != 3 || e.Payload != id) {
			t.Errorf("got %+v", e)
		}
		last = e
		n++
	}
	if n != 6 || last.From != "east" {
		t.Errorf("%d events, last %+v", n, last)
	}
}
