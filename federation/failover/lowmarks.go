package failover

import (
	"encoding/hex"
	"maps"
	"time"

	"spillway"
)

// LowMarks is the record of what clients have deleted of a topic: below which virtual
// offsets nothing is shown at any site.
type LowMarks struct {
	Topic string                    `json:"topic"`
	Marks map[int32]spillway.Offset `json:"marks"` // by partition
	// Sites has the id of the topic at each site that was known when the marks were
	// raised. Under another id it is another topic, and the marks mean nothing.
	Sites map[spillway.SiteID]string `json:"sites,omitempty"`
	// Count rises with every change.
	Count int64     `json:"count"`
	Who   string    `json:"who,omitempty"` // is told in the audit log
	Told  time.Time `json:"told,omitzero"` // when
}

// Of tells whether the marks are of the topic that a site has under an id; a zero id, or a
// site that is not named, contradicts nothing.
func (r LowMarks) Of(site spillway.SiteID, id [16]byte) bool {
	known, ok := r.Sites[site]
	return !ok || id == [16]byte{} || known == hex.EncodeToString(id[:])
}

// Newer tells whether this is a later state of the record than another one.
func (r LowMarks) Newer(than LowMarks) bool { return r.Count > than.Count }

// Raised has the marks at least where they are given. Marks of a topic that was there
// before under the same name are gone.
func (r LowMarks) Raised(topic string, marks map[int32]spillway.Offset, ids map[spillway.SiteID][16]byte) LowMarks {
	next := LowMarks{Topic: topic, Marks: maps.Clone(r.Marks), Sites: maps.Clone(r.Sites), Count: r.Count + 1, Who: r.Who, Told: r.Told}
	for site, id := range ids {
		if !r.Of(site, id) {
			next.Marks, next.Sites = nil, nil
		}
	}
	if next.Marks == nil {
		next.Marks = make(map[int32]spillway.Offset)
	}
	if next.Sites == nil {
		next.Sites = make(map[spillway.SiteID]string)
	}
	for p, mark := range marks {
		next.Marks[p] = max(mark, next.Marks[p])
	}
	for site, id := range ids {
		if id != [16]byte{} {
			next.Sites[site] = hex.EncodeToString(id[:])
		}
	}
	return next
}
