package wire

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// PieceBytesMin is from where records are a piece of their own: fewer are copied, which
// costs less than another piece to write.
const PieceBytesMin = 16 << 10

// FetchPieces encodes an answer to Fetch without copying large records, which it takes out
// of it. Put together, the pieces are what AppendTo gives.
func FetchPieces(resp *kmsg.FetchResponse) [][]byte {
	var records []*[]byte
	size := 64
	for i := range resp.Topics {
		t := &resp.Topics[i]
		size += 32 + len(t.Topic)
		for j := range t.Partitions {
			size += 64 + 16*len(t.Partitions[j].AbortedTransactions)
			records = append(records, &t.Partitions[j].RecordBatches)
		}
	}
	return pieces(Flexible(resp.Key(), resp.Version), size, records, resp.AppendTo)
}

// ProducePieces encodes a Produce without copying large records, which it takes out of it.
// Put together, the pieces are what AppendTo gives.
func ProducePieces(req *kmsg.ProduceRequest) [][]byte {
	var records []*[]byte
	size := 64
	for i := range req.Topics {
		t := &req.Topics[i]
		size += 32 + len(t.Topic)
		for j := range t.Partitions {
			size += 16
			records = append(records, &t.Partitions[j].Records)
		}
	}
	return pieces(Flexible(req.Key(), req.Version), size, records, req.AppendTo)
}

// pieces has a message encoded with none and with empty records in all places. kmsg encodes
// these in as many bytes, so that the two differ just where the lengths of records stand: as
// a varint, where the message is flexible (KIP-482). size is about what the rest takes.
func pieces(flexible bool, size int, places []*[]byte, encode func(to []byte) []byte) [][]byte {
	copied, large := 0, false
	for _, r := range places {
		if n := len(*r); n < PieceBytesMin {
			copied += n + binary.MaxVarintLen32
		} else {
			large = true
		}
	}
	if !large {
		return [][]byte{encode(make([]byte, 0, size+copied))}
	}
	records := make([][]byte, len(places))
	for i, r := range places {
		records[i] = *r
	}
	with := func(same []byte) []byte {
		for _, r := range places {
			*r = same
		}
		return encode(make([]byte, 0, size))
	}
	null, empty := with(nil), with([]byte{})
	width := 4
	if flexible {
		width = 1
	}
	var all [][]byte
	between := make([]byte, 0, len(null)+copied+binary.MaxVarintLen32*len(records)) // all that is no piece of its own
	begun := 0                                                                      // where the last of it begins
	from := 0                                                                       // of null, what was not taken yet
	for at := 0; at < len(null); at++ {
		if null[at] == empty[at] {
			continue
		}
		r := records[0]
		records = records[1:]
		between = append(between, null[from:at]...)
		from = at + width
		at = from - 1
		switch {
		case r == nil:
			between = append(between, null[from-width:from]...)
		case flexible:
			between = binary.AppendUvarint(between, uint64(len(r))+1)
		default:
			between = binary.BigEndian.AppendUint32(between, uint32(len(r)))
		}
		if len(r) < PieceBytesMin {
			between = append(between, r...)
			continue
		}
		all = append(all, slices.Clip(between[begun:]), r)
		begun = len(between)
	}
	if len(records) > 0 {
		panic(fmt.Sprintf("no length was found for %d of the records", len(records)))
	}
	return append(all, append(between, null[from:]...)[begun:])
}
