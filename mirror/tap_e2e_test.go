//go:build e2e

package mirror

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/kafka"
	"spillway/broker/wire"
)

// tap listens to what mirrors write to a site and what its brokers answer, and
// makes the way there a bad one. Now and then it cuts a connection where a
// worker waits for an answer: the batch is in the log then, and the worker does
// not know. And it holds requests back until somebody else has written.
type tap struct {
	topics map[string]bool // listened to
	// Of so many batches that were appended one is cut off from its answer, and
	// of so many requests one is held back; 0: none.
	cutEvery, holdEvery int

	mu struct {
		sync.Mutex
		appended map[written]int64 // base offset
		workers  map[string]*heard
		requests int
	}
}

// written is a batch as the broker tells it from others.
type written struct {
	spillway.TopicPartition
	producerID int64
	epoch      int16
	sequence   int32
}

// heard is what one worker was answered.
type heard struct {
	records    int64 // appended for this worker
	batches    int
	duplicates int // answers that a batch is already there
	cut        int // answers that the worker did not get
	refused    map[string]int
}

func newTap(cutEvery, holdEvery int, topic string) *tap {
	p := &tap{topics: map[string]bool{topic: true}, cutEvery: cutEvery, holdEvery: holdEvery}
	p.mu.appended, p.mu.workers = make(map[written]int64), make(map[string]*heard)
	return p
}

// site returns a site whose connections the tap listens to for a worker.
func (p *tap) site(t *testing.T, id spillway.SiteID, addresses []string, worker string) broker.Cluster {
	t.Helper()
	c, err := kafka.New(kafka.Config{Site: id, Bootstrap: addresses, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &tapped{Conn: c, tap: p, worker: worker, waiting: make(map[int32]produced)}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// of returns what a worker was answered so far.
func (p *tap) of(worker string) heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.mu.workers[worker]; h != nil {
		return *h
	}
	return heard{}
}

// holdMax is how long a request is held back at most.
const holdMax = 300 * time.Millisecond

// holdAhead is how much more often a worker is held back that has written more than
// all others: who wins a race for a session wins the next ones, too, and would write
// nearly everything.
const holdAhead = 5

// hold returns at once for most requests, and for some after another worker has
// written.
func (p *tap) hold(worker string) {
	before := p.others(worker)
	p.mu.Lock()
	p.mu.requests++
	every := p.holdEvery
	if h := p.mu.workers[worker]; h != nil && h.batches > before {
		every /= holdAhead
	}
	held := every > 0 && p.mu.requests%every == 0
	p.mu.Unlock()
	for end := time.Now().Add(holdMax); held && p.others(worker) == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// others is how many batches other workers have written.
func (p *tap) others(than string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for worker, h := range p.mu.workers {
		if worker != than {
			n += h.batches
		}
	}
	return n
}

// errCut is what the worker's side of a cut connection sees.
var errCut = errors.New("the test cut the connection")

// hear takes the answer to a produce request and tells whether to cut it off.
func (p *tap) hear(worker string, sent produced, resp *kmsg.ProduceResponse) (cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.mu.workers[worker]
	if h == nil {
		h = &heard{refused: make(map[string]int)}
		p.mu.workers[worker] = h
	}
	for _, t := range resp.Topics {
		for _, part := range t.Partitions {
			b, ok := sent.batches[spillway.TopicPartition{Topic: t.Topic, Partition: part.Partition}]
			if !ok {
				continue
			}
			key := written{spillway.TopicPartition{Topic: t.Topic, Partition: part.Partition}, b.ProducerID, b.ProducerEpoch, b.BaseSequence}
			base, there := p.mu.appended[key]
			switch err := kerr.ErrorForCode(part.ErrorCode); {
			case err != nil:
				h.refused[err.(*kerr.Error).Message]++
			case there && base == part.BaseOffset:
				h.duplicates++
			default:
				p.mu.appended[key] = part.BaseOffset
				h.records += int64(b.Count)
				h.batches++
				if p.cutEvery > 0 && h.batches%p.cutEvery == 0 {
					cut = true
				}
			}
		}
	}
	if cut {
		h.cut++
	}
	return cut
}

// produced is a request on its way.
type produced struct {
	version int16
	batches map[spillway.TopicPartition]batch.Header
}

// tapped is one connection.
type tapped struct {
	net.Conn
	tap    *tap
	worker string

	mu      sync.Mutex
	waiting map[int32]produced // by correlation id
	written bytes.Buffer       // requests that are not complete

	read bytes.Buffer // of the answer that is handed on; used by the one who reads
}

// Write looks into requests once they are complete, before their last byte is
// on its way: the answer may not be faster.
func (c *tapped) Write(b []byte) (int, error) {
	listened := false
	c.mu.Lock()
	c.written.Write(b)
	for c.written.Len() >= 4 {
		n := int(binary.BigEndian.Uint32(c.written.Bytes()))
		if c.written.Len() < 4+n {
			break
		}
		listened = c.look(bytes.Clone(c.written.Next(4 + n)[4:])) || listened
	}
	c.mu.Unlock()
	if listened {
		c.tap.hold(c.worker)
	}
	return c.Conn.Write(b)
}

// look tells whether the request writes what is listened to.
func (c *tapped) look(frame []byte) bool {
	h, body, err := wire.ParseRequest(frame)
	if err != nil || h.Key != int16(kmsg.Produce) {
		return false
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version = h.Version
	if err := req.ReadFrom(body); err != nil {
		panic(fmt.Sprintf("a produce request of the mirror cannot be read: %v", err))
	}
	p := produced{version: h.Version, batches: make(map[spillway.TopicPartition]batch.Header)}
	for _, t := range req.Topics {
		for _, part := range t.Partitions {
			if !c.tap.topics[t.Topic] {
				continue
			}
			header, _, err := batch.Parse(part.Records)
			if err != nil {
				panic(fmt.Sprintf("a batch of the mirror cannot be read: %v", err))
			}
			p.batches[spillway.TopicPartition{Topic: t.Topic, Partition: part.Partition}] = header
		}
	}
	if len(p.batches) == 0 {
		return false
	}
	c.waiting[h.CorrelationID] = p
	return true
}

// Read hands on whole answers.
func (c *tapped) Read(b []byte) (int, error) {
	if c.read.Len() == 0 {
		frame, err := wire.ReadFrame(c.Conn, nil, 256<<20)
		if err != nil {
			return 0, err
		}
		if c.answered(frame) {
			c.Close()
			return 0, errCut
		}
		c.read.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame))))
		c.read.Write(frame)
	}
	return c.read.Read(b)
}

func (c *tapped) answered(frame []byte) (cut bool) {
	if len(frame) < 4 {
		return false
	}
	id := int32(binary.BigEndian.Uint32(frame))
	c.mu.Lock()
	sent, ok := c.waiting[id]
	delete(c.waiting, id)
	c.mu.Unlock()
	if !ok {
		return false
	}
	_, body, err := wire.ParseResponse(int16(kmsg.Produce), sent.version, frame)
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = sent.version
	if err := errors.Join(err, resp.ReadFrom(body)); err != nil {
		panic(fmt.Sprintf("an answer to a produce request cannot be read: %v", err))
	}
	return c.tap.hear(c.worker, sent, resp)
}
