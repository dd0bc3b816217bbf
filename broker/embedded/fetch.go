package embedded

import (
	"math"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerBytesMax bounds what the partitions of one answer may have together, where the
// client asked for less of the whole: it must fit into a frame.
const answerBytesMax = 64 << 20

// readCommitted is the isolation level of readers that skip aborted transactions.
const readCommitted = 1

// boundPartitions has kfake end answers where a partition has enough, and not where the
// whole answer has: there it leaves out the list of aborted transactions, and readers take
// what was aborted for committed. One partition has as much as its client asks for; of
// several each may have as much as was asked for of all.
func boundPartitions(server *kfake.Cluster) {
	server.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if fetch, ok := req.(*kmsg.FetchRequest); ok && fetch.IsolationLevel == readCommitted {
			bound(fetch)
		}
		// kfake keeps the last request of each connection with what looks at requests, also
		// of those that are closed: this is the last one that it is kept for.
		server.DropControl()
		boundPartitions(server)
		return nil, nil, false
	})
}

// bound moves the bound of the answer to its partitions. To do it again changes nothing:
// a fetch that waited comes here twice.
func bound(fetch *kmsg.FetchRequest) {
	partitions := 0
	for _, t := range fetch.Topics {
		partitions += len(t.Partitions)
	}
	each := fetch.MaxBytes
	if partitions > 0 {
		each = min(each, max(answerBytesMax/int32(partitions), 1))
	}
	for i := range fetch.Topics {
		for j := range fetch.Topics[i].Partitions {
			p := &fetch.Topics[i].Partitions[j]
			p.PartitionMaxBytes = min(p.PartitionMaxBytes, each)
		}
	}
	fetch.MaxBytes = math.MaxInt32
}
