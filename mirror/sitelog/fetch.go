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
	req := kmsg.NewPtrFetchRequest()
	req.Version = min(fetchVersionMax, c.MaxVersion(int16(kmsg.Fetch)))
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(o.MaxWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = int32(o.BytesMax)
	if !o.Uncommitted {
		req.IsolationLevel = 1
	}
	req.SessionEpoch = -1 // no fetch session
	topics, names := make(map[string]int), make(map[string]string)
	asked := make(map[spillway.TopicPartition]spillway.LocalOffset, len(parts))
	var fetched []Fetched
	for _, p := range parts {
		i, ok := topics[p.Topic]
		if !ok {
			t := kmsg.NewFetchRequestTopic()
			known := true
			if t.Topic = p.Topic; o.OnWire != nil {
				t.Topic, known = o.OnWire(p.Topic)
			}
			if !known {
				fetched = append(fetched, Fetched{TopicPartition: p.TopicPartition, Asked: p.Offset, Err: kerr.UnknownTopicOrPartition, HighWatermark: -1, LastStable: -1, LogStart: -1, Diverged: -1})
				continue
			}
			i = len(req.Topics)
			topics[p.Topic] = i
			names[t.Topic] = p.Topic
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition = p.Partition
		rp.FetchOffset = int64(p.Offset)
		rp.PartitionMaxBytes = int32(p.BytesMax)
		if p.CheckEpoch {
			rp.LastFetchedEpoch = p.LastEpoch
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
		asked[p.TopicPartition] = p.Offset
	}
	if len(asked) == 0 {
		return fetched, nil
	}
	if err := c.Unmuted(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.MaxWait+fetchSilenceMax)
	defer cancel()
	kresp, err := c.DoVersion(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	c.Mute(time.Duration(resp.ThrottleMillis) * time.Millisecond)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
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
			offset, ok := asked[f.TopicPartition]
			if !ok {
				continue // not asked for; a broker would not do that
			}
			f.Asked = offset
			for _, a := range p.AbortedTransactions {
				f.Aborted = append(f.Aborted, AbortedTransaction{a.ProducerID, spillway.LocalOffset(a.FirstOffset)})
			}
			fetched = append(fetched, f)
		}
	}
	return fetched, nil
}
