package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/sitelog"
)

// UnreplicatedRecord is one line of an export. Key, value and header values are
// base64 in JSON; null stays null.
type UnreplicatedRecord struct {
	Topic         string               `json:"topic"`
	Partition     int32                `json:"partition"`
	Virtual       spillway.Offset      `json:"virtual"`
	Local         spillway.LocalOffset `json:"local"`
	Timestamp     int64                `json:"timestamp"` // milliseconds since 1970
	Key           []byte               `json:"key"`
	Value         []byte               `json:"value"`
	Headers       []UnreplicatedHeader `json:"headers,omitempty"`
	ProducerID    int64                `json:"producerID,string"` // as it stands in the log, masked
	ProducerEpoch int16                `json:"producerEpoch"`
	Sequence      int32                `json:"sequence"` // −1 without idempotence
}

// UnreplicatedHeader is one header of a record.
type UnreplicatedHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// UnreplicatedBatch is what counts of one batch of a range: records of aborted and
// undecided transactions do not.
type UnreplicatedBatch struct {
	batch.Header
	Records []UnreplicatedRecord
}

// ExportUnreplicated writes the records of the share's open ranges, one JSON object a
// line, and returns how many. Records of aborted and undecided transactions are not
// records; they are left out.
func (m *Mirror) ExportUnreplicated(ctx context.Context, id spillway.ShareID, w io.Writer) (int64, error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return 0, err
	}
	n, lines := int64(0), json.NewEncoder(w)
	for _, r := range ranges {
		if !r.Open() {
			continue
		}
		err := m.UnreplicatedBatches(ctx, r, func(b UnreplicatedBatch) error {
			for _, rec := range b.Records {
				if err := lines.Encode(rec); err != nil {
					return fmt.Errorf("export unreplicated records of share %s: %w", id, err)
				}
				n++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// UnreplicatedLog hands the batches of a range to visit as they lie in the log of this
// site: compressed, markers of transactions included, each with the site's own offset.
// The first and the last may reach out of the range.
func (m *Mirror) UnreplicatedLog(ctx context.Context, r UnreplicatedRange, visit func(sitelog.Batch) error) error {
	tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
	if err := sitelog.Scan(ctx, m.local, tp, r.LocalFrom, r.LocalTo, visit); err != nil {
		return fmt.Errorf("read unreplicated records: %w", err)
	}
	return nil
}

// marker ends a transaction.
type marker struct {
	at      spillway.LocalOffset
	aborted bool
}

// markers are those of a range by producer, ascending.
type markers map[int64][]marker

// committed tells whether the transaction of a batch was, as far as the range knows.
func (m markers) committed(h batch.Header) bool {
	ends := m[h.ProducerID]
	i := sort.Search(len(ends), func(i int) bool { return ends[i].at > spillway.LocalOffset(h.BaseOffset) })
	return i < len(ends) && !ends[i].aborted
}

// UnreplicatedBatches hands what counts of a range to visit, in the order of the log.
// It reads the range twice: what became of a transaction stands behind its records.
func (m *Mirror) UnreplicatedBatches(ctx context.Context, r UnreplicatedRange, visit func(UnreplicatedBatch) error) error {
	markers := make(markers)
	err := m.UnreplicatedLog(ctx, r, func(b sitelog.Batch) error {
		if !b.Control() {
			return nil
		}
		records, err := batch.Records(b.Bytes, DecompressedBytesMax)
		if err != nil {
			return err
		}
		markers[b.ProducerID] = append(markers[b.ProducerID], marker{spillway.LocalOffset(b.BaseOffset), Aborts(records)})
		return nil
	})
	if err != nil {
		return err
	}
	return m.UnreplicatedLog(ctx, r, func(b sitelog.Batch) error {
		if b.Control() || b.Transactional() && !markers.committed(b.Header) {
			return nil
		}
		records, err := batch.Records(b.Bytes, DecompressedBytesMax)
		if err != nil {
			return err
		}
		out := UnreplicatedBatch{Header: b.Header, Records: make([]UnreplicatedRecord, 0, len(records))}
		for _, rec := range records {
			local := spillway.LocalOffset(b.BaseOffset) + spillway.LocalOffset(rec.OffsetDelta)
			if local >= r.LocalFrom && local < r.LocalTo {
				out.Records = append(out.Records, r.record(b.Header, rec, local))
			}
		}
		return visit(out)
	})
}

// record is one of a batch, at a local offset.
func (r UnreplicatedRange) record(h batch.Header, rec batch.Record, local spillway.LocalOffset) UnreplicatedRecord {
	out := UnreplicatedRecord{
		Topic: r.Topic, Partition: r.Partition, Local: local, Virtual: r.From + spillway.Offset(local-r.LocalFrom),
		Timestamp: h.BaseTimestamp + rec.TimestampDelta, Key: slices.Clone(rec.Key), Value: slices.Clone(rec.Value),
		ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch, Sequence: -1,
	}
	if h.Attributes&batch.AttributeLogAppendTime != 0 {
		out.Timestamp = h.MaxTimestamp
	}
	if h.BaseSequence >= 0 {
		out.Sequence = batch.NextSequence(h.BaseSequence, rec.OffsetDelta) // compaction may have taken some between
	}
	for _, header := range rec.Headers {
		out.Headers = append(out.Headers, UnreplicatedHeader{header.Key, slices.Clone(header.Value)})
	}
	return out
}
