package audit

import (
	"bytes"

	"spillway"
	"spillway/broker/batch"
)

// record is one record as a client sees it.
type record struct {
	local      spillway.LocalOffset
	virtual    spillway.Offset // −1 without a map
	timestamp  int64
	key, value []byte
	headers    []batch.RecordHeader
	says       []string // what the provenance headers say, which are not in headers; nil: there are none
	// holds is how many bytes are in memory until this record is dropped. The last record
	// of an answer stands for all of it.
	holds int
}

// at is the record's virtual offset, which without a map is its own.
func (r *record) at() spillway.Offset {
	if r.virtual < 0 {
		return spillway.Offset(r.local)
	}
	return r.virtual
}

// detach has the record point to bytes of its own.
func (r *record) detach() {
	r.key, r.value = bytes.Clone(r.key), bytes.Clone(r.value)
	var headers []batch.RecordHeader
	for _, h := range r.headers {
		headers = append(headers, batch.RecordHeader{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	r.headers = headers
}

// Bytes that a record and each of its headers take in memory beside their contents.
const (
	recordBytes = 200
	headerBytes = 40
)

// contentBytes is what a record's contents take in memory.
func contentBytes(key, value []byte, headers []batch.RecordHeader) int {
	n := len(key) + len(value) + headerBytes*len(headers)
	for _, h := range headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
