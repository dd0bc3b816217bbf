package history

import (
	"encoding/json"
	"fmt"
)

// Kind of an event.
type Kind string

// The kinds of events, and the fields that each one carries beside time,
// kind and client.
const (
	// Start opens a client: Role, and Idempotent, Acks (producers) or Group
	// (members of a group). A client that has an unsure outcome behind it and
	// goes on counts as the same client.
	Start Kind = "start"
	// Invoke is written before a record is handed to the library: Payload,
	// and Txn if it belongs to a transaction.
	Invoke Kind = "invoke"
	// Ack is written after the library said that the record is there:
	// Payload, Offset (−1 or absent: the library does not say).
	Ack Kind = "ack"
	// Fail is written after the library gave up: Payload, Error, and
	// Definite if it is certain that the record was not written. A time-out
	// or a broken connection is never definite.
	Fail Kind = "fail"
	// TxnEnd closes a transaction: Txn, and Outcome.
	TxnEnd Kind = "txn"
	// Position says where a reader begins or goes on: Topic, Partition,
	// Offset. Readers with assign() write it whenever they (re)start from
	// their stored position; members of a group when a partition is assigned
	// to them (Offset −1: wherever the group had committed).
	Position Kind = "position"
	// Consume is written when the application has got a record: Topic,
	// Partition, Offset, Payload.
	Consume Kind = "consume"
	// Commit is written after the group coordinator answered: Group, Topic,
	// Partition, Offset, and Error if it refused.
	Commit Kind = "commit"
	// Stop closes a client. Drained: it had read everything that there was.
	Stop Kind = "stop"
	// Mark is something that was done to the system: Name, Note, and for
	// moves Move, From, To.
	Mark Kind = "mark"
)

// Roles of a client.
const (
	Producer = "producer"
	Member   = "group"  // reads as a member of a consumer group
	Assigned = "assign" // reads by assign() and keeps its own positions
)

// Outcomes of a transaction.
const (
	Committed = "committed"
	Aborted   = "aborted"
	Unsure    = "unsure"
)

// Names of marks that the checker understands. Others are kept for people.
const (
	MoveStart = "move-start" // a move was asked for
	MoveEnd   = "move-end"   // the new site serves; the old one must not any more
	Kill      = "kill"       // a process was killed; Note says which
)

// Kinds of moves, in marks.
const (
	Switchover = "switchover"
	Failover   = "failover"
	NoMove     = "none" // a stretch without a move, to compare with
)

// NoOffset stands where an offset is not known.
const NoOffset = int64(-1)

// Event is one line of a history. Which fields count depends on Kind.
type Event struct {
	Time   int64  // nanoseconds since 1970, of a clock that all clients share
	Kind   Kind   //
	Client string // unique in the history, stays the same over reconnects

	Role       string
	Group      string
	Idempotent bool
	Acks       string // "0", "1" or "all"; empty means all

	Payload   ID
	Topic     string // where the reader found the record, which need not be where it belongs
	Partition int32
	Offset    int64 // virtual: the number that the client saw; NoOffset if it saw none

	Txn      string
	Outcome  string
	Definite bool
	Drained  bool
	Error    string

	Name, Note     string
	Move, From, To string
}

// line is the JSON form of an Event. Numbers are pointers, since 0 is an
// offset and a partition, and absent is something else.
type line struct {
	Time       int64  `json:"t"`
	Kind       Kind   `json:"e"`
	Client     string `json:"client,omitempty"`
	Role       string `json:"role,omitempty"`
	Group      string `json:"group,omitempty"`
	Idempotent bool   `json:"idempotent,omitempty"`
	Acks       string `json:"acks,omitempty"`
	Payload    string `json:"payload,omitempty"`
	Topic      string `json:"topic,omitempty"`
	Partition  *int32 `json:"partition,omitempty"`
	Offset     *int64 `json:"offset,omitempty"`
	Txn        string `json:"txn,omitempty"`
	Outcome    string `json:"outcome,omitempty"`
	Definite   bool   `json:"definite,omitempty"`
	Drained    bool   `json:"drained,omitempty"`
	Error      string `json:"error,omitempty"`
	Name       string `json:"name,omitempty"`
	Note       string `json:"note,omitempty"`
	Move       string `json:"move,omitempty"`
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
}

// MarshalJSON writes the event as one line of a history.
func (e Event) MarshalJSON() ([]byte, error) {
	l := line{
		Time: e.Time, Kind: e.Kind, Client: e.Client, Role: e.Role, Group: e.Group, Idempotent: e.Idempotent, Acks: e.Acks,
		Topic: e.Topic, Txn: e.Txn, Outcome: e.Outcome, Definite: e.Definite, Drained: e.Drained, Error: e.Error,
		Name: e.Name, Note: e.Note, Move: e.Move, From: e.From, To: e.To,
	}
	if !e.Payload.IsZero() {
		l.Payload = e.Payload.String()
	}
	if e.Topic != "" {
		l.Partition = &e.Partition
	}
	if e.Offset >= 0 && (e.Topic != "" || e.Kind == Ack) {
		l.Offset = &e.Offset
	}
	return json.Marshal(l)
}

// UnmarshalJSON reads one line of a history, as this package or a client in
// another language wrote it, and refuses one that lacks what its kind needs.
func (e *Event) UnmarshalJSON(b []byte) error {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return err
	}
	*e = Event{
		Time: l.Time, Kind: l.Kind, Client: l.Client, Role: l.Role, Group: l.Group, Idempotent: l.Idempotent, Acks: l.Acks,
		Topic: l.Topic, Offset: NoOffset, Txn: l.Txn, Outcome: l.Outcome, Definite: l.Definite, Drained: l.Drained,
		Error: l.Error, Name: l.Name, Note: l.Note, Move: l.Move, From: l.From, To: l.To,
	}
	if l.Payload != "" {
		id, err := ParseID(l.Payload)
		if err != nil {
			return err
		}
		e.Payload = id
	}
	if l.Partition != nil {
		e.Partition = *l.Partition
	}
	if l.Offset != nil {
		e.Offset = *l.Offset
	}
	return l.check()
}

func (l line) check() error {
	missing := func(field string) error { return fmt.Errorf("event %q of %q lacks %q", l.Kind, l.Client, field) }
	switch {
	case l.Kind != Mark && l.Client == "":
		return missing("client")
	case l.Time <= 0:
		return missing("t")
	}
	switch l.Kind {
	case Start:
		if l.Role != Producer && l.Role != Member && l.Role != Assigned {
			return fmt.Errorf("event %q of %q: role %q is none of producer, group, assign", l.Kind, l.Client, l.Role)
		}
	case Invoke, Ack, Fail:
		if l.Payload == "" {
			return missing("payload")
		}
	case Consume:
		switch {
		case l.Payload == "":
			return missing("payload")
		case l.Topic == "" || l.Partition == nil || l.Offset == nil:
			return missing("topic, partition and offset")
		}
	case Position:
		if l.Topic == "" || l.Partition == nil {
			return missing("topic and partition")
		}
	case Commit:
		if l.Group == "" || l.Topic == "" || l.Partition == nil || l.Offset == nil {
			return missing("group, topic, partition and offset")
		}
	case TxnEnd:
		if l.Txn == "" || l.Outcome == "" {
			return missing("txn and outcome")
		}
	case Mark:
		if l.Name == "" {
			return missing("name")
		}
	case Stop:
	default:
		return fmt.Errorf("event of an unknown kind %q", l.Kind)
	}
	return nil
}
