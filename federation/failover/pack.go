package failover

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"spillway"
)

// A record is JSON as long as that is small. With thousands of partitions it lists offsets
// seven times (of the newest term, of the newest that lost something, and of the move),
// and a store takes only so much in one transaction. Such a record is written as
// packedMark and, compressed, the JSON without offsets followed by the offsets, each as
// the difference to what the list before has for the partition. A version that does not
// know this takes it for no record, and does nothing: so only that is packed which its own
// write does not take as JSON. Older versions wrote up to 384 KB beside something else.
const (
	packedMark = "spillway share record, packed 1\n"
	// putBytesMax is the largest record that goes alone (coordination.ValueBytesMax).
	putBytesMax = 512 << 10
	// RecordBytesMax is the largest record with which a share moves: it has to go through
	// a transaction with what is written beside it (coordination.TxnBytesMax).
	RecordBytesMax = 352 << 10
	// unpackedMax bounds what a packed record becomes before it is decoded.
	unpackedMax = 8 << 20
)

// lists are all lists of offsets of a record, in the order in which they are packed.
func (s *Share) lists() []*PartitionOffsets {
	var lists []*PartitionOffsets
	for i := range s.Terms {
		lists = append(lists, &s.Terms[i].Start, &s.Terms[i].Verified)
	}
	return append(lists, &s.Cutover, &s.Prefix, &s.Start, &s.Burnt, &s.Restore)
}

// pack writes the record with its offsets packed; nil if it would become too much.
func (s Share) pack() []byte {
	s.Terms = slices.Clone(s.Terms)
	var lists []PartitionOffsets
	topics, sites := map[string]bool{}, map[spillway.SiteID]bool{}
	for _, list := range s.lists() {
		for topic := range *list {
			topics[topic] = true
		}
		lists = append(lists, *list)
		*list = nil
	}
	for topic, at := range s.PrefixSite {
		topics[topic] = true
		for _, site := range at {
			sites[site] = true
		}
	}
	prefixSite := s.PrefixSite
	s.PrefixSite = nil

	w := packer{}
	w.bytes(s.plain())
	names := slices.Sorted(maps.Keys(topics))
	w.uint(len(names))
	for _, name := range names {
		w.bytes([]byte(name))
	}
	places := slices.Sorted(maps.Keys(sites))
	w.uint(len(places))
	for _, place := range places {
		w.bytes([]byte(place))
	}
	known := likely{}
	for _, list := range lists {
		if len(list) == 0 {
			w.uint(0)
			continue
		}
		w.uint(1)
		for _, name := range names {
			offs, has := list[name]
			if !has {
				w.uint(0)
				continue
			}
			w.uint(len(offs) + 1)
			row := known.row(name, len(offs))
			for i, o := range offs {
				w.int(int64(o - row.at(i)))
				row.was(i, o)
			}
		}
	}
	w.uint(min(len(prefixSite), 1))
	for _, name := range names {
		if len(prefixSite) == 0 {
			break
		}
		at, has := prefixSite[name]
		if !has {
			w.uint(0)
			continue
		}
		w.uint(len(at) + 1)
		for _, site := range at {
			n, _ := slices.BinarySearch(places, site)
			w.uint(n)
		}
	}
	if len(w.out) > unpackedMax {
		return nil
	}
	out := bytes.NewBufferString(packedMark)
	z, err := flate.NewWriter(out, flate.DefaultCompression)
	if err == nil {
		_, err = z.Write(w.out)
	}
	if err = errors.Join(err, z.Close()); err != nil {
		panic(fmt.Sprintf("share record of %q cannot be packed: %v", s.Group, err)) // into memory, cannot happen
	}
	return out.Bytes()
}

// likely says which offset is likely for a partition: what the list before has, else what
// the partition before has. Both sides tell it what it was, in the same order.
type likely map[string][]spillway.Offset

// row is a topic of one list.
type row struct {
	offs []spillway.Offset
	last spillway.Offset
}

func (l likely) row(topic string, partitions int) *row {
	for len(l[topic]) < partitions {
		l[topic] = append(l[topic], -1)
	}
	return &row{offs: l[topic]}
}

func (r *row) at(i int) spillway.Offset {
	if o := r.offs[i]; o >= 0 {
		return o
	}
	return r.last
}

func (r *row) was(i int, o spillway.Offset) {
	if o >= 0 {
		r.offs[i], r.last = o, o
	}
}

// unpack reads what pack wrote.
func unpack(value []byte) (Share, error) {
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(value[len(packedMark):])), unpackedMax+1))
	switch {
	case err != nil:
		return Share{}, err
	case len(raw) > unpackedMax:
		return Share{}, fmt.Errorf("it becomes more than %d bytes", unpackedMax)
	}
	var s Share
	r := unpacker{rest: raw}
	if err := json.Unmarshal(r.bytes(), &s); err != nil {
		return Share{}, err
	}
	names := make([]string, r.count())
	for i := range names {
		names[i] = string(r.bytes())
	}
	places := make([]spillway.SiteID, r.count())
	for i := range places {
		places[i] = spillway.SiteID(r.bytes())
	}
	known := likely{}
	for _, list := range s.lists() {
		if r.uint() == 0 {
			continue
		}
		*list = PartitionOffsets{}
		for _, name := range names {
			n := r.count()
			if n == 0 {
				continue
			}
			offs := make([]spillway.Offset, n-1)
			row := known.row(name, len(offs))
			for i := range offs {
				offs[i] = row.at(i) + spillway.Offset(r.int())
				row.was(i, offs[i])
			}
			(*list)[name] = offs
		}
	}
	if r.uint() > 0 {
		s.PrefixSite = map[string][]spillway.SiteID{}
		for _, name := range names {
			n := r.count()
			if n == 0 {
				continue
			}
			at := make([]spillway.SiteID, n-1)
			for i := range at {
				if place := r.uint(); place < len(places) {
					at[i] = places[place]
				} else {
					r.bad = true
				}
			}
			s.PrefixSite[name] = at
		}
	}
	if r.bad || len(r.rest) > 0 {
		return Share{}, errors.New("it is cut off, or no packed record")
	}
	return s, nil
}

type packer struct{ out []byte }

func (p *packer) uint(n int)  { p.out = binary.AppendUvarint(p.out, uint64(n)) }
func (p *packer) int(n int64) { p.out = binary.AppendVarint(p.out, n) }
func (p *packer) bytes(b []byte) {
	p.uint(len(b))
	p.out = append(p.out, b...)
}

// unpacker reads; what is wrong leaves zeros and bad.
type unpacker struct {
	rest []byte
	bad  bool
}

func (u *unpacker) uint() int {
	v, n := binary.Uvarint(u.rest)
	if n <= 0 || v > unpackedMax {
		u.bad, u.rest = true, nil
		return 0
	}
	u.rest = u.rest[n:]
	return int(v)
}

// count is a number of things that follow, of which each takes a byte; one more at most.
func (u *unpacker) count() int {
	n := u.uint()
	if n > len(u.rest)+1 {
		u.bad, u.rest = true, nil
		return 0
	}
	return n
}

func (u *unpacker) int() int64 {
	v, n := binary.Varint(u.rest)
	if n <= 0 {
		u.bad, u.rest = true, nil
		return 0
	}
	u.rest = u.rest[n:]
	return v
}

func (u *unpacker) bytes() []byte {
	n := u.uint()
	if n > len(u.rest) {
		u.bad, u.rest = true, nil
		return nil
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b
}
