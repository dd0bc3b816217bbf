package wire_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
)

// someRecords are null, empty, or of a size at which something changes.
func someRecords(random *rand.Rand) []byte {
	sizes := []int{-1, 0, 1, 126, 127, 128, 5000, wire.PieceBytesMin - 1, wire.PieceBytesMin, wire.PieceBytesMin + 1, 200_000}
	n := sizes[random.IntN(len(sizes))]
	if n < 0 {
		return nil
	}
	return bytes.Repeat([]byte{byte(random.Int32())}, n)
}

// sameInPieces fails where pieces are not want, or a copy of records that are large. It
// returns how many are.
func sameInPieces(t *testing.T, version int16, pieces [][]byte, want []byte, records [][]byte) (large int) {
	t.Helper()
	if got := slices.Concat(pieces...); !bytes.Equal(got, want) {
		t.Fatalf("version %d: %d bytes in %d pieces; in one %d", version, len(got), len(pieces), len(want))
	}
	for _, r := range records {
		if len(r) < wire.PieceBytesMin {
			continue
		}
		large++
		if !slices.ContainsFunc(pieces, func(piece []byte) bool { return len(piece) > 0 && &piece[0] == &r[0] }) {
			t.Fatalf("version %d: records were copied", version)
		}
	}
	return large
}

// An answer in pieces is, byte for byte, what kmsg encodes as one, and the records in it
// are not copied.
func TestFetchPiecesAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	large := 0
	for version := int16(4); version <= 18; version++ {
		for range 60 {
			resp := kmsg.NewPtrFetchResponse()
			resp.Version, resp.ThrottleMillis, resp.SessionID = version, random.Int32(), random.Int32()
			var records [][]byte
			for i := range random.IntN(4) {
				topic := kmsg.NewFetchResponseTopic()
				topic.Topic, topic.TopicID[3] = []string{"orders", "", "carts", "inventory"}[i], byte(i)
				for p := range random.IntN(5) {
					part := kmsg.NewFetchResponseTopicPartition()
					part.Partition, part.HighWatermark, part.LastStableOffset = int32(p), random.Int64(), random.Int64()
					if random.IntN(2) == 0 {
						part.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: random.Int64(), FirstOffset: 7}}
					}
					if random.IntN(4) == 0 {
						part.DivergingEpoch.Epoch, part.DivergingEpoch.EndOffset = 3, random.Int64()
						part.CurrentLeader.LeaderID = 5
					}
					part.RecordBatches = someRecords(random)
					records = append(records, part.RecordBatches)
					topic.Partitions = append(topic.Partitions, part)
				}
				resp.Topics = append(resp.Topics, topic)
			}
			if version >= 16 && random.IntN(2) == 0 {
				resp.Brokers = []kmsg.FetchResponseBroker{{NodeID: 1, Host: "gateway", Port: 9092}}
			}
			want := resp.AppendTo(nil)
			large += sameInPieces(t, version, wire.FetchPieces(resp), want, records)
		}
	}
	if large < 100 {
		t.Errorf("only %d records were large", large)
	}
}

func TestProducePiecesAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	large := 0
	for version := int16(3); version <= 13; version++ {
		for range 60 {
			req := kmsg.NewPtrProduceRequest()
			req.Version, req.Acks, req.TimeoutMillis = version, -1, random.Int32()
			if random.IntN(2) == 0 {
				req.TransactionID = kmsg.StringPtr("shop-1")
			}
			var records [][]byte
			for i := range random.IntN(4) {
				topic := kmsg.NewProduceRequestTopic()
				topic.Topic, topic.TopicID[3] = []string{"orders", "", "carts", "inventory"}[i], byte(i)
				for p := range random.IntN(5) {
					part := kmsg.NewProduceRequestTopicPartition()
					part.Partition, part.Records = int32(p), someRecords(random)
					records = append(records, part.Records)
					topic.Partitions = append(topic.Partitions, part)
				}
				req.Topics = append(req.Topics, topic)
			}
			want := req.AppendTo(nil)
			large += sameInPieces(t, version, wire.ProducePieces(req), want, records)
		}
	}
	if large < 100 {
		t.Errorf("only %d records were large", large)
	}
}
