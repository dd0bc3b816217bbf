package audit

import (
	"fmt"
	"slices"
	"strconv"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/rewrite"
)

// rules are what a flow was told to do to the records of one partition. How flags are read,
// which topics a filter means, its compiled expression and the words in the map are those
// of package rewrite, which the flow uses too. Whether a record meets a filter, and what
// its provenance has to be, the audit decides by itself.
type rules struct {
	filters    []rewrite.Filter
	provenance bool
	cluster    string // the source's cluster id
	source     spillway.TopicPartition
}

func rulesFor(r rewrite.Rules, cluster string, source spillway.TopicPartition) rules {
	found := rules{provenance: r.Provenance, cluster: cluster, source: source}
	for _, f := range r.Filters {
		if f.Means(source.Topic) {
			found.filters = append(found.filters, f)
		}
	}
	return found
}

// wants tells whether a record has to be at the target.
func (r *rules) wants(rec record) bool {
	tombstone := rec.value == nil && rec.key != nil
	for _, f := range r.filters {
		found := false
		switch {
		case f.Header == "":
			found = rec.key != nil && f.Pattern.Match(rec.key)
		case tombstone:
			continue
		default:
			for _, h := range rec.headers {
				found = found || h.Key == f.Header && h.Value != nil && f.Pattern.Match(h.Value)
			}
		}
		if found == f.Negated {
			return false
		}
	}
	return true
}

// provenanceNames are the headers that a flow adds, in their order, at the end.
var provenanceNames = [...]string{"spillway.cluster", "spillway.topic", "spillway.partition", "spillway.offset"}

// split takes the provenance headers off a record of the target. It returns what they
// say; nil: they are not there.
func split(headers []batch.RecordHeader) (rest []batch.RecordHeader, says []string) {
	n := len(headers) - len(provenanceNames)
	if n < 0 {
		return headers, nil
	}
	for i, h := range headers[n:] {
		if h.Key != provenanceNames[i] || h.Value == nil {
			return headers, nil
		}
		says = append(says, string(h.Value))
	}
	return headers[:n], says
}

// untrue is what is wrong with the provenance headers of the record that lies at an
// offset of the source; "": nothing.
func (r *rules) untrue(says []string, at spillway.LocalOffset) string {
	want := []string{r.cluster, r.source.Topic, strconv.Itoa(int(r.source.Partition)), strconv.FormatInt(int64(at), 10)}
	switch {
	case !r.provenance || slices.Equal(says, want):
		return ""
	case says == nil:
		return "no provenance headers"
	default:
		return fmt.Sprintf("the provenance headers say %q, the record comes from %q", says, want)
	}
}
