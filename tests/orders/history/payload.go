package history

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// ID names one record of the workload for good: who sent it, where it belongs,
// and which one it is of those that its producer sent there. Counters start at
// 0 and leave nothing out, so a log can be judged by counters alone.
type ID struct {
	Producer  string
	Topic     string
	Partition int32
	Counter   int64
}

// IsZero tells whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String returns "producer/topic/partition/counter".
func (id ID) String() string {
	b := make([]byte, 0, len(id.Producer)+len(id.Topic)+24)
	b = append(append(b, id.Producer...), '/')
	b = append(append(b, id.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(id.Partition), 10), '/')
	return string(strconv.AppendInt(b, id.Counter, 10))
}

// ParseID reads what String wrote. Producer and topic may hold neither slashes
// nor spaces.
func ParseID(s string) (ID, error) {
	producer, rest, ok1 := strings.Cut(s, "/")
	topic, rest, ok2 := strings.Cut(rest, "/")
	partition, counter, ok3 := strings.Cut(rest, "/")
	p, err1 := strconv.ParseInt(partition, 10, 32)
	c, err2 := strconv.ParseInt(counter, 10, 64)
	if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || producer == "" || topic == "" || p < 0 || c < 0 {
		return ID{}, fmt.Errorf("%.80q is not a payload id; want producer/topic/partition/counter", s)
	}
	return ID{Producer: producer, Topic: topic, Partition: int32(p), Counter: c}, nil
}

// Payload is the value of a record of the workload. Its written form is one
// line that a person can read in any consumer and a program can write in any
// language: words parted by single spaces,
//
//	shop-1/orders/3/17 order=sale-2-4 step=paid after=shop-1/orders/3/12 pad=xxxx sum=1c291ca3
//
// ID first and sum last; sum is the CRC-32 (IEEE, as in zlib and java.util.zip)
// of everything before its space, eight hex digits. The key of the record is
// the order. All words between are optional for clients in other languages.
type Payload struct {
	ID    ID
	Order string // the record's key
	Step  string
	After []ID // the records of the same order that had to come first
	Txn   string
	Pad   int // filler bytes, to reach a record size
}

// Encode writes the payload.
func (p Payload) Encode() []byte {
	b := append(make([]byte, 0, 128+p.Pad), p.ID.String()...)
	word := func(name, value string) {
		if value != "" {
			b = append(append(append(append(b, ' '), name...), '='), value...)
		}
	}
	word("order", p.Order)
	word("step", p.Step)
	for i, id := range p.After {
		if i == 0 {
			word("after", id.String())
			continue
		}
		b = append(append(b, ','), id.String()...)
	}
	word("txn", p.Txn)
	if p.Pad > 0 {
		b = append(b, " pad="...)
		for range p.Pad {
			b = append(b, 'x')
		}
	}
	return fmt.Appendf(b, " sum=%08x", crc32.ChecksumIEEE(b))
}

// Decode reads a payload. Where the line is whole but its sum does not match,
// it returns what it read and an error; where not even the ID can be read, the
// ID is zero.
func Decode(value []byte) (Payload, error) {
	s := string(value)
	first, rest, _ := strings.Cut(s, " ")
	var p Payload
	var err error
	if p.ID, err = ParseID(first); err != nil {
		return Payload{}, err
	}
	sum := ""
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		name, v, _ := strings.Cut(word, "=")
		switch name {
		case "order":
			p.Order = v
		case "step":
			p.Step = v
		case "after":
			for a := range strings.SplitSeq(v, ",") {
				id, err := ParseID(a)
				if err != nil {
					return p, fmt.Errorf("payload %s: after: %w", p.ID, err)
				}
				p.After = append(p.After, id)
			}
		case "txn":
			p.Txn = v
		case "pad":
			p.Pad = len(v)
		case "sum":
			if rest == "" {
				sum = v
			}
		}
	}
	body := strings.TrimSuffix(s, " sum="+sum)
	if want := fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(body))); sum != want {
		return p, fmt.Errorf("payload %s: its sum is %q, its bytes give %s", p.ID, sum, want)
	}
	return p, nil
}
