package router

import (
	"cmp"
	"slices"

	"spillway"
	"spillway/federation/failover"
	"spillway/mirror/offsetmap"
)

// constant is what is added to an offset that the site gives in the term to
// make it virtual. False if the site's map does not say yet.
func (r *Router) constant(share *Share, t Term, tp spillway.TopicPartition) (spillway.Offset, bool) {
	v := r.maps.View(t.Site, tp)
	if v != nil {
		if open, ok := v.Open(); ok && open.Epoch >= t.Base {
			return open.Virtual - spillway.Offset(open.Local), true
		}
	}
	// The first term needs no map: its constant is configured (architecture,
	// "Numbers that clients see"). A map that speaks of the partition, and does
	// not say that the term is open, says that it is over.
	if len(t.Past) == 0 && (v == nil || v.Empty()) {
		return share.Group.OffsetBase, true
	}
	return 0, false
}

// viewOf is the offset map of the site that serves a partition in the term, or
// nil while it does not know of the term yet. In the first term a partition
// that the map does not know is translated as constant does.
func (r *Router) viewOf(share *Share, t Term, tp spillway.TopicPartition) *offsetmap.View {
	v := r.maps.View(t.Site, tp)
	if v != nil {
		if open, ok := v.Open(); ok && open.Epoch >= t.Base {
			return v
		}
	}
	if len(t.Past) == 0 && (v == nil || v.Empty()) {
		return share.first(t)
	}
	return nil
}

// Virtual translates a start or an end of the log of the site that serves. False if its map
// does not say yet how.
func (r *Router) Virtual(share *Share, t Term, tp spillway.TopicPartition, at spillway.LocalOffset) (spillway.Offset, bool) {
	view := r.viewOf(share, t, tp)
	if view == nil {
		return 0, false
	}
	v, _ := view.ToVirtual(at)
	return v, true
}

// committedView is the offset map by which positions of a consumer group are stored at
// the site of its coordinator; t is the term of the group's share. The partition may be of
// another share, which is served elsewhere: then the site follows it, and what it has will do,
// since the exact position is in the commit's metadata.
func (r *Router) committedView(coordinator *Share, t Term, share *Share, tp spillway.TopicPartition) *offsetmap.View {
	if share == coordinator {
		return r.viewOf(share, t, tp)
	}
	own, serving := share.Serving()
	if serving && own.Site == t.Site {
		return r.viewOf(share, own, tp)
	}
	if v := r.maps.View(t.Site, tp); v != nil && !v.Empty() {
		return v
	}
	return share.first(own)
}

// NewTerm is the term in force of a share record.
func NewTerm(s failover.Share) Term {
	current := s.Current()
	t := Term{Epoch: current.Epoch, Site: current.Site, Mask: current.Mask, Base: current.Epoch}
	base := len(s.Terms) - 1
	for base > 0 && s.Terms[base].Continues {
		base--
	}
	t.Base = s.Terms[base].Epoch
	for _, p := range s.Terms[:base] {
		if !p.Continues {
			t.Past = append(t.Past, p)
		}
	}
	return t
}

// trailOf collects what is remembered of a producer's batches in all past
// terms, in the order in which they were written. The site of the term has it of
// what it mirrored. What it wrote itself in an older term is in no trail of its
// own: the site that took over from it has it, up to where it took over.
func (r *Router) trailOf(t Term, id int64, tp spillway.TopicPartition) []offsetmap.TrailEntry {
	var found []offsetmap.TrailEntry
	for i, p := range t.Past {
		site := t.Site
		if p.Site == t.Site {
			site = successor(t.Past[i:])
		}
		if v := r.maps.View(site, tp); v != nil {
			found = append(found, v.LastOf(spillway.MaskProducerID(id, p.Mask), p.Epoch)...)
		}
	}
	slices.SortStableFunc(found, func(a, b offsetmap.TrailEntry) int {
		return cmp.Or(cmp.Compare(a.ProducerEpoch, b.ProducerEpoch), cmp.Compare(a.Virtual, b.Virtual))
	})
	return found
}

// successor is the site that took over from the first of the terms.
func successor(terms []failover.Term) spillway.SiteID {
	for _, t := range terms {
		if t.Site != terms[0].Site {
			return t.Site
		}
	}
	return ""
}

// startOf is the first virtual offset that a map knows of.
func startOf(v *offsetmap.View) spillway.Offset {
	_, at := v.ToLocal(-1)
	return at
}
