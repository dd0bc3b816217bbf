package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"spillway"
	"spillway/broker/batch"
)

// windowRecords is how far the audit looks ahead to find where two logs agree
// again after a difference.
const windowRecords = 64

// auditor compares one partition.
type auditor struct {
	found          *Partition
	progress       func(records int64) // as they are compared
	source, target *reader
	began          spillway.Offset // virtual: what lies below was not asked for
	rules          *rules
}

func (a *auditor) run(ctx context.Context, scope Scope) error {
	defer a.source.close()
	defer a.target.close()
	if err := a.source.start(ctx); err != nil {
		return err
	}
	if err := a.target.start(ctx); err != nil {
		return err
	}
	var err error
	defer func() { a.found.LeftOut = a.source.leftOut }()
	if a.found.Compacted {
		return a.compareKeys(ctx)
	}
	a.align()
	if scope.whole() {
		err = a.compareRecords(ctx)
	} else {
		err = a.compareBlocks(ctx, scope)
	}
	if err != nil {
		return err
	}
	a.found.Hidden = a.target.hidden
	return nil
}

// align leaves out what one of the sites has already deleted by its retention.
// Only the maps can tell; without them both logs are compared from their starts.
func (a *auditor) align() {
	sv, tv := a.source.view, a.target.view
	if tv == nil {
		return
	}
	virtual := func(r *reader) spillway.Offset {
		if r.view == nil {
			return spillway.Offset(r.next)
		}
		v, _ := r.view.ToVirtual(r.next)
		return v
	}
	theirs, ours := virtual(a.source), virtual(a.target)
	if end := a.sourceEnd(); theirs < a.began && end >= a.began {
		l := spillway.LocalOffset(a.began)
		if sv != nil {
			l, _ = sv.ToLocal(a.began)
		}
		a.found.NotCompared = fmt.Sprintf("the flow was told to start at source offset %d", l)
		a.source.skipTo(l)
		theirs = a.began
	}
	switch {
	case theirs < ours && a.target.next > 0:
		l := spillway.LocalOffset(ours)
		if sv != nil {
			l, _ = sv.ToLocal(ours)
		}
		a.found.NotCompared = fmt.Sprintf("the target has deleted its records below offset %d (source offset %d)", a.target.next, l)
		a.source.skipTo(l)
	case ours < theirs && a.source.next > 0:
		l, _ := tv.ToLocal(theirs)
		a.found.NotCompared = fmt.Sprintf("the source has deleted its records below offset %d (target offset %d)", a.source.next, l)
		a.target.skipTo(l)
	}
}

// sourceEnd is the virtual offset behind the source's log.
func (a *auditor) sourceEnd() spillway.Offset {
	if a.source.view == nil {
		return spillway.Offset(a.source.end)
	}
	v, _ := a.source.view.ToVirtual(a.source.end)
	return v
}

func (a *auditor) compareRecords(ctx context.Context) error {
	for {
		s, more, err := a.source.peek(ctx, 0)
		if err != nil {
			return err
		}
		t, also, err := a.target.peek(ctx, 0)
		if err != nil {
			return err
		}
		switch {
		case !more && !also:
			return nil
		case !also:
			a.found.fault(Difference{Kind: Missing, Source: s.local, Target: -1})
			a.source.drop(1)
		case !more:
			a.extra(t)
			a.target.drop(1)
		case equal(s, t):
			a.matched(s, t)
			a.progress(a.found.Records)
			a.source.drop(1)
			a.target.drop(1)
		default:
			if err := a.differ(ctx, s, t); err != nil {
				return err
			}
		}
	}
}

func (a *auditor) extra(t record) {
	d := Difference{Kind: Extra, Source: -1, Target: t.local}
	if !a.rules.wants(t) {
		d.Detail = "a filter leaves it out"
	}
	a.found.fault(d)
}

// matched checks that the pair is found under one virtual offset, both ways.
func (a *auditor) matched(s, t record) {
	a.found.Records++
	if why := a.rules.untrue(t.says, s.local); why != "" {
		a.found.fault(Difference{Provenance, s.local, t.local, why})
	}
	tv := a.target.view
	if tv == nil {
		return
	}
	virtual := s.at()
	if virtual != t.virtual {
		a.found.fault(Difference{Translation, s.local, t.local, fmt.Sprintf("virtual offset %d at the source, %d at the target", virtual, t.virtual)})
		return
	}
	if l, at := tv.ToLocal(virtual); l != t.local || at != virtual {
		a.found.fault(Difference{Translation, s.local, t.local, fmt.Sprintf("virtual offset %d leads to %d", virtual, l)})
	}
}

// differ names a difference and goes on where the logs agree again.
func (a *auditor) differ(ctx context.Context, s, t record) error {
	s1, okS, err := a.source.peek(ctx, 1)
	if err != nil {
		return err
	}
	t1, okT, err := a.target.peek(ctx, 1)
	if err != nil {
		return err
	}
	if okS && okT && equal(s, t1) && equal(s1, t) {
		a.found.fault(Difference{Kind: Swapped, Source: s.local, Target: t.local})
		a.source.drop(2)
		a.target.drop(2)
		return nil
	}
	for distance := 1; distance <= windowRecords; distance++ {
		for i := range distance + 1 {
			same, err := a.agree(ctx, i, distance-i)
			if err != nil {
				return err
			}
			if same {
				a.skip(i, distance-i)
				return nil
			}
		}
	}
	if missing, err := a.missing(ctx, t); err != nil || missing > 0 {
		a.skip(missing, 0)
		return err
	}
	a.changed(s, t)
	a.source.drop(1)
	a.target.drop(1)
	return nil
}

func (a *auditor) agree(ctx context.Context, i, j int) (bool, error) {
	s, ok, err := a.source.peek(ctx, i)
	if err != nil || !ok {
		return false, err
	}
	t, ok, err := a.target.peek(ctx, j)
	if err != nil || !ok {
		return false, err
	}
	return equal(s, t), nil
}

// skip tells what lies before the place where the logs agree again: pairs were
// changed, what is left over is missing or extra.
func (a *auditor) skip(i, j int) {
	pairs := min(i, j)
	for k := range pairs {
		a.changed(a.source.queue[k], a.target.queue[k])
	}
	for k := pairs; k < i; k++ {
		a.found.fault(Difference{Kind: Missing, Source: a.source.queue[k].local, Target: -1})
	}
	for k := pairs; k < j; k++ {
		a.extra(a.target.queue[k])
	}
	a.source.drop(i)
	a.target.drop(j)
}

func (a *auditor) changed(s, t record) {
	a.found.Records++
	var what string
	switch {
	case !sameBytes(s.key, t.key):
		what = "key"
	case !sameBytes(s.value, t.value):
		what = "value"
	case s.timestamp != t.timestamp:
		what = fmt.Sprintf("timestamp: %d, then %d", s.timestamp, t.timestamp)
	default:
		what = "headers"
	}
	a.found.fault(Difference{Changed, s.local, t.local, what})
}

func equal(a, b record) bool {
	return a.timestamp == b.timestamp && sameBytes(a.key, b.key) && sameBytes(a.value, b.value) &&
		slices.EqualFunc(a.headers, b.headers, func(x, y batch.RecordHeader) bool { return x.Key == y.Key && sameBytes(x.Value, y.Value) })
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// lastOfKey is what a compacted topic says about a key in the end.
type lastOfKey struct {
	digest [sha256.Size]byte
	local  spillway.LocalOffset
	says   []string // provenance
}

// keyed is the last record of each key.
type keyed struct {
	last map[[sha256.Size]byte]lastOfKey
	// leftOut are the keys whose last record filters leave out.
	leftOut map[[sha256.Size]byte]bool
}

// compareKeys compares the last record of each key. A tombstone counts as no
// record: cleaners remove it at their own time. A key whose last record is left out
// may still have an earlier one at the target, which the source's cleaner has removed.
func (a *auditor) compareKeys(ctx context.Context) error {
	a.source.showLeftOut = true
	theirs, err := a.lastByKey(ctx, a.source, nil)
	if err != nil {
		return err
	}
	ours, err := a.lastByKey(ctx, a.target, a.extra)
	if err != nil {
		return err
	}
	for key, s := range theirs.last {
		a.found.Records++
		t, ok := ours.last[key]
		switch {
		case !ok:
			a.found.fault(Difference{KeyDiffers, s.local, -1, "only at the source"})
		case t.digest != s.digest:
			a.found.fault(Difference{KeyDiffers, s.local, t.local, "another record"})
		default:
			if why := a.rules.untrue(t.says, s.local); why != "" {
				a.found.fault(Difference{Provenance, s.local, t.local, why})
			}
		}
	}
	superseded := 0
	for key, t := range ours.last {
		if _, ok := theirs.last[key]; ok {
			continue
		}
		if theirs.leftOut[key] {
			superseded++
			continue
		}
		a.found.fault(Difference{KeyDiffers, -1, t.local, "only at the target"})
	}
	a.found.Hidden = a.target.hidden
	a.found.NotCompared = "records that compaction may remove are compared by key only"
	if superseded > 0 {
		a.note(fmt.Sprintf("%d keys whose last record a filter leaves out were not compared", superseded))
	}
	return nil
}

// lastByKey reads a log to its end. unwanted hears of the records of the target that
// filters leave out.
func (a *auditor) lastByKey(ctx context.Context, r *reader, unwanted func(record)) (keyed, error) {
	k := keyed{make(map[[sha256.Size]byte]lastOfKey), make(map[[sha256.Size]byte]bool)}
	for {
		rec, ok, err := r.peek(ctx, 0)
		if err != nil || !ok {
			return k, err
		}
		r.drop(1)
		key := sha256.Sum256(rec.key)
		if !a.rules.wants(rec) {
			if unwanted != nil {
				unwanted(rec)
				continue
			}
			delete(k.last, key)
			k.leftOut[key] = true
			continue
		}
		delete(k.leftOut, key)
		if rec.value == nil {
			delete(k.last, key)
			continue
		}
		k.last[key] = lastOfKey{digest(rec), rec.local, rec.says}
	}
}

// digest covers time, value and headers.
func digest(rec record) (sum [sha256.Size]byte) {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	var ts [8]byte
	binary.BigEndian.PutUint64(ts[:], uint64(rec.timestamp))
	h.Write(ts[:])
	field(rec.value)
	for _, header := range rec.headers {
		field([]byte(header.Key))
		field(header.Value)
	}
	h.Sum(sum[:0])
	return sum
}
