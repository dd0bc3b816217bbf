package rewrite

import (
	"spillway/broker/batch"
)

// Opened are the records of a batch, with their times as readers see them.
type Opened struct {
	BaseTimestamp int64 // milliseconds since 1970; the records' deltas count from it
	Records       []batch.Record
}

// Open decodes a whole batch whose header is h, into at most decodedBytesMax. Keys and
// values may point into b. The checksum is compared first: what is made of the records
// gets another one. Errors: batch.ErrCorrupt, batch.ErrTooLarge.
func Open(h batch.Header, b []byte, decodedBytesMax int) (Opened, error) {
	if err := batch.Verify(b); err != nil {
		return Opened{}, err
	}
	records, err := batch.Records(b, decodedBytesMax)
	if err != nil {
		return Opened{}, err
	}
	// With a delete horizon that is what stands in the header; the deltas count from it.
	o := Opened{h.BaseTimestamp, records}
	if h.Attributes&batch.AttributeLogAppendTime != 0 {
		// Readers of the source see the append time for every record.
		o.BaseTimestamp = h.MaxTimestamp
		for i := range records {
			records[i].TimestampDelta = 0
		}
	}
	return o, nil
}

// Append puts the records of another batch behind those that are there.
func (o *Opened) Append(other Opened) {
	shift := other.BaseTimestamp - o.BaseTimestamp // wraps, and wraps back where it is added
	for _, r := range other.Records {
		r.TimestampDelta += shift
		o.Records = append(o.Records, r)
	}
}

// Seal writes records as one batch without holes, as a producer without an id would:
// their offset deltas are set anew.
func Seal(o Opened, codec batch.Codec) ([]byte, error) {
	for i := range o.Records {
		o.Records[i].OffsetDelta = int32(i)
	}
	header := batch.Header{BaseTimestamp: o.BaseTimestamp, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	return batch.Rebuild(header, o.Records, codec)
}
