package router

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway/broker/wire"
)

// One target for the requests of each API, and one for the answers of a site to it.
// "go test" runs them on their seeds and on testdata/fuzz, "make fuzz" for ten
// minutes each.

func FuzzProduceRequest(f *testing.F)                 { fuzzRequest(f, 0) }
func FuzzProduceAnswer(f *testing.F)                  { fuzzAnswer(f, 0) }
func FuzzFetchRequest(f *testing.F)                   { fuzzRequest(f, 1) }
func FuzzFetchAnswer(f *testing.F)                    { fuzzAnswer(f, 1) }
func FuzzListOffsetsRequest(f *testing.F)             { fuzzRequest(f, 2) }
func FuzzListOffsetsAnswer(f *testing.F)              { fuzzAnswer(f, 2) }
func FuzzMetadataRequest(f *testing.F)                { fuzzRequest(f, 3) }
func FuzzOffsetCommitRequest(f *testing.F)            { fuzzRequest(f, 8) }
func FuzzOffsetCommitAnswer(f *testing.F)             { fuzzAnswer(f, 8) }
func FuzzOffsetFetchRequest(f *testing.F)             { fuzzRequest(f, 9) }
func FuzzOffsetFetchAnswer(f *testing.F)              { fuzzAnswer(f, 9) }
func FuzzFindCoordinatorRequest(f *testing.F)         { fuzzRequest(f, 10) }
func FuzzJoinGroupRequest(f *testing.F)               { fuzzRequest(f, 11) }
func FuzzJoinGroupAnswer(f *testing.F)                { fuzzAnswer(f, 11) }
func FuzzHeartbeatRequest(f *testing.F)               { fuzzRequest(f, 12) }
func FuzzHeartbeatAnswer(f *testing.F)                { fuzzAnswer(f, 12) }
func FuzzLeaveGroupRequest(f *testing.F)              { fuzzRequest(f, 13) }
func FuzzLeaveGroupAnswer(f *testing.F)               { fuzzAnswer(f, 13) }
func FuzzSyncGroupRequest(f *testing.F)               { fuzzRequest(f, 14) }
func FuzzSyncGroupAnswer(f *testing.F)                { fuzzAnswer(f, 14) }
func FuzzDescribeGroupsRequest(f *testing.F)          { fuzzRequest(f, 15) }
func FuzzDescribeGroupsAnswer(f *testing.F)           { fuzzAnswer(f, 15) }
func FuzzListGroupsRequest(f *testing.F)              { fuzzRequest(f, 16) }
func FuzzListGroupsAnswer(f *testing.F)               { fuzzAnswer(f, 16) }
func FuzzSASLHandshakeRequest(f *testing.F)           { fuzzRequest(f, 17) }
func FuzzAPIVersionsRequest(f *testing.F)             { fuzzRequest(f, 18) }
func FuzzCreateTopicsRequest(f *testing.F)            { fuzzRequest(f, 19) }
func FuzzInitProducerIDRequest(f *testing.F)          { fuzzRequest(f, 22) }
func FuzzInitProducerIDAnswer(f *testing.F)           { fuzzAnswer(f, 22) }
func FuzzOffsetForLeaderEpochRequest(f *testing.F)    { fuzzRequest(f, 23) }
func FuzzAddPartitionsToTxnRequest(f *testing.F)      { fuzzRequest(f, 24) }
func FuzzAddPartitionsToTxnAnswer(f *testing.F)       { fuzzAnswer(f, 24) }
func FuzzAddOffsetsToTxnRequest(f *testing.F)         { fuzzRequest(f, 25) }
func FuzzAddOffsetsToTxnAnswer(f *testing.F)          { fuzzAnswer(f, 25) }
func FuzzEndTxnRequest(f *testing.F)                  { fuzzRequest(f, 26) }
func FuzzEndTxnAnswer(f *testing.F)                   { fuzzAnswer(f, 26) }
func FuzzTxnOffsetCommitRequest(f *testing.F)         { fuzzRequest(f, 28) }
func FuzzTxnOffsetCommitAnswer(f *testing.F)          { fuzzAnswer(f, 28) }
func FuzzDescribeConfigsRequest(f *testing.F)         { fuzzRequest(f, 32) }
func FuzzDescribeConfigsAnswer(f *testing.F)          { fuzzAnswer(f, 32) }
func FuzzAlterConfigsRequest(f *testing.F)            { fuzzRequest(f, 33) }
func FuzzSASLAuthenticateRequest(f *testing.F)        { fuzzRequest(f, 36) }
func FuzzIncrementalAlterConfigsRequest(f *testing.F) { fuzzRequest(f, 44) }
func FuzzDescribeClusterRequest(f *testing.F)         { fuzzRequest(f, 60) }
func FuzzConsumerGroupHeartbeatRequest(f *testing.F)  { fuzzRequest(f, 68) }
func FuzzConsumerGroupHeartbeatAnswer(f *testing.F)   { fuzzAnswer(f, 68) }
func FuzzConsumerGroupDescribeRequest(f *testing.F)   { fuzzRequest(f, 69) }
func FuzzConsumerGroupDescribeAnswer(f *testing.F)    { fuzzAnswer(f, 69) }

func TestEveryAPIIsFuzzed(t *testing.T) {
	source, err := os.ReadFile("fuzz_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for key := range apis {
		if !bytes.Contains(source, fmt.Appendf(nil, "fuzzRequest(f, %d)", key)) {
			t.Errorf("the requests of API key %d have no target", key)
		}
		if !codecs[key].alone && !bytes.Contains(source, fmt.Appendf(nil, "fuzzAnswer(f, %d)", key)) {
			t.Errorf("the answers to API key %d have no target", key)
		}
	}
}

// fuzzRequest sends what a client may send: whatever it is, the site is asked
// well-formed questions alone, and an answer is well-formed.
func fuzzRequest(f *testing.F, key int16) {
	a := apis[key]
	random := rand.New(rand.NewPCG(uint64(key), 1))
	for version := a.min; version <= a.max; version++ {
		f.Add(uint8(version-a.min), randomRequest(random, translating(), key, version).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version uint8, body []byte) {
		v := a.min + int16(version)%(a.max-a.min+1)
		inFuzz(t, len(body), func(t *testing.T, w *codecWorld) {
			random := rand.New(rand.NewPCG(1, 1))
			w.site.answers(func(up kmsg.Request) kmsg.Response { return randomAnswer(random, w.site.mapping, up) })
			w.fuzzed(t, key, v, body)
		})
	})
}

// fuzzAnswer has a site say anything to a good request.
func fuzzAnswer(f *testing.F, key int16) {
	a := apis[key]
	random := rand.New(rand.NewPCG(uint64(key), 2))
	for version := a.min; version <= a.max; version++ {
		f.Add(uint8(version-a.min), siteAnswer(random, key, version).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version uint8, body []byte) {
		v := a.min + int16(version)%(a.max-a.min+1)
		random := rand.New(rand.NewPCG(uint64(v), 2))
		req := randomRequest(random, translating(), key, v)
		if fetch, ok := req.(*kmsg.FetchRequest); ok {
			fetch.MaxWaitMillis = 100
		}
		inFuzz(t, len(body), func(t *testing.T, w *codecWorld) {
			w.site.says(func(kmsg.Request) []byte { return body })
			w.fuzzed(t, key, v, req.AppendTo(nil))
		})
	})
}

// siteAnswer is a good one, in the version in which the gateway asks for a client's.
func siteAnswer(random *rand.Rand, key, version int16) kmsg.Response {
	up := randomRequest(random, translating(), key, version)
	if key == offsetFetchAPI.key {
		up = askedOffsetFetch(up)
		version = max(version, 8)
	}
	translating().translate(up, atSite)
	if highest, ok := upstreamMax[key]; ok {
		version = min(version, highest)
	}
	up.SetVersion(version)
	return randomAnswer(random, translating(), copyOf(up))
}

// upstreamMax are the versions beyond which sites are not asked.
var upstreamMax = map[int16]int16{0: produceUpstreamMax, 1: fetchUpstreamMax, 2: listOffsetsUpstreamMax, 8: offsetCommitUpstreamMax, 9: offsetFetchUpstreamMax}

func (w *codecWorld) fuzzed(t *testing.T, key, version int16, body []byte) {
	got, err := w.serve(t.Context(), key, version, body)
	if err != nil || got == nil {
		return // the connection ends, or there is no answer
	}
	if err := wire.CheckResponse(key, version, got); err != nil {
		t.Errorf("the answer is not well-formed: %v", err)
	}
}

// What serving one request may allocate beyond the world and its connections: some, and some
// for each byte that was sent, as often as it was sent. Two bytes may be an entry. A length that
// a peer has named and not sent would be above.
const (
	fuzzAllocationBase   = 1 << 20
	fuzzAllocationFactor = entryBytes / 2
)

// fuzzTriesMax is how often what is above the bound is run. Compressors are taken from pools, and
// a gzip writer alone is above where the pool has none: for the first request of a process, after
// collections, and now and then with the race detector, which drops what pools are given. A run
// leaves its compressors to the next one; what a length makes the gateway allocate, it allocates
// each time.
const fuzzTriesMax = 10

// inFuzz runs one input in a bubble, which also sees that nothing is left behind.
func inFuzz(t *testing.T, size int, run func(*testing.T, *codecWorld)) {
	if err := overspent(t, size, run); err != nil {
		t.Error(err)
	}
}

// overspent tells what an input of a size costs if that is above the bound.
func overspent(t *testing.T, size int, run func(*testing.T, *codecWorld)) (err error) {
	for range fuzzTriesMax {
		cost, dials, requests := allocates(t, run)
		bound := (1+dials)*fuzzWorldBytes(t) + fuzzAllocationBase + (1+requests)*fuzzAllocationFactor*int64(size)
		if cost <= bound {
			return nil
		}
		err = fmt.Errorf("%d bytes cost %d, with %d connections and %d requests to the site; at most %d are right", size, cost, dials, requests, bound)
	}
	return err
}

// allocates tells for how much a run allocates, with what it makes the site see.
func allocates(t *testing.T, run func(*testing.T, *codecWorld)) (bytes, dials, requests int64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer func() { dials, requests = w.site.dials.Load(), w.site.requests.Load() }()
		defer w.Close()
		run(t, w)
	})
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc), dials, requests
}

var fuzzWorld struct {
	sync.Once
	bytes int64
}

// fuzzWorldBytes is what a world with one connection to its site allocates.
func fuzzWorldBytes(t *testing.T) int64 {
	fuzzWorld.Do(func() {
		fuzzWorld.bytes, _, _ = allocates(t, func(t *testing.T, w *codecWorld) {
			w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
			w.fuzzed(t, listGroupsAPI.key, 0, nil)
		})
	})
	return fuzzWorld.bytes
}

// The bound sees what a named length would allocate, and not what is there for all.
func TestFuzzingSeesAllocations(t *testing.T) {
	kept := make([]byte, 0)
	for name, c := range map[string]struct {
		bytes func(run int) int
		above bool
	}{
		"a length that was not sent, each time": {func(int) int { return 8 * fuzzAllocationBase }, true},
		"a pool that is empty the first time":   {func(run int) int { return max(0, 2-run) * 8 * fuzzAllocationBase }, false},
		"less than the bound":                   {func(int) int { return fuzzAllocationBase / 2 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			runs := 0
			err := overspent(t, 0, func(t *testing.T, w *codecWorld) {
				runs++
				w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
				w.fuzzed(t, listGroupsAPI.key, 0, nil)
				kept = make([]byte, c.bytes(runs))
			})
			if (err != nil) != c.above {
				t.Errorf("%d bytes in the end, after %d runs: %v", len(kept), runs, err)
			}
		})
	}
}
