package adopt

// entry is a source record that was passed, with where it is at the target.
type entry struct {
	offset, target int64 // target may be nowhere or settled
	digest         Digest
	key            uint64
	tombstone      bool
}

// behind holds the last source records that were passed, by number.
type behind struct {
	max        int
	ring       []entry          // grows to max
	begin, end int64            // numbers: [begin, end)
	byDigest   map[Digest]int64 // the last one's number
}

func newBehind(max int) *behind {
	return &behind{max: max, byDigest: make(map[Digest]int64)}
}

func (b *behind) at(number int64) *entry { return &b.ring[number%int64(b.max)] }

// push adds a record, and returns the one that had to go for it.
func (b *behind) push(s Record, target int64) (gone entry, full bool) {
	if full = b.end-b.begin == int64(b.max); full {
		gone = *b.at(b.begin)
		if b.byDigest[gone.digest] == b.begin {
			delete(b.byDigest, gone.digest)
		}
		b.begin++
	} else {
		b.ring = append(b.ring, entry{})
	}
	*b.at(b.end) = entry{s.Offset, target, s.Digest, s.Key, s.Tombstone}
	b.byDigest[s.Digest] = b.end
	b.end++
	return gone, full
}

func (b *behind) find(d Digest) (number int64, ok bool) {
	number, ok = b.byDigest[d]
	return number, ok
}

// ahead shows the committed records of the source that come, and what aborted
// transactions wrote among those that were read.
type ahead struct {
	log   Log
	limit int

	// records[from:] come; passed is how many were taken. Of those with numbers below
	// linked, the others of one digest are chained behind its first one.
	records []chained
	from    int
	passed  int64
	linked  int64
	chains  map[Digest]chain

	dropped     map[Digest]int64 // aborted records: the number of the last of a digest
	droppedRing []Digest         // grows to droppedMax
	droppedMax  int
	droppedEnd  int64
}

type chained struct {
	Record
	next int64 // number of the next one with this digest, 0: none
}

type chain struct{ first, last int64 }

func newAhead(limits Limits, log Log) *ahead {
	return &ahead{log: log, limit: limits.Ahead, chains: make(map[Digest]chain), dropped: make(map[Digest]int64), droppedMax: limits.Behind}
}

// read appends the next committed record.
func (a *ahead) read() (ok bool, err error) {
	for {
		r, ok, err := a.log.Next()
		if err != nil || !ok {
			return false, err
		}
		if r.Aborted {
			a.drop(r.Digest)
			continue
		}
		a.records = append(a.records, chained{Record: r})
		return true, nil
	}
}

// link puts the records that were read into their chains.
func (a *ahead) link() {
	end := a.passed + int64(len(a.records)-a.from)
	for a.linked = max(a.linked, a.passed); a.linked < end; a.linked++ {
		d := a.records[a.from+int(a.linked-a.passed)].Digest
		c, there := a.chains[d]
		if there {
			a.records[a.from+int(c.last-a.passed)].next = a.linked
			c.last = a.linked
		} else {
			c = chain{a.linked, a.linked}
		}
		a.chains[d] = c
	}
}

func (a *ahead) drop(d Digest) {
	if oldest := a.droppedEnd - int64(a.droppedMax); oldest < 0 {
		a.droppedRing = append(a.droppedRing, d)
	} else {
		at := &a.droppedRing[a.droppedEnd%int64(a.droppedMax)]
		if a.dropped[*at] == oldest {
			delete(a.dropped, *at)
		}
		*at = d
	}
	a.dropped[d] = a.droppedEnd
	a.droppedEnd++
}

// aborted tells whether an aborted transaction wrote such a record lately, or will.
func (a *ahead) aborted(d Digest) bool {
	_, there := a.dropped[d]
	return there
}

// first is the next record.
func (a *ahead) first() (Record, bool, error) {
	if a.from == len(a.records) {
		if ok, err := a.read(); !ok {
			return Record{}, false, err
		}
	}
	return a.records[a.from].Record, true, nil
}

// take removes the next record, which first or find has shown.
func (a *ahead) take() Record {
	r := a.records[a.from]
	switch {
	case a.passed >= a.linked: // it is in none
	case r.next == 0:
		delete(a.chains, r.Digest)
	default:
		a.chains[r.Digest] = chain{r.next, a.chains[r.Digest].last}
	}
	a.from++
	a.passed++
	if a.from > len(a.records)/2 && a.from >= 1024 || a.from == len(a.records) {
		a.records = append(a.records[:0], a.records[a.from:]...)
		a.from = 0
	}
	return r.Record
}

// fill reads as far ahead as it may, for find.
func (a *ahead) fill() error {
	defer a.link()
	for len(a.records)-a.from < a.limit {
		if ok, err := a.read(); err != nil || !ok {
			return err
		}
	}
	return nil
}

// find is how many records come before the first one with the digest, among those that
// fill has read.
func (a *ahead) find(d Digest) (distance int, ok bool) {
	c, ok := a.chains[d]
	return int(c.first - a.passed), ok
}
