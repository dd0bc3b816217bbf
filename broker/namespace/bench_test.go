package namespace

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a namespace costs where records move, in the versions in which sites are asked.
func BenchmarkProduce(b *testing.B) {
	for name, version := range map[string]int16{"v11": 11} {
		b.Run(name, func(b *testing.B) {
			req := kmsg.NewPtrProduceRequest()
			req.Version = version
			part := kmsg.ProduceRequestTopicPartition{Records: make([]byte, 1<<20)}
			req.Topics = []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: []kmsg.ProduceRequestTopicPartition{part}}}
			body := [][]byte{req.AppendTo(nil)}
			b.SetBytes(int64(len(body[0])))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := payments.Request(req.Key(), version, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	for name, version := range map[string]int16{"v12": 12} {
		b.Run(name, func(b *testing.B) {
			resp := kmsg.NewPtrFetchResponse()
			resp.Version = version
			part := kmsg.FetchResponseTopicPartition{RecordBatches: make([]byte, 1<<20)}
			resp.Topics = []kmsg.FetchResponseTopic{{Topic: "payments.orders", Partitions: []kmsg.FetchResponseTopicPartition{part}}}
			body := resp.AppendTo(nil)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := payments.Response(resp.Key(), version, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
