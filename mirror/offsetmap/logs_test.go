package offsetmap

import (
	"encoding/json"
	"testing"
)

func TestLogs(t *testing.T) {
	t.Parallel()
	var l Logs
	for i, c := range []struct {
		id    byte
		isNew bool
	}{{1, false}, {1, false}, {0, false}, {2, true}, {1, false}, {2, false}, {3, true}} {
		if got := l.IsNew(TopicID{c.id}); got != c.isNew {
			t.Errorf("step %d: id %d is new: %t", i, c.id, got)
		}
		l = l.With(TopicID{c.id})
	}
	text, err := json.Marshal(Session{Session: 7, Logs: l})
	if err != nil {
		t.Fatal(err)
	}
	var back Session
	if err := json.Unmarshal(text, &back); err != nil || back.Logs != l || l.Before != (TopicID{2}) {
		t.Errorf("%v: %s", err, text)
	}
	for _, bad := range []string{`"0102"`, `"zz000000000000000000000000000000"`, `"000000000000000000000000000000000000"`} {
		if err := json.Unmarshal([]byte(bad), new(TopicID)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// The log that was opened last stays known while others claim sessions, and is not known any
// more once a version opens one that does not say it.
func TestLogsOfAMap(t *testing.T) {
	t.Parallel()
	m, logs := New(), Logs{Now: TopicID{1}}
	for i, c := range []struct {
		session Session
		want    Logs
	}{
		{Session{Session: 1, Worker: "a"}, Logs{}},
		{Session{Session: 1, Worker: "a", Opened: true, Logs: logs}, logs},
		{Session{Session: 2, Worker: "b"}, logs},
		{Session{Session: 1, Worker: "a", Opened: true, Logs: Logs{Now: TopicID{9}}}, logs}, // too late
		{Session{Session: 2, Worker: "c", Opened: true}, Logs{}},
	} {
		if m.Apply(c.session); m.Logs() != c.want {
			t.Errorf("step %d: %v", i, m.Logs())
		}
	}
}
