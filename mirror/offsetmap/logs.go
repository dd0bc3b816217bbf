package offsetmap

import (
	"encoding/hex"
	"fmt"
)

// TopicID is what a site calls a topic as long as nobody deletes it; zero: its brokers have
// no topic ids, or it is not known.
type TopicID [16]byte

// MarshalText implements encoding.TextMarshaler.
func (id TopicID) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(id[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *TopicID) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(id) {
		return fmt.Errorf("topic id of %d bytes of text: %d are needed", len(text), hex.EncodedLen(len(id)))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// Logs are the topic ids with which the last append sessions of a partition were opened. They
// tell that a log is another one where its end does not: a batch of an old session is taken
// for the first one of a new log, and others may have written there. A broker that is behind
// may still tell the id before.
type Logs struct {
	Now    TopicID `json:"now,omitzero"`
	Before TopicID `json:"before,omitzero"`
}

// IsNew tells whether the id is of a log that is not the one that was opened.
func (l Logs) IsNew(id TopicID) bool {
	return id != TopicID{} && l.Now != TopicID{} && id != l.Now && id != l.Before
}

// With is what is known once a log with the id has been opened.
func (l Logs) With(id TopicID) Logs {
	if id == (TopicID{}) || id == l.Now || id == l.Before {
		return l
	}
	return Logs{Now: id, Before: l.Now}
}
