//go:build e2e

package facts

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// A partition of 100 records under one leader epoch moves, with its clients, to
// a cluster that has the same records under a lower one, and 10 more
// (experiments J, L4).
const (
	movedAt    = 100
	movedEnd   = 110
	movedTopic = "moved"
	epochFirst = 2 // and 0 after the move
)

// epochServer is kfake with the answers replaced that tell leader epochs. While
// hidden it tells −1 everywhere and does not offer OffsetForLeaderEpoch.
type epochServer struct {
	address string
	host    string
	port    int32
	hidden  bool
	before  []byte // the first 100 records, under the first epoch
	after   []byte // the same, under epoch 0
	more    []byte

	mu struct {
		sync.Mutex
		moved bool
	}
}

func newEpochServer(t *testing.T, hidden bool) *epochServer {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.Fetch.Int16(), 12) // the last that names topics by name
	if hidden {
		versions.SetMaxKeyVersion(kmsg.Fetch.Int16(), 11)
		versions.SetMaxKeyVersion(kmsg.OffsetForLeaderEpoch.Int16(), -1)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(movedTopic), kfake.SeedTopics(1, movedTopic), kfake.MaxVersions(versions))
	must(t, err)
	t.Cleanup(cluster.Close)
	s := &epochServer{address: cluster.ListenAddrs()[0], hidden: hidden}
	host, port, err := net.SplitHostPort(s.address)
	must(t, err)
	number, err := strconv.Atoi(port)
	must(t, err)
	s.host, s.port = host, int32(number)
	first, second := int32(epochFirst), int32(0)
	if hidden {
		first, second = -1, -1
	}
	s.before, s.after, s.more = numbered(t, 0, movedAt, first), numbered(t, 0, movedAt, second), numbered(t, movedAt, movedEnd, second)

	control := func(key kmsg.Key, answer func(kmsg.Request) (kmsg.Response, error)) {
		cluster.ControlKey(key.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			response, err := answer(request)
			return response, err, true
		})
	}
	control(kmsg.Metadata, s.metadata)
	control(kmsg.OffsetForLeaderEpoch, s.offsetForLeaderEpoch)
	control(kmsg.ListOffsets, func(request kmsg.Request) (kmsg.Response, error) {
		return listEnd(request.(*kmsg.ListOffsetsRequest), s.end()), nil
	})
	cluster.ControlKey(kmsg.Fetch.Int16(), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer, idle, err := s.fetch(request.(*kmsg.FetchRequest))
		if idle {
			cluster.SleepControl(func() { time.Sleep(50 * time.Millisecond) })
		}
		if err != nil {
			return nil, err, true
		}
		return answer, nil, true
	})
	return s
}

// state is the leader epoch and the topic's id now.
func (s *epochServer) state() (moved bool, epoch int32, id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	epoch, id = epochFirst, [16]byte{1}
	if s.mu.moved {
		epoch = 0
		if !s.hidden { // a gateway keeps the topic's id
			id = [16]byte{2}
		}
	}
	if s.hidden {
		epoch = -1
	}
	return s.mu.moved, epoch, id
}

func (s *epochServer) end() int64 {
	if moved, _, _ := s.state(); moved {
		return movedEnd
	}
	return movedAt
}

func (s *epochServer) metadata(request kmsg.Request) (kmsg.Response, error) {
	_, epoch, id := s.state()
	answer := request.ResponseKind().(*kmsg.MetadataResponse)
	cluster := movedTopic // the same as kfake says in ApiVersions
	answer.ClusterID, answer.ControllerID = &cluster, 0
	broker := kmsg.NewMetadataResponseBroker()
	broker.NodeID, broker.Host, broker.Port = 0, s.host, s.port
	answer.Brokers = append(answer.Brokers, broker)
	partition := kmsg.NewMetadataResponseTopicPartition()
	partition.LeaderEpoch, partition.Replicas, partition.ISR = epoch, []int32{0}, []int32{0}
	topic := kmsg.NewMetadataResponseTopic()
	name := movedTopic
	topic.Topic, topic.TopicID = &name, id
	topic.Partitions = append(topic.Partitions, partition)
	answer.Topics = append(answer.Topics, topic)
	return answer, nil
}

// offsetForLeaderEpoch answers as a log that has only one epoch: its end for
// that one, nothing for a higher one.
func (s *epochServer) offsetForLeaderEpoch(request kmsg.Request) (kmsg.Response, error) {
	_, epoch, _ := s.state()
	asked := request.(*kmsg.OffsetForLeaderEpochRequest)
	answer := asked.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, t := range asked.Topics {
		topic := kmsg.NewOffsetForLeaderEpochResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			partition := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			partition.Partition, partition.LeaderEpoch, partition.EndOffset = p.Partition, -1, -1
			switch {
			case p.CurrentLeaderEpoch > epoch:
				partition.ErrorCode = kerr.UnknownLeaderEpoch.Code
			case p.LeaderEpoch == epoch:
				partition.LeaderEpoch, partition.EndOffset = epoch, s.end()
			}
			topic.Partitions = append(topic.Partitions, partition)
		}
		answer.Topics = append(answer.Topics, topic)
	}
	return answer, nil
}

// fetch moves the partition as soon as a client has read all of it, and ends
// that client's connection, as a switched proxy would.
func (s *epochServer) fetch(request *kmsg.FetchRequest) (answer *kmsg.FetchResponse, idle bool, err error) {
	answer, p, offset := fetchAnswer(request)
	if p == nil {
		return answer, true, nil
	}
	moved, epoch, _ := s.state()
	if !moved && offset >= movedAt {
		s.mu.Lock()
		s.mu.moved = true
		s.mu.Unlock()
		return nil, false, errors.New("the connection is cut at the move")
	}
	if request.Topics[0].Partitions[0].CurrentLeaderEpoch > epoch {
		p.ErrorCode = kerr.UnknownLeaderEpoch.Code
		return answer, true, nil
	}
	p.HighWatermark, p.LastStableOffset = s.end(), s.end()
	switch {
	case !moved:
		p.RecordBatches = slices.Clone(s.before)
	case offset < movedAt:
		p.RecordBatches = append(slices.Clone(s.after), s.more...)
	case offset < movedEnd:
		p.RecordBatches = slices.Clone(s.more)
	default:
		idle = true
	}
	return answer, idle, nil
}

// TestLeaderEpochs: why a gateway never shows a leader epoch that falls.
func TestLeaderEpochs(t *testing.T) {
	const goesOn = "goes on at 100"
	falls := map[string]string{
		"Java 3.9.2": "reads 0 to 99 again", "Java 4.3.1": "reads 0 to 99 again", "Java 4.4.0": "reads 0 to 99 again",
	}
	for name, read := range readers {
		if name == "kcat" {
			// kcat ends itself when its only connection is cut, whatever the epochs.
			continue
		}
		t.Run("falls/"+name, func(t *testing.T) {
			want := goesOn
			if other, ok := falls[name]; ok {
				want = other
			}
			readMoved(t, "the leader epoch falls from 2 to 0: a consumer", name, newEpochServer(t, false), read, want)
		})
		t.Run("hidden/"+name, func(t *testing.T) {
			readMoved(t, "leader epochs are hidden, the partition moves: a consumer", name, newEpochServer(t, true), read, goesOn)
		})
	}
}

func readMoved(t *testing.T, fact, name string, s *epochServer, read reader, want string) {
	offsets := readUntil(t, read, s.address, movedTopic, movedEnd-1)
	var all, again []int64
	for i := range int64(movedEnd) {
		all = append(all, i)
		if i < movedAt {
			again = append(again, i)
		}
	}
	got := fmt.Sprintf("reads %v", offsets)
	switch {
	case slices.Equal(offsets, all):
		got = "goes on at 100"
	case slices.Equal(offsets, append(again, all...)):
		got = "reads 0 to 99 again"
	}
	table.add(fact, name, got)
	if got != want {
		t.Errorf("%s %s: %s\nthe design was made for: %s", fact, name, got, want)
	}
}
