package router

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// An answer in pieces is, byte for byte, what kmsg encodes as one, and the records in it
// are not copied.
func TestAnswersInPiecesAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	sizes := []int{-1, 0, 1, 126, 127, 128, 5000, pieceBytesMin - 1, pieceBytesMin, pieceBytesMin + 1, 2_100_000}
	apart := 0
	for version := fetchAPI.min; version <= fetchAPI.max; version++ {
		for range 60 {
			resp := kmsg.NewPtrFetchResponse()
			resp.Version, resp.ThrottleMillis, resp.SessionID = version, random.Int32(), random.Int32()
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
					if n := sizes[random.IntN(len(sizes))]; n >= 0 {
						part.RecordBatches = bytes.Repeat([]byte{byte(random.Int32())}, n)
					}
					topic.Partitions = append(topic.Partitions, part)
				}
				resp.Topics = append(resp.Topics, topic)
			}
			if version >= 16 && random.IntN(2) == 0 {
				resp.Brokers = []kmsg.FetchResponseBroker{{NodeID: 1, Host: "gateway", Port: 9092}}
			}
			want := resp.AppendTo(nil)
			var large []*byte
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					if len(p.RecordBatches) >= pieceBytesMin {
						large = append(large, &p.RecordBatches[0])
					}
				}
			}
			first, rest, size := pieces(resp)
			got := slices.Concat(append([][]byte{first}, rest...)...)
			if size != len(want) || !bytes.Equal(got, want) {
				t.Fatalf("version %d: %d bytes in %d pieces, said %d; in one %d", version, len(got), 1+len(rest), size, len(want))
			}
			for _, r := range large {
				apart++
				if !slices.ContainsFunc(rest, func(piece []byte) bool { return len(piece) > 0 && &piece[0] == r }) {
					t.Fatalf("version %d: records were copied", version)
				}
			}
		}
	}
	if apart < 100 {
		t.Errorf("only %d records were large", apart)
	}
}
