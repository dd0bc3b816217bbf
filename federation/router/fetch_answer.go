package router

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// pieceBytesMin is from where records are a piece of their own: fewer are copied, which
// costs less than another piece to write.
const pieceBytesMin = 16 << 10

// flexibleFetch is the first version of Fetch with lengths as varints (KIP-482).
const flexibleFetch = 12

// pieces encodes an answer without copying the records of the sites: what it begins with,
// what follows, and how many bytes that is together.
//
// kmsg encodes the rest, and records that are null and records that are empty in as many
// bytes, so that two encodings differ just where the lengths of records stand.
func pieces(resp *kmsg.FetchResponse) (first []byte, rest [][]byte, size int) {
	var records [][]byte
	bytes, small, large := 64, 0, false
	for _, t := range resp.Topics {
		bytes += 32 + len(t.Topic)
		for _, p := range t.Partitions {
			records = append(records, p.RecordBatches)
			bytes += 64 + 16*len(p.AbortedTransactions)
			if len(p.RecordBatches) < pieceBytesMin {
				small += len(p.RecordBatches)
			} else {
				large = true
			}
		}
	}
	if !large {
		first = resp.AppendTo(make([]byte, 0, bytes+small))
		return first, nil, len(first)
	}
	with := func(records []byte) []byte {
		for i := range resp.Topics {
			for j := range resp.Topics[i].Partitions {
				resp.Topics[i].Partitions[j].RecordBatches = records
			}
		}
		return resp.AppendTo(make([]byte, 0, bytes))
	}
	null, empty := with(nil), with([]byte{})
	width := 4
	if resp.Version >= flexibleFetch {
		width = 1
	}
	var all [][]byte
	between, begun := make([]byte, 0, len(null)+small+binary.MaxVarintLen32*len(records)), 0 // all that is not of the sites, and where the last of it begins
	from := 0                                                                                // of null, what was not taken yet
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
		case resp.Version >= flexibleFetch:
			between = binary.AppendUvarint(between, uint64(len(r))+1)
		default:
			between = binary.BigEndian.AppendUint32(between, uint32(len(r)))
		}
		if len(r) < pieceBytesMin {
			between = append(between, r...)
			continue
		}
		all = append(all, between[begun:len(between):len(between)], r)
		begun = len(between)
	}
	if len(records) > 0 {
		panic(fmt.Sprintf("fetch answer of version %d: no length of records was found for %d partitions", resp.Version, len(records)))
	}
	all = append(all, append(between, null[from:]...)[begun:])
	for _, p := range all {
		size += len(p)
	}
	return all[0], all[1:], size
}
