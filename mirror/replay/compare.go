package replay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"spillway"
	"spillway/mirror"
)

// RecordsMax bounds what is compared at once: the records of one range. Each takes
// about 150 bytes while its range is compared.
const RecordsMax = 1 << 20

// fate of an unreplicated record.
type fate uint8

const (
	missing    fate = iota // not in the log: to be written
	unknown                // not compared
	numbered               // there: a batch of its producer with its sequence
	there                  // there: a record of the same content
	superseded             // its key has a newer record (R3)
)

// record is one of either log, as far as it matters.
type record struct {
	local      spillway.LocalOffset // of an unreplicated one
	key, value []byte
	headers    []mirror.UnreplicatedHeader
	timestamp  int64
	producer   producer
	sequence   int32 // −1 without a producer
}

// producer is a client's, with its own id and not as it is masked in a log. The zero
// value is none.
type producer struct {
	id    int64
	epoch int16
}

type numberedRecord struct {
	producer
	sequence int32
}

// digest of a record's content, or of its key.
type digest [16]byte

// comparison finds out which unreplicated records of a partition the log has. Add all
// of them, show it all of the log since they were given up, and ask for their fates.
// It is pure, and its memory does not grow with the log.
type comparison struct {
	rules rules

	offsets  []spillway.LocalOffset // by record, ascending
	contents []digest               // by record
	keys     []digest               // by record; of compacted topics
	fates    []fate

	numbers   map[numberedRecord]int32 // the record
	producers map[producer]struct{}
	same      map[digest][]int32 // records of a content, ascending
	copies    map[digest]int     // records of the log with such a content
	newer     map[digest]bool    // keys that have a record in the log that is no copy
}

// rules are what the topic's settings have to say.
type rules struct {
	compacted bool
	// appendTime: brokers give records the time of their arrival, so it is not compared.
	appendTime bool
}

func newComparison(r rules) *comparison {
	return &comparison{rules: r, numbers: make(map[numberedRecord]int32), producers: make(map[producer]struct{}),
		same: make(map[digest][]int32), copies: make(map[digest]int), newer: make(map[digest]bool)}
}

// add takes the next unreplicated record.
func (c *comparison) add(r record) error {
	i := len(c.contents)
	if i == RecordsMax {
		return refuse("more than %d records in one range; export them, and write back what is wanted", RecordsMax)
	}
	content := c.rules.content(r)
	c.offsets = append(c.offsets, r.local)
	c.contents = append(c.contents, content)
	c.fates = append(c.fates, missing)
	c.same[content] = append(c.same[content], int32(i))
	if c.rules.compacted {
		key := keyOf(r)
		c.keys = append(c.keys, key)
		c.newer[key] = false
	}
	if r.producer != (producer{}) {
		c.producers[r.producer] = struct{}{}
		c.numbers[numberedRecord{r.producer, r.sequence}] = int32(i)
	}
	return nil
}

// seen is what a comparison keeps of a record of the log until it is known to count.
type seen struct {
	content, key digest
	number       numberedRecord
}

func (c *comparison) look(r record) seen {
	s := seen{content: c.rules.content(r), number: numberedRecord{r.producer, r.sequence}}
	if c.rules.compacted {
		s.key = keyOf(r)
	}
	return s
}

// see takes a record of the log.
func (c *comparison) see(s seen) {
	if _, known := c.producers[s.number.producer]; known {
		// The producer's own numbers tell whether it is one of these: it may have
		// written the same words twice within a millisecond.
		if i, ok := c.numbers[s.number]; ok && c.contents[i] == s.content {
			c.fates[i] = numbered
			return
		}
	} else if _, ok := c.same[s.content]; ok {
		c.copies[s.content]++
		return
	}
	if _, ok := c.newer[s.key]; ok && c.rules.compacted {
		c.newer[s.key] = true
	}
}

// fates of records by their offsets. A range is read again and again, and compaction may
// take of it meanwhile, so it is asked by ascending offsets.
type fates struct {
	offsets []spillway.LocalOffset
	fates   []fate
}

// next is the fate of the record at an offset. Those before it are forgotten.
func (f *fates) next(at spillway.LocalOffset) fate {
	for len(f.offsets) > 0 && f.offsets[0] < at {
		f.offsets, f.fates = f.offsets[1:], f.fates[1:]
	}
	if len(f.offsets) == 0 || f.offsets[0] != at {
		return unknown
	}
	return f.fates[0]
}

// settle tells the fates by what was seen up to now.
func (c *comparison) settle() fates { return fates{c.offsets, c.decide()} }

func (c *comparison) decide() []fate {
	fates := slices.Clone(c.fates)
	for content, n := range c.copies {
		for _, i := range c.same[content] {
			if n == 0 {
				break
			}
			if fates[i] == missing {
				fates[i] = there
				n--
			}
		}
	}
	if !c.rules.compacted {
		return fates
	}
	newer := maps.Clone(c.newer)
	// A copy in the log is newer than what came before its original, and older than
	// what came behind it.
	for i := len(fates) - 1; i >= 0; i-- {
		switch key := c.keys[i]; {
		case fates[i] != missing:
			newer[key] = true
		case newer[key]:
			fates[i] = superseded
		}
	}
	return fates
}

func (r rules) content(rec record) (d digest) {
	h := sha256.New()
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		h.Write(n[:])
	}
	part := func(b []byte) {
		if b == nil {
			number(-1)
			return
		}
		number(int64(len(b)))
		h.Write(b)
	}
	if !r.appendTime {
		number(rec.timestamp)
	}
	part(rec.key)
	part(rec.value)
	for _, header := range rec.headers {
		part([]byte(header.Key))
		part(header.Value)
	}
	copy(d[:], h.Sum(nil))
	return d
}

func keyOf(rec record) (d digest) {
	sum := sha256.Sum256(rec.key)
	copy(d[:], sum[:])
	return d
}

// ownProducer is the id under which a partition is written in an epoch: the same in every
// run, of whichever site, and another one in the next epoch, whose log may lack the end of
// what this one wrote.
func ownProducer(cluster string, tp spillway.TopicPartition, epoch spillway.Epoch) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "replay/%s/%s/%d/%d", cluster, tp.Topic, tp.Partition, epoch))
	return spillway.ClientProducerID(binary.BigEndian.Uint64(sum[:]) & math.MaxInt64)
}
