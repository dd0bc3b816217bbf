package embedded

import (
	"math"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestBound(t *testing.T) {
	for name, c := range map[string]struct {
		most  int32
		parts []int32
		want  []int32
	}{
		"one partition has what its client asks for": {1000, []int32{1 << 20}, []int32{1000}},
		"or what it asks for of each":                {1 << 20, []int32{1000}, []int32{1000}},
		"several may each have all":                  {1000, []int32{1 << 20, 500, 1 << 20}, []int32{1000, 500, 1000}},
		"which fits into a frame":                    {math.MaxInt32, []int32{1 << 30, 100 << 20}, []int32{answerBytesMax / 2, answerBytesMax / 2}},
		"a session that goes on":                     {1000, nil, nil},
	} {
		fetch := kmsg.NewPtrFetchRequest()
		fetch.MaxBytes = c.most
		fetch.Topics = []kmsg.FetchRequestTopic{kmsg.NewFetchRequestTopic()}
		for _, p := range c.parts {
			fetch.Topics[0].Partitions = append(fetch.Topics[0].Partitions, kmsg.FetchRequestTopicPartition{PartitionMaxBytes: p})
		}
		for range 2 {
			bound(fetch)
			var got []int32
			for _, p := range fetch.Topics[0].Partitions {
				got = append(got, p.PartitionMaxBytes)
			}
			if !slices.Equal(got, c.want) || fetch.MaxBytes != math.MaxInt32 {
				t.Errorf("%s: %d of each, %d of all; want %d", name, got, fetch.MaxBytes, c.want)
			}
		}
	}
}
