package adopt

// entry is a source record that was passed, with where it is at the target.
type entry struct {
	offset, target int64 // target −1: nowhere
	digest         Digest
	key            uint64
	tombstone      bool
}

// behind holds the last source records that were passed, by number.
type behind struct {
	ring       []entry
	begin, end int64            // numbers: [begin, end)
	byDigest   map[Digest]int64 // the last one's number
}

func newBehind(max int) *behind {
	return &behind{ring: make([]entry, max), byDigest: make(map[Digest]int64)}
}

func (b *behind) at(number int64) *entry { return &b.ring[number%int64(len(b.ring))] }

// push adds a record, and returns the one that had to go for it.
func (b *behind) push(s Record, target int64) (gone entry, full bool) {
	if full = b.end-b.begin == int64(len(b.ring)); full {
		gone = *b.at(b.begin)
		if b.byDigest[gone.digest] == b.begin {
			delete(b.byDigest, gone.digest)
		}
		b.begin++
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

	// records[from:] come; passed is how many were taken. The others of one digest
	// are chained behind its first one, by number.
	records []chained
	from    int
	passed  int64
	chains  map[Digest]chain // of what fill has read

	dropped     map[Digest]int64 // aborted records: the number of the last of a digest
	droppedRing []Digest
	droppedEnd  int64
}

type chained struct {
	Record
	next int64 // number of the next one with this digest, 0: none
}

type chain struct{ first, last int64 }

func newAhead(limits Limits, log Log) *ahead {
	return &ahead{log: log, limit: limits.Ahead, chains: make(map[Digest]chain), dropped: make(map[Digest]int64), droppedRing: make([]Digest, limits.Behind)}
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
		number := a.passed + int64(len(a.records)-a.from)
		a.records = append(a.records, chained{Record: r})
		c, there := a.chains[r.Digest]
		if there {
			a.records[a.from+int(c.last-a.passed)].next = number
			c.last = number
		} else {
			c = chain{number, number}
		}
		a.chains[r.Digest] = c
		return true, nil
	}
}

func (a *ahead) drop(d Digest) {
	at := &a.droppedRing[a.droppedEnd%int64(len(a.droppedRing))]
	if a.droppedEnd >= int64(len(a.droppedRing)) && a.dropped[*at] == a.droppedEnd-int64(len(a.droppedRing)) {
		delete(a.dropped, *at)
	}
	*at = d
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
	if r.next == 0 {
		delete(a.chains, r.Digest)
	} else {
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

// fill reads as far ahead as it may.
func (a *ahead) fill() error {
	for len(a.records)-a.from < a.limit {
		if ok, err := a.read(); err != nil || !ok {
			return err
		}
	}
	return nil
}

// find is how many records come before the first one with the digest.
func (a *ahead) find(d Digest) (distance int, ok bool) {
	c, ok := a.chains[d]
	return int(c.first - a.passed), ok
}
