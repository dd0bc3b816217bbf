package rewrite

import (
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/broker/batch"
)

// Rules are what a flow does to records. The zero value carries them as they are.
type Rules struct {
	Filters    []Filter // all that mean a topic have to pass
	Provenance bool     // each record says where it comes from
	Cluster    string   // the id of the source's cluster, for that
}

// Any tells whether there are any.
func (r Rules) Any() bool { return len(r.Filters) > 0 || r.Provenance }

// Text is what the rules say of one topic, in a form that can be kept and compared.
type Text struct {
	Filters    []string `json:"filters,omitempty"` // conditions, sorted
	Provenance bool     `json:"provenance,omitempty"`
}

// Equal tells whether both say the same.
func (t Text) Equal(o Text) bool {
	return t.Provenance == o.Provenance && slices.Equal(t.Filters, o.Filters)
}

// Any tells whether records are not carried as they are.
func (t Text) Any() bool { return t.Provenance || len(t.Filters) > 0 }

// String is what the flags would be.
func (t Text) String() string {
	var flags []string
	for _, f := range t.Filters {
		flags = append(flags, "--filter '"+f+"'")
	}
	if t.Provenance {
		flags = append(flags, "--provenance")
	}
	if len(flags) == 0 {
		return "no filter and no provenance"
	}
	return strings.Join(flags, " ")
}

// Of are the rules for a topic of the source, in words.
func (r Rules) Of(topic string) Text {
	t := Text{Provenance: r.Provenance}
	for _, f := range r.Filters {
		if f.Means(topic) {
			t.Filters = append(t.Filters, f.condition)
		}
	}
	slices.Sort(t.Filters)
	t.Filters = slices.Compact(t.Filters)
	return t
}

// Partition applies rules to the records of one partition of the source. A nil one
// carries all as they are.
type Partition struct {
	filters []Filter
	marks   []batch.RecordHeader // of each record, but for the offset; none: no provenance
}

// For are the rules for a partition of the source; nil: there are none.
func (r Rules) For(tp spillway.TopicPartition) *Partition {
	p := &Partition{}
	for _, f := range r.Filters {
		if f.Means(tp.Topic) {
			p.filters = append(p.filters, f)
		}
	}
	if r.Provenance {
		p.marks = []batch.RecordHeader{
			{Key: HeaderCluster, Value: []byte(r.Cluster)},
			{Key: HeaderTopic, Value: []byte(tp.Topic)},
			{Key: HeaderPartition, Value: strconv.AppendInt(nil, int64(tp.Partition), 10)},
		}
	}
	if len(p.filters) == 0 && p.marks == nil {
		return nil
	}
	return p
}

// Keeps tells whether a record is carried.
func (p *Partition) Keeps(r *batch.Record) bool {
	if p == nil {
		return true
	}
	for i := range p.filters {
		if !p.filters[i].passes(r) {
			return false
		}
	}
	return true
}

// Marks tells whether records get provenance headers.
func (p *Partition) Marks() bool { return p != nil && p.marks != nil }

// Mark adds the provenance headers, if they are wanted. The offset is that of the
// record at the source.
func (p *Partition) Mark(r *batch.Record, offset int64) {
	if !p.Marks() {
		return
	}
	headers := make([]batch.RecordHeader, 0, len(r.Headers)+len(p.marks)+1)
	headers = append(append(headers, r.Headers...), p.marks...)
	r.Headers = append(headers, batch.RecordHeader{Key: HeaderOffset, Value: strconv.AppendInt(nil, offset, 10)})
}

// Provenance headers, in this order behind those that a record has. Their values are
// text; numbers are decimal.
const (
	HeaderCluster   = "spillway.cluster" // the cluster id of the source
	HeaderTopic     = "spillway.topic"   // the topic's name at the source
	HeaderPartition = "spillway.partition"
	HeaderOffset    = "spillway.offset" // at the source
)
