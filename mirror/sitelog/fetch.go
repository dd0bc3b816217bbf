package sitelog

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
)

// The newest versions that name topics instead of giving their ids: a mirror
// knows names, and ids differ between sites.
const (
	fetchVersionMax   = 12
	produceVersionMax = 12
)

// FetchOptions bound one Fetch.
type FetchOptions struct {
	MaxWait     time.Duration // how long the broker may wait for the first byte
	BytesMax    int           // of the whole answer
	Uncommitted bool          // also records of open and aborted transactions
	// OnWire is how the broker calls a topic; nil: by the same name.
	// What it does not have is unknown, and not asked for.
	OnWire func(topic string) (name string, ok bool)
}

// FetchPart asks for one partition.
type FetchPart struct {
	spillway.TopicPartition
	Offset   spillway.LocalOffset
	BytesMax int
	// LastEpoch is the leader epoch of the batch before Offset, if CheckEpoch.
	// With it the broker tells when that batch is not the one it has (KIP-595).
	LastEpoch  int32
	CheckEpoch bool
}

// Fetched is the answer for one partition.
type Fetched struct {
	spillway.TopicPartition
	Asked         spillway.LocalOffset
	Err           error // one of kerr's, or nil
	HighWatermark spillway.LocalOffset
	LastStable    spillway.LocalOffset
	LogStart      spillway.LocalOffset
	Aborted       []AbortedTransaction
	// Diverged is where the broker's log parted from the one that LastEpoch is
	// of, −1 where it did not: records from there on were lost or replaced.
	Diverged spillway.LocalOffset
	Records  []byte // batches; the first may start below Asked, the last may be cut off
}

// AbortedTransaction says that what the producer wrote in a transaction from
// First on, up to its abort marker, does not count.
type AbortedTransaction struct {
	ProducerID int64
	First      spillway.LocalOffset
}

// fetchSilenceMax is how long a broker may be silent beyond the time that it was
// asked to wait. Its machine may live and acknowledge while it hangs.
const fetchSilenceMax = 30 * time.Second

// Fetch asks the broker at the other end of c. The answers have the order of
// the parts and leave out partitions that the broker left out. After an error
// the connection is of no use: its answer may still come. A throttle time of the answer
// mutes the connection; Fetch waits for the end of an earlier one.
func Fetch(ctx context.Context, c *conn.Conn, parts []FetchPart, o FetchOptions) ([]Fetched, error) {
	r := newRequest(c, o)
	r.req.SessionEpoch = -1 // no fetch session
	asked := make(map[spillway.TopicPartition]FetchPart, len(parts))
	for _, p := range parts {
		if r.ask(p) {
			asked[p.TopicPartition] = p
		}
	}
	if len(asked) == 0 {
		return r.unknown, nil
	}
	resp, err := r.send(ctx, c, o)
	if err != nil {
		return nil, err
	}
	return append(r.unknown, answers(resp, r.names, asked)...), nil
}

// request is one that is being put together.
type request struct {
	req     *kmsg.FetchRequest
	onWire  func(topic string) (name string, ok bool)
	topics  map[string]int    // places in the request
	names   map[string]string // of topics, by those on the wire
	unknown []Fetched         // what cannot be asked for
}

func newRequest(c *conn.Conn, o FetchOptions) *request {
	req := kmsg.NewPtrFetchRequest()
	req.Version = min(fetchVersionMax, c.MaxVersion(int16(kmsg.Fetch)))
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(o.MaxWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = int32(o.BytesMax)
	if !o.Uncommitted {
		req.IsolationLevel = 1
	}
	return &request{req: req, onWire: o.OnWire, topics: make(map[string]int), names: make(map[string]string)}
}

// nameOf is how the broker calls a topic; false where it does not have it.
func (r *request) nameOf(topic string) (string, bool) {
	if r.onWire == nil {
		return topic, true
	}
	return r.onWire(topic)
}

// ask tells whether the partition could be asked for.
func (r *request) ask(p FetchPart) bool {
	i, ok := r.topics[p.Topic]
	if !ok {
		t := kmsg.NewFetchRequestTopic()
		known := false
		if t.Topic, known = r.nameOf(p.Topic); !known {
			r.unknown = append(r.unknown, Fetched{TopicPartition: p.TopicPartition, Asked: p.Offset, Err: kerr.UnknownTopicOrPartition, HighWatermark: -1, LastStable: -1, LogStart: -1, Diverged: -1})
			return false
		}
		i = len(r.req.Topics)
		r.topics[p.Topic] = i
		r.names[t.Topic] = p.Topic
		r.req.Topics = append(r.req.Topics, t)
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition = p.Partition
	rp.FetchOffset = int64(p.Offset)
	rp.PartitionMaxBytes = int32(p.BytesMax)
	if p.CheckEpoch {
		rp.LastFetchedEpoch = p.LastEpoch
	}
	r.req.Topics[i].Partitions = append(r.req.Topics[i].Partitions, rp)
	return true
}

// send waits for the answer, as long as the broker was asked to wait and some more.
func (r *request) send(ctx context.Context, c *conn.Conn, o FetchOptions) (*kmsg.FetchResponse, error) {
	if err := c.Unmuted(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.MaxWait+fetchSilenceMax)
	defer cancel()
	answer, err := c.DoVersion(ctx, r.req)
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.FetchResponse)
	c.Mute(time.Duration(resp.ThrottleMillis) * time.Millisecond)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return resp, nil
}

// answers are those about what was asked for; names are of topics, by those on the wire.
func answers(resp *kmsg.FetchResponse, names map[string]string, asked map[spillway.TopicPartition]FetchPart) (fetched []Fetched) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			f := Fetched{
				TopicPartition: spillway.TopicPartition{Topic: names[t.Topic], Partition: p.Partition},
				Err:            kerr.ErrorForCode(p.ErrorCode),
				HighWatermark:  spillway.LocalOffset(p.HighWatermark),
				LastStable:     spillway.LocalOffset(p.LastStableOffset),
				LogStart:       spillway.LocalOffset(p.LogStartOffset),
				Records:        p.RecordBatches,
				Diverged:       spillway.LocalOffset(p.DivergingEpoch.EndOffset),
			}
			part, ok := asked[f.TopicPartition]
			if !ok {
				continue // not asked for; a broker would not do that
			}
			f.Asked = part.Offset
			for _, a := range p.AbortedTransactions {
				f.Aborted = append(f.Aborted, AbortedTransaction{a.ProducerID, spillway.LocalOffset(a.FirstOffset)})
			}
			fetched = append(fetched, f)
		}
	}
	return fetched
}
