//go:build e2e

package facts

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway/broker/batch"
)

// A partition with the records 0 to 99, a hole from 100 to 149, and, once
// released, the records 150 to 159 (experiments L5).
const (
	holeStart = 100
	holeEnd   = 150
	holeLast  = 160
	holeTopic = "holes"
)

// holeServer is kfake with its Fetch answers replaced: it covers the hole with
// an empty batch, behind records if asked to, and always where a fetch begins
// inside the hole.
type holeServer struct {
	address string
	behind  bool
	front   []byte // the records before the hole
	rest    []byte // and those after it

	mu struct {
		sync.Mutex
		asked    []int64 // fetch offsets, repeats left out
		released bool
	}
}

func newHoleServer(t *testing.T, behind bool) *holeServer {
	// Fetch before version 12 is without leader epochs and without topic ids,
	// as a gateway shows itself.
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.Fetch.Int16(), 11)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, holeTopic), kfake.MaxVersions(versions))
	must(t, err)
	t.Cleanup(cluster.Close)
	h := &holeServer{address: cluster.ListenAddrs()[0], behind: behind}
	h.front = numbered(t, 0, holeStart, 0)
	h.rest = numbered(t, holeEnd, holeLast, 0)
	cluster.ControlKey(kmsg.Fetch.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer, idle := h.fetch(request.(*kmsg.FetchRequest))
		if idle {
			cluster.SleepControl(func() { time.Sleep(50 * time.Millisecond) }) // else clients would ask without end
		}
		return answer, nil, true
	})
	cluster.ControlKey(kmsg.ListOffsets.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return listEnd(request.(*kmsg.ListOffsetsRequest), h.end()), nil, true
	})
	return h
}

// numbered is one batch with the records from..to−1, each holding its offset.
func numbered(t *testing.T, from, to int64, epoch int32) []byte {
	var values []string
	for i := from; i < to; i++ {
		values = append(values, strconv.FormatInt(i, 10))
	}
	set := shape{id: -1, epoch: -1, sequence: -1, leader: epoch}.batch(t, values...)
	batch.SetBaseOffset(set, from)
	return set
}

func (h *holeServer) end() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.released {
		return holeLast
	}
	return holeEnd
}

func (h *holeServer) fetch(request *kmsg.FetchRequest) (answer *kmsg.FetchResponse, idle bool) {
	answer, p, offset := fetchAnswer(request)
	if p == nil {
		return answer, true
	}
	h.note(offset)
	end := h.end()
	p.HighWatermark, p.LastStableOffset = end, end
	switch {
	case offset < holeStart:
		p.RecordBatches = slices.Clone(h.front)
		if h.behind {
			p.RecordBatches = append(p.RecordBatches, batch.Empty(holeStart, holeEnd)...)
		}
	case offset < holeEnd:
		p.RecordBatches = batch.Empty(offset, holeEnd)
	case offset < end:
		p.RecordBatches = slices.Clone(h.rest)
	default:
		idle = true
	}
	return answer, idle
}

func (h *holeServer) note(offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.mu.asked); n == 0 || h.mu.asked[n-1] != offset {
		h.mu.asked = append(h.mu.asked, offset)
	}
	if offset >= holeEnd {
		h.mu.released = true // the client is over the hole
	}
}

// asked lists the fetch offsets up to the end of the hole.
func (h *holeServer) asked() []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.mu.asked)
}

// fetchAnswer makes an empty answer to a fetch of one partition, without a
// session; p is nil if no partition was asked for.
func fetchAnswer(request *kmsg.FetchRequest) (answer *kmsg.FetchResponse, p *kmsg.FetchResponseTopicPartition, offset int64) {
	answer = request.ResponseKind().(*kmsg.FetchResponse)
	if len(request.Topics) == 0 || len(request.Topics[0].Partitions) == 0 {
		return answer, nil, 0
	}
	asked := request.Topics[0]
	partition := kmsg.NewFetchResponseTopicPartition()
	partition.Partition, partition.LogStartOffset = asked.Partitions[0].Partition, 0
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic, topic.TopicID = asked.Topic, asked.TopicID
	topic.Partitions = append(topic.Partitions, partition)
	answer.Topics = append(answer.Topics, topic)
	return answer, &answer.Topics[0].Partitions[0], asked.Partitions[0].FetchOffset
}

// listEnd answers the earliest offset with 0 and everything else with end.
func listEnd(request *kmsg.ListOffsetsRequest, end int64) *kmsg.ListOffsetsResponse {
	answer := request.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, asked := range request.Topics {
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = asked.Topic
		for _, p := range asked.Partitions {
			partition := kmsg.NewListOffsetsResponseTopicPartition()
			partition.Partition, partition.Offset, partition.LeaderEpoch = p.Partition, end, -1
			if p.Timestamp == -2 {
				partition.Offset = 0
			}
			topic.Partitions = append(topic.Partitions, partition)
		}
		answer.Topics = append(answer.Topics, topic)
	}
	return answer
}

// TestHoles: an empty batch takes every client over a hole, each record is read
// once; one client needs the batch alone, at the fetch offset.
func TestHoles(t *testing.T) {
	behind := map[string]string{
		"sarama": "asks for 0 100 150, reads each record once", // it ignores an empty batch behind records
	}
	for name, read := range readers {
		t.Run("behind records/"+name, func(t *testing.T) {
			want := "asks for 0 150, reads each record once"
			if other, ok := behind[name]; ok {
				want = other
			}
			readOver(t, "an empty batch behind records: a client", name, newHoleServer(t, true), read, want)
		})
		t.Run("alone/"+name, func(t *testing.T) {
			readOver(t, "an empty batch alone: a client", name, newHoleServer(t, false), read, "asks for 0 100 150, reads each record once")
		})
	}
}

func readOver(t *testing.T, fact, name string, h *holeServer, read reader, want string) {
	offsets := readUntil(t, read, h.address, holeTopic, holeLast-1)
	var wanted []int64
	for i := range int64(holeLast) {
		if i < holeStart || i >= holeEnd {
			wanted = append(wanted, i)
		}
	}
	got := "asks for"
	for _, offset := range h.asked() {
		if offset <= holeEnd {
			got += " " + strconv.FormatInt(offset, 10)
		}
	}
	if slices.Equal(offsets, wanted) {
		got += ", reads each record once"
	} else {
		got += fmt.Sprintf(", reads %v", offsets)
	}
	table.add(fact, name, got)
	if got != want {
		t.Errorf("%s %s %s\nthe design was made for: %s", fact, name, got, want)
	}
}

// readUntil collects the offsets that a client sees up to the last one.
func readUntil(t *testing.T, read reader, address, topic string, last int64) (offsets []int64) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan int64, 10_000)
	finished := make(chan error, 1)
	go func() { finished <- read(ctx, t, address, topic, seen) }()
	for {
		select {
		case offset := <-seen:
			offsets = append(offsets, offset)
			if offset == last {
				cancel()
				t.Log("the client ended as asked:", <-finished)
				return offsets
			}
		case err := <-finished:
			t.Fatalf("the client ended after %d records: %v", len(offsets), err)
		case <-ctx.Done():
			t.Fatalf("after a minute the client has read %d records, the last %v", len(offsets), offsets[max(0, len(offsets)-1):])
		}
	}
}
