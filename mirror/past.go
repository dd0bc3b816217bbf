package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// pastOffsets is how far back the end of an epoch is compared at once.
const pastOffsets = 1000

// commonPoint looks at a partition whose last records this site took as the
// serving one, before it follows another: the end of the epoch that it served
// is where the epoch was closed by number; it holds only if the records before
// it are the source's (C27). It returns the virtual offset up to which they
// are, and false if they are not up to the end.
func (m *Mirror) commonPoint(ctx context.Context, src *source, p *partition, theirs *offsetmap.View) (spillway.Offset, bool, error) {
	ours := m.reader.View(p.TopicPartition)
	ends := ours.Ends()
	if len(ends) == 0 || ends[len(ends)-1].Virtual != p.virtual {
		return p.virtual, true, nil // something was mirrored since; it was compared then
	}
	configs, err := m.local.Admin().TopicConfigs(ctx, p.Topic)
	if err != nil {
		return 0, false, err
	}
	compacted := strings.Contains(configs["cleanup.policy"].Value, "compact")
	end := p.virtual
	common, same := end, true
	for end > 0 {
		from := max(0, end-pastOffsets)
		a, err := digests(ctx, m.local, p.TopicPartition, ours, from, end)
		if err != nil {
			return 0, false, err
		}
		b, err := digests(ctx, src.cluster, p.TopicPartition, theirs, from, end)
		if err != nil {
			return 0, false, err
		}
		// The source lacks what was aborted; what it has must be the same here.
		first := end
		for v, theirs := range b {
			ours, here := a[v]
			if ours != theirs && v < first && (here || !compacted) {
				first = v
			}
		}
		if first == end {
			break
		}
		common, same, end = first, false, from
	}
	return common, same, nil
}

// digests are the records of a site with virtual offsets in [from, to). Where a
// site has deleted the records there are none.
func digests(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition, view *offsetmap.View, from, to spillway.Offset) (map[spillway.Offset][sha256.Size]byte, error) {
	starts, err := c.Admin().LogStarts(ctx, []spillway.TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	ends, err := c.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	first, _ := view.ToLocal(from)
	last, _ := view.ToLocal(to)
	found := make(map[spillway.Offset][sha256.Size]byte)
	err = sitelog.Scan(ctx, c, tp, max(first, starts[tp]), min(last, ends[tp]), func(b sitelog.Batch) error {
		if b.Control() {
			return nil
		}
		records, err := batch.Records(b.Bytes, DecompressedBytesMax)
		if err != nil {
			return err
		}
		for i := range records {
			v, visible := view.ToVirtual(spillway.LocalOffset(b.BaseOffset) + spillway.LocalOffset(records[i].OffsetDelta))
			if visible && !view.Stale(b.ProducerID, spillway.LocalOffset(b.BaseOffset)) && v >= from && v < to {
				found[v] = digest(b.Header, &records[i])
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare the end of the closed epoch: %w", err)
	}
	return found, nil
}

// digest covers what promise E covers: key, value, headers, and the time.
func digest(h batch.Header, r *batch.Record) (sum [sha256.Size]byte) {
	timestamp := h.BaseTimestamp + r.TimestampDelta
	if h.Attributes&batch.AttributeLogAppendTime != 0 {
		timestamp = h.MaxTimestamp
	}
	hash := sha256.New()
	field := func(b []byte) {
		length := int64(len(b))
		if b == nil {
			length = -1
		}
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(length)))
		hash.Write(b)
	}
	hash.Write(binary.BigEndian.AppendUint64(nil, uint64(timestamp)))
	field(r.Key)
	field(r.Value)
	for _, header := range r.Headers {
		field([]byte(header.Key))
		field(header.Value)
	}
	hash.Sum(sum[:0])
	return sum
}
