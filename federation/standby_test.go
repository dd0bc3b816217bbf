package federation_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/router"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

const (
	base = gatewaytest.OffsetBase
	// strange is how many records of others lie at the start of a standby's log, so that no
	// offset there is the one of the active site.
	strange = 7
)

// standbyWorld is a gateway at each of three sites. The test plays the mirror of west.
type standbyWorld struct {
	*gatewaytest.World
	t     *testing.T
	marks chan<- string
	saved int64 // the position of what west's map says last
	at    map[spillway.SiteID]*conn.Conn

	mu    sync.Mutex
	aged  map[spillway.SiteID]bool // gateways that know how old west is
	reads map[string]int           // answers with records to clients that stand at a site, by gateway and where they came from
}

// from is how many answers a gateway gave with what a site has.
func (w *standbyWorld) from(gateway, site spillway.SiteID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reads[string(gateway+" from "+site)]
}

var standbyOrders = spillway.TopicPartition{Topic: "orders"}

func startStandbys(t *testing.T, group func(*spillway.FailoverGroup), gateway func(*federation.Config)) *standbyWorld {
	t.Helper()
	return startStandbysOf(t, 1, group, gateway)
}

// startStandbysOf is startStandbys with a topic of so many partitions.
func startStandbysOf(t *testing.T, partitions int32, group func(*spillway.FailoverGroup), gateway func(*federation.Config)) *standbyWorld {
	t.Helper()
	sites := []spillway.SiteID{"east", "west", "north"}
	w := &standbyWorld{t: t, at: make(map[spillway.SiteID]*conn.Conn), reads: map[string]int{}, aged: map[spillway.SiteID]bool{}}
	w.World = gatewaytest.Start(t, gatewaytest.Options{
		Sites: sites, Topics: map[string]int32{"orders": partitions}, Gateways: []spillway.GatewayID{"east", "west", "north"},
		Group: func(g *spillway.FailoverGroup) {
			g.Reads, g.FreshnessMax = spillway.ReadsStandby, time.Hour
			if group != nil {
				group(g)
			}
		},
		Gateway: func(c *federation.Config) {
			c.Site = spillway.SiteID(c.ID)
			c.Events.Standby = func(_ spillway.ShareID, site spillway.SiteID, info federation.Standby) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.aged[c.Site] = w.aged[c.Site] || site == "west" && info.Age > 0
			}
			c.Events.Router.Read = func(_ spillway.ShareID, info router.ReadInfo) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.reads[string(c.Site+" from "+info.At)]++
				if info.Records == 0 || info.Bytes == 0 || info.Standby != (info.At == "west") || info.Local != (info.At == "west" && c.Site == "west") {
					t.Errorf("gateway at %s: %+v", c.Site, info)
				}
			}
			if gateway != nil {
				gateway(c)
			}
		},
	})
	for i, site := range sites {
		w.at[site] = raw(t, w.Addrs[i])
	}
	w.marks = markStream(t, w.World, "west")
	w.write("west", "strange", 0, strange)
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 1, Worker: "test", Opened: true, Epoch: 1, Local: strange, Virtual: base}))
	return w
}

// Save writes entries into a site's map; the marks of west speak of all of them.
func (w *standbyWorld) Save(site spillway.SiteID, entries ...maptopic.Entry) {
	w.t.Helper()
	if at := w.World.Save(site, entries...); site == "west" {
		w.saved = at
	}
}

// write appends records to a site's log behind the gateways' back, each a batch.
func (w *standbyWorld) write(site spillway.SiteID, kind string, from, n int) {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.DisableIdempotentWrite()}, w.Dial[site]...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		if err := cl.ProduceSync(within(w.t, soon), kgo.StringRecord(fmt.Sprintf("%s-%d", kind, from+i))).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// mirror copies what the test has written to east as records from..from+n-1, as a mirror
// does: the map first. It says nothing of it.
func (w *standbyWorld) mirror(from, n int) {
	w.t.Helper()
	w.mirrorAs("order", from, n)
}

func (w *standbyWorld) mirrorAs(kind string, from, n int) {
	w.t.Helper()
	w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: spillway.LocalOffset(strange + from),
		Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + spillway.Offset(from), Local: spillway.LocalOffset(strange + from), Length: int64(n)}}}))
	w.write("west", kind, from, n)
}

// mark has west say, in an append session, that it has all below an offset.
func (w *standbyWorld) mark(epoch, session, end int) { w.markBy(epoch, session, end, w.saved) }

// markBy is mark by what the map says at a position.
func (w *standbyWorld) markBy(epoch, session, end int, position int64) {
	w.marks <- fmt.Sprintf(`{"site":"west","topic":"orders","epoch":%d,"session":%d,"end":%d,"compared":true,"map":%d}`, epoch, session, base+end, position)
}

// fetch asks the gateway at a site for a client that stands at another.
func (w *standbyWorld) fetch(at spillway.SiteID, rack string, from int, wait time.Duration) kmsg.FetchResponseTopicPartition {
	w.t.Helper()
	req := fetchRequest(int64(base+from), wait)
	req.Rack = rack
	p := do[*kmsg.FetchResponse](w.t, w.at[at], req).Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		w.t.Fatalf("fetch at %s of a client at %q from %d: error %d", at, rack, from, p.ErrorCode)
	}
	return p
}

// got are the values of an answer's records, by offset.
func got(t *testing.T, p kmsg.FetchResponseTopicPartition) map[int]string {
	t.Helper()
	values := map[int]string{}
	for b := batch.Over(p.RecordBatches); b.Next(); {
		records, err := batch.Records(b.Bytes, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			values[int(b.Header.BaseOffset)+int(r.OffsetDelta)-base] = string(r.Value)
		}
	}
	return values
}

// want demands records from..to-1 and no other.
func (w *standbyWorld) want(what string, p kmsg.FetchResponseTopicPartition, kind string, from, to int) {
	w.t.Helper()
	values := got(w.t, p)
	for i := from; i < to; i++ {
		if values[i] != fmt.Sprintf("%s-%d", kind, i) {
			w.t.Errorf("%s: offset %d has %q", what, i, values[i])
		}
	}
	if len(values) != to-from {
		w.t.Errorf("%s: %v, want records %d to %d", what, values, from, to-1)
	}
}

// read fetches until there are records.
func (w *standbyWorld) read(at spillway.SiteID, rack string, from int) (p kmsg.FetchResponseTopicPartition) {
	w.t.Helper()
	gatewaytest.Eventually(w.t, "records come", func() bool {
		p = w.fetch(at, rack, from, 100*time.Millisecond)
		return len(p.RecordBatches) > 0
	})
	return p
}

// locally waits until a client at west reads there, which is when the gateway knows how old it is.
func (w *standbyWorld) locally() {
	w.t.Helper()
	gatewaytest.Eventually(w.t, "a client at west is sent there", func() bool {
		w.at["east"] = raw(w.t, w.Addrs[0])
		return w.fetch("east", "west", 0, 0).PreferredReadReplica >= 0
	})
	w.locallyFrom(0)
	gatewaytest.Eventually(w.t, "the gateway at the standby knows how old it is", func() bool {
		w.fetch("west", "west", 0, 0)
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.aged["west"]
	})
}

// locallyFrom is half of it, of a standby that has nothing below an offset.
func (w *standbyWorld) locallyFrom(from int) {
	w.t.Helper()
	gatewaytest.Eventually(w.t, "the gateway at the standby reads there", func() bool {
		before := w.from("west", "west")
		w.fetch("west", "west", from, 100*time.Millisecond)
		return w.from("west", "west") > before
	})
}

// follows has west mirror the first n records, says so, and waits until it is read.
func (w *standbyWorld) follows(n int) {
	w.t.Helper()
	w.write("east", "order", 0, n)
	w.mirror(0, n)
	w.mark(1, 1, n)
	w.locally()
}

// A standby hands out what its durable mark covers, at the offsets of the active site, and
// nothing beyond, though the records lie there (rule A). A reader at its end waits there.
func TestAStandbyHandsOutWhatItsMarkCovers(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.write("east", "order", 6, 4)
	w.mirror(6, 4)
	// The map is told that they are there, and not that all in-sync replicas have them.
	w.Save("west", maptopic.VerifiedEntry(standbyOrders, offsetmap.Verified{Session: 1, Local: strange + 10, Virtual: base + 10}))
	asked := w.from("west", "east")
	p := w.read("west", "west", 0)
	w.want("a reader at the standby", p, "order", 0, 6)
	if p.HighWatermark != base+6 || p.LastStableOffset != base+6 {
		t.Errorf("high watermark %d, last stable offset %d", p.HighWatermark, p.LastStableOffset)
	}
	w.want("at its end", w.fetch("west", "west", 6, 300*time.Millisecond), "order", 6, 6)
	w.want("beyond its end", w.fetch("west", "west", 9, 300*time.Millisecond), "order", 9, 9)
	waiting := fetchRequest(base+6, 30*time.Second)
	waiting.Rack = "west"
	answer := begun(t, w.at["west"], waiting)
	w.mark(1, 1, 10)
	w.want("when the mark has risen", answer().(*kmsg.FetchResponse).Topics[0].Partitions[0], "order", 6, 10)
	if now := w.from("west", "east"); now != asked {
		t.Errorf("the active site was asked for records %d times", now-asked)
	}
	w.want("a reader at the active site", w.read("east", "", 0), "order", 0, 10)
}

// What gateways at the active site may not hand out, as it is not reserved or not at as
// many sites as acknowledgements wait for, a standby does not either (rule B).
func TestAStandbyHandsOutNoMoreThanTheActiveSite(t *testing.T) {
	t.Parallel()
	t.Run("not reserved", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, func(g *spillway.FailoverGroup) { g.ReservedBlock = 10 }, nil)
		w.follows(2)
		w.read("west", "west", 0)
		w.Store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
			if when == coordtest.BeforeWrite && ops[0].Key == w.Keys.Reserved(gatewaytest.ShareID) {
				return errors.New("no raise today")
			}
			return nil
		})
		reserved := w.reserved()
		w.write("east", "order", 2, reserved+5)
		w.mirror(2, reserved+5)
		w.mark(1, 1, reserved+7)
		gatewaytest.Eventually(t, "all that is reserved comes", func() bool {
			values := got(t, w.fetch("west", "west", 0, 50*time.Millisecond))
			for at := range values {
				if at >= reserved {
					t.Fatalf("offset %d was handed out, reserved is %d", at, reserved)
				}
			}
			return len(values) == reserved
		})
		w.want("beyond", w.fetch("west", "west", reserved, 200*time.Millisecond), "order", reserved, reserved)
	})
	t.Run("not at three sites", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, func(g *spillway.FailoverGroup) { g.Ack.Sites = 3 }, nil)
		north := markStream(t, w.World, "north")
		north <- markLine("north", 0, 1, base+2)
		w.follows(6)
		w.want("at three sites", w.read("west", "west", 0), "order", 0, 2)
		north <- markLine("north", 0, 1, base+5)
		w.want("at three sites", w.read("west", "west", 2), "order", 2, 5)
	})
}

func (w *standbyWorld) reserved() int {
	w.t.Helper()
	e, err := w.Store.Get(w.t.Context(), w.Keys.Reserved(gatewaytest.ShareID))
	if err != nil {
		w.t.Fatal(err)
	}
	var reserved failover.Reserved
	if err := json.Unmarshal(e.Value, &reserved); err != nil {
		w.t.Fatal(err)
	}
	return int(reserved.Ends.Get(standbyOrders)) - base
}

// A failover gives up what one standby has, and another has not. Its readers get what the
// new active site wrote under these offsets, and while the share moves nothing (rule A).
func TestAStandbyIsNotReadInTheNextEpochBeforeItFollows(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(15)
	w.want("before", w.read("west", "west", 0), "order", 0, 15)
	w.Fence("north", failover.Failover)
	w.want("while it moves", w.fetch("west", "west", 0, 200*time.Millisecond), "order", 0, 0)
	w.Open(5, 0)
	w.write("north", "other", 10, 5)
	gatewaytest.Eventually(t, "what the new site wrote comes", func() bool {
		values := got(t, w.fetch("west", "west", 8, 100*time.Millisecond))
		for at, value := range values {
			if want := fmt.Sprintf("%s-%d", map[bool]string{true: "order", false: "other"}[at < 10], at); value != want {
				t.Fatalf("offset %d has %q, want %q", at, value, want)
			}
		}
		return len(values) == 7
	})
}

// A mark is worth nothing where the map was not read up to its append session: what lies
// where may have changed since.
func TestAStandbyIsReadByTheMapOfItsMark(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, func(g *spillway.FailoverGroup) { g.Ack.Sites = 2 }, nil)
	w.write("east", "order", 0, strange)
	w.write("west", "order", 0, strange)
	// A session before took strange records for these; the one that marks knows better.
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 2, Worker: "test", Opened: true, Epoch: 1, Virtual: base}),
		maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 2, Worker: "test", Verified: true, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base, Length: strange}}}))
	w.mark(1, 3, strange)
	w.read("west", "", 0) // the gateway has the mark: nothing else makes records visible
	// Who has claimed the session has not looked yet what is there.
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 3, Worker: "test", Epoch: 1, Virtual: -1}))
	for range 3 {
		w.want("before the map is read", w.read("west", "west", 0), "order", 0, strange)
	}
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 3, Worker: "test", Opened: true, Epoch: 1, Virtual: base}),
		maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 3, Worker: "test", First: strange, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base, Local: strange, Length: strange}}}))
	w.locally()
	asked := w.from("west", "east")
	w.want("by the new map", w.read("west", "west", 0), "order", 0, strange)
	if now := w.from("west", "east"); now != asked {
		t.Error("the active site was asked")
	}
}

// A standby that does not rise any more while the active site does is left at its end, and
// nobody is sent there; what is there is read there still. Once it has risen again, and stayed
// near for a while, consumers are sent there as before (rules D and E).
func TestAStandbyThatStandsStillIsLeft(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, func(g *spillway.FailoverGroup) { g.FreshnessMax = 3 * time.Second }, nil)
	w.follows(6)
	ask := kmsg.NewPtrMetadataRequest()
	ask.Version = 9
	md := do[*kmsg.MetadataResponse](t, w.at["north"], ask)
	racks := map[int32]string{}
	for _, b := range md.Brokers {
		racks[b.NodeID] = *b.Rack
	}
	p := md.Topics[0].Partitions[0]
	var at []string
	for _, id := range p.Replicas {
		at = append(at, racks[id])
	}
	if racks[p.Leader] != "east" || !slices.Equal(at, []string{"east", "west", "north"}) || !slices.Equal(p.ISR, p.Replicas) {
		t.Errorf("led at %s, replicas at %s", racks[p.Leader], at)
	}
	sent := func(site spillway.SiteID, gateway, from int) string {
		t.Helper()
		w.at[site] = raw(t, w.Addrs[gateway])
		return racks[w.fetch(site, "west", from, 0).PreferredReadReplica]
	}
	if to := sent("east", 0, 0); to != "west" {
		t.Fatalf("a consumer at west is sent to %q", to)
	}
	if p := w.fetch("east", "west", 0, time.Second); p.PreferredReadReplica >= 0 {
		t.Error("it came back at once, and is sent there again")
	} else {
		w.want("a consumer that came back", p, "order", 0, 6)
	}
	w.write("east", "order", 6, 4) // and the mirror stands still
	gatewaytest.Eventually(t, "a consumer at the standby's end is sent back", func() bool { return sent("west", 1, 6) == "east" })
	w.want("it is served where it is otherwise", w.read("west", "west", 6), "order", 6, 10)
	gatewaytest.Eventually(t, "nobody is sent there", func() bool { return sent("east", 0, 0) == "" })
	before := w.from("west", "west")
	w.want("what is there", w.read("west", "west", 0), "order", 0, 6)
	if w.from("west", "west") == before {
		t.Error("it was not read there")
	}
	w.mirror(6, 4)
	w.mark(1, 1, 10)
	risen := time.Now()
	gatewaytest.Eventually(t, "consumers are sent there again", func() bool { return sent("east", 0, 0) == "west" })
	if after := time.Since(risen); after < 2*time.Second {
		t.Errorf("that was after %s", after)
	}
}

// What a standby does not have, or cannot give, is asked of the active site (rule C).
func TestWhatAStandbyDoesNotHaveIsAskedOfTheActiveSite(t *testing.T) {
	t.Parallel()
	begins := func(t *testing.T, entries ...maptopic.Entry) *standbyWorld {
		w := startStandbys(t, nil, nil)
		w.write("east", "order", 0, 10)
		w.Save("west", append([]maptopic.Entry{maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 2, Worker: "test", Opened: true, Epoch: 1, Local: strange, Virtual: base})}, entries...)...)
		w.write("west", "order", 5, 5)
		w.mark(1, 2, 10)
		w.locallyFrom(7)
		return w
	}
	tail := offsetmap.Range{Epoch: 1, Virtual: base + 5, Local: strange, Length: 5}
	t.Run("its map begins later", func(t *testing.T) {
		t.Parallel()
		w := begins(t, maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 2, Worker: "test", First: strange, Ranges: []offsetmap.Range{tail}}))
		w.want("from the start", w.read("west", "west", 0), "order", 0, 10)
	})
	left := func(t *testing.T, kind string) {
		t.Parallel()
		w := begins(t, maptopic.GapEntry(maptopic.Gap{ID: "left-out", Kind: kind, Topic: "orders", From: base + 3, To: base + 5}),
			maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 2, Worker: "test", First: strange - 3, Verified: true,
				Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base, Local: strange - 3, Length: 3}, tail}}))
		w.want("before the gap", w.read("west", "west", 0), "order", 0, 10)
		w.want("in the gap", w.read("west", "west", 3), "order", 3, 10)
	}
	t.Run("records were left out", func(t *testing.T) { left(t, maptopic.GapMissing) })
	t.Run("records were deleted before they were mirrored", func(t *testing.T) { left(t, maptopic.GapRetention) })
	t.Run("a record that cannot be read there", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		w.write("east", "order", 6, 1)
		// Of a batch of two records the map knows the first: it has to be decoded, and cannot be.
		w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
			Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 6, Length: 1}}}),
			maptopic.VerifiedEntry(standbyOrders, offsetmap.Verified{Session: 1, Local: strange + 8, Virtual: base + 7}))
		req := produceRequest("orders", nil)
		b := req.Topics[0].Partitions[0].Records
		for i := len(b) - 8; i < len(b); i++ {
			b[i] = 0xff
		}
		batch.Clean(b, -1, -1, -1) // with its sum
		binary.BigEndian.PutUint32(b[17:], batch.CRC(b))
		req.Version = 9
		if resp := do[*kmsg.ProduceResponse](t, raw(t, w.Embedded["west"].Addresses()[0]), req); resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		w.mark(1, 1, 7)
		w.want("at the active site", w.read("west", "west", 6), "order", 6, 7)
	})
	t.Run("its brokers are away", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		w.Wires["west"].Cut(true)
		w.want("at the active site", w.read("west", "west", 0), "order", 0, 6)
	})
	t.Run("its log begins later", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		w.deleteBelow("west", strange+3)
		w.want("from the start", w.read("west", "west", 0), "order", 0, 6)
	})
	t.Run("an offset that is nowhere", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		ask := func(at spillway.SiteID) (code int16, preferred int32) {
			req := fetchRequest(base+100, 100*time.Millisecond)
			req.Rack = "west"
			p := do[*kmsg.FetchResponse](t, w.at[at], req).Topics[0].Partitions[0]
			return p.ErrorCode, p.PreferredReadReplica
		}
		var preferred int32
		gatewaytest.Eventually(t, "the client is told to ask the leader", func() bool {
			var code int16
			if code, preferred = ask("west"); code != 0 {
				t.Fatalf("the standby says %v", kerr.ErrorForCode(code))
			}
			return preferred >= 0
		})
		md := kmsg.NewPtrMetadataRequest()
		md.Version = 9
		if leads := do[*kmsg.MetadataResponse](t, w.at["north"], md).Topics[0].Partitions[0].Leader; preferred != leads {
			t.Errorf("it is told to ask node %d, and %d leads", preferred, leads)
		}
		for range 2 { // and again, if it comes back all the same: franz-go believes nobody else
			if code, to := ask("east"); code != kerr.OffsetOutOfRange.Code || to >= 0 {
				t.Errorf("the leader says %v, node %d", kerr.ErrorForCode(code), to)
			}
			if code, to := ask("west"); code != 0 || to != preferred {
				t.Errorf("the standby says %v, node %d", kerr.ErrorForCode(code), to)
			}
		}
	})
}

// franz-go stays at a standby that says that an offset does not exist, and asks it without
// end (rule G). Here one reads on whose records were deleted while it did not poll, and one
// that begins beyond the end.
func TestALibraryLeavesAStandbyThatLacksItsOffset(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	reader := func(from int64) *kgo.Client {
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.Addrs...), kgo.Rack("west"), kgo.FetchMaxWait(200*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().At(from)}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	until := func(cl *kgo.Client, end int) (last int) {
		t.Helper()
		for last = -1; last < end-1; {
			got := cl.PollFetches(within(t, soon))
			if err := got.Err0(); err != nil {
				t.Fatalf("after offset %d: %v", last, err)
			}
			got.EachRecord(func(r *kgo.Record) {
				if last = int(r.Offset) - base; string(r.Value) != fmt.Sprintf("order-%d", last) {
					t.Fatalf("offset %d has %q", last, r.Value)
				}
			})
		}
		return last
	}
	paused := reader(base)
	before := w.from("west", "west")
	until(paused, 6)
	if w.from("west", "west") == before {
		t.Fatal("it does not read at the standby")
	}
	paused.PauseFetchTopics("orders")
	time.Sleep(300 * time.Millisecond) // what is on its way
	w.write("east", "order", 6, 6)
	w.mirror(6, 6)
	w.mark(1, 1, 12)
	w.deleteBelow("east", 9)
	w.deleteBelow("west", strange+9)
	time.Sleep(6 * time.Second) // the leader may send it near again
	paused.ResumeFetchTopics("orders")
	until(paused, 12)
	until(reader(base+1000), 12)
}

func (w *standbyWorld) deleteBelow(site spillway.SiteID, offset int64) {
	w.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	topic, p := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
	topic.Topic, p.Offset = "orders", offset
	topic.Partitions, req.TimeoutMillis = append(topic.Partitions, p), 10_000
	req.Topics = append(req.Topics, topic)
	cl, err := kgo.NewClient(w.Dial[site]...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	if _, err := req.RequestWith(within(w.t, soon), cl); err != nil {
		w.t.Fatal(err)
	}
}

// A standby may be called fresh by its marks, and not have what they say, or not show it:
// nobody waits there for that (rule H).
func TestNobodyWaitsForWhatAStandbyHasLost(t *testing.T) {
	t.Parallel()
	t.Run("a replica that lacked it leads there", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		w.write("east", "order", 6, 4)
		w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
			Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 6, Length: 4}}}))
		w.write("west", "order", 6, 2)
		w.mark(1, 1, 10)
		w.want("what is there", w.readAll("west", 6, 2), "order", 6, 8)
		w.want("what was lost", w.readAll("west", 8, 2), "order", 8, 10)
		w.write("east", "order", 10, 1)
		w.want("the next", w.readAll("west", 10, 1), "order", 10, 11)
	})
	t.Run("a transaction is open that is none of the mirror's", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, nil, nil)
		w.follows(6)
		w.leavesOpen("west", "open")
		w.write("east", "order", 6, 4)
		w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 7,
			Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 7, Length: 4}}}))
		w.write("west", "order", 6, 4)
		w.mark(1, 1, 10)
		gatewaytest.Eventually(t, "the mark is there", func() bool { return len(got(t, w.fetch("west", "west", 0, 100*time.Millisecond))) == 10 })
		asked := w.from("west", "east")
		req := fetchRequest(base+6, 200*time.Millisecond)
		req.Rack, req.IsolationLevel = "west", 1
		var p kmsg.FetchResponseTopicPartition
		gatewaytest.Eventually(t, "records come", func() bool {
			p = do[*kmsg.FetchResponse](t, w.at["west"], req).Topics[0].Partitions[0]
			return len(p.RecordBatches) > 0
		})
		w.want("a reader of what is committed", p, "order", 6, 10)
		if w.from("west", "east") == asked {
			t.Error("the standby showed what lies behind an open transaction")
		}
	})
	t.Run("its map hangs", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, func(g *spillway.FailoverGroup) { g.FreshnessMax = 3 * time.Second }, nil)
		w.follows(6)
		w.write("east", "order", 6, 4)
		w.write("west", "order", 6, 4)
		w.markBy(1, 1, 10, 1_000_000)
		gatewaytest.Eventually(t, "a reader at the end of what is known is sent back", func() bool {
			w.at["west"] = raw(t, w.Addrs[1])
			return w.fetch("west", "west", 6, 100*time.Millisecond).PreferredReadReplica >= 0
		})
	})
}

// leavesOpen writes a record at a site in a transaction that stays open.
func (w *standbyWorld) leavesOpen(site spillway.SiteID, value string) {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.TransactionalID("somebody"), kgo.DefaultProduceTopic("orders")}, w.Dial[site]...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	if err := cl.ProduceSync(within(w.t, soon), kgo.StringRecord(value)).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// readAll fetches until n records came in one answer.
func (w *standbyWorld) readAll(at spillway.SiteID, from, n int) (p kmsg.FetchResponseTopicPartition) {
	w.t.Helper()
	gatewaytest.Eventually(w.t, fmt.Sprintf("%d records come from %d on", n, from), func() bool {
		p = w.fetch(at, "west", from, 200*time.Millisecond)
		return len(got(w.t, p)) == n
	})
	return p
}

// The active site has lost records that the standby has, whose mirror does not look: others
// may stand under their offsets by now, so nothing is read at the standby until its mirror has
// compared the two (freshness, D).
func TestAStandbyIsNotReadOnceTheActiveSiteHasLostRecords(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
		Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 6, Length: 2}}}))
	w.write("west", "lost", 6, 2)
	w.mark(1, 1, 8)
	gatewaytest.Eventually(t, "the gateway has asked how far the active site is", func() bool {
		before := w.from("west", "west")
		return len(w.fetch("west", "west", 0, 100*time.Millisecond).RecordBatches) > 0 && w.from("west", "west") == before
	})
	gatewaytest.Eventually(t, "so has the leader", func() bool {
		w.at["east"] = raw(t, w.Addrs[0])
		return w.fetch("east", "west", 0, 0).PreferredReadReplica < 0
	})
	w.write("east", "order", 6, 4)
	time.Sleep(2500 * time.Millisecond) // it has asked again, and the active site has more than the mark says
	before := w.from("west", "west")
	w.want("a reader at the standby's site", w.readAll("west", 0, 10), "order", 0, 10)
	w.at["east"] = raw(t, w.Addrs[0])
	if p := w.fetch("east", "west", 0, time.Second); p.PreferredReadReplica >= 0 {
		t.Error("a consumer is sent there")
	}
	// It is not forgotten with what was measured, nor for a mark that goes on, nor for a newer
	// session in which nothing was compared yet.
	still := func() {
		t.Helper()
		for range 10 {
			w.want("a reader at the standby's site", w.read("west", "west", 0), "order", 0, 10)
			time.Sleep(200 * time.Millisecond)
		}
		if now := w.from("west", "west"); now != before {
			t.Errorf("the standby was read %d times", now-before)
		}
	}
	w.Gateways["west"].ForgetStandbys()
	w.mark(1, 1, 9)
	time.Sleep(500 * time.Millisecond) // it has come before anybody reads
	still()
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 2, Worker: "test", Opened: true, Epoch: 1, Local: strange + 8, Virtual: base + 8}))
	w.marks <- fmt.Sprintf(`{"site":"west","topic":"orders","epoch":1,"session":2,"end":%d,"map":%d}`, base+8, w.saved)
	still()
	w.Save("west", maptopic.SessionEntry(standbyOrders, offsetmap.Session{Session: 3, Worker: "test", Opened: true, Epoch: 1, Local: strange + 8, Virtual: base + 6}),
		maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 3, Worker: "test", First: strange + 8, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 8, Length: 4}}}))
	w.write("west", "order", 6, 4)
	w.mark(1, 3, 10)
	w.locallyFrom(0)
	w.want("in the next session", w.readAll("west", 0, 10), "order", 0, 10)
}

// standIn is a cluster of which a test sees how often somebody asks for records, and says who
// answers.
type standIn struct {
	broker.Cluster
	led, relearnt *atomic.Int64
	fails         *atomic.Bool
}

func (c standIn) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if slices.Equal(topics, []string{"orders"}) {
		c.relearnt.Add(1)
	}
	return c.Cluster.Metadata(ctx, topics...)
}

func (c standIn) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	c.led.Add(1)
	return c.Cluster.Leader(ctx, tp)
}

func (c standIn) Admin() broker.Admin { return standInAdmin{c.Cluster.Admin(), c.fails} }

type standInAdmin struct {
	broker.Admin
	fails *atomic.Bool
}

// LogBounds finds nothing for partition 1, and fails, while that is to be.
func (a standInAdmin) LogBounds(ctx context.Context, tps []spillway.TopicPartition) (starts, ends map[spillway.TopicPartition]spillway.LocalOffset, err error) {
	starts, ends, err = a.Admin.LogBounds(ctx, tps)
	if bad := (spillway.TopicPartition{Topic: "orders", Partition: 1}); a.fails.Load() && slices.Contains(tps, bad) {
		delete(ends, bad)
		return starts, ends, errors.New("partition 1 cannot answer")
	}
	return starts, ends, err
}

// A reader at the end of what the standby's map tells waits for the map, and asks nobody
// again and again for what has come already.
func TestAReaderAtTheEndAsksOnce(t *testing.T) {
	t.Parallel()
	var led atomic.Int64
	w := startStandbys(t, nil, func(c *federation.Config) {
		if c.Site == "west" {
			c.Sites = maps.Clone(c.Sites)
			c.Sites["west"] = standIn{c.Sites["west"], &led, new(atomic.Int64), new(atomic.Bool)}
		}
	})
	w.follows(6)
	w.write("east", "order", 6, 4)
	w.write("west", "order", 6, 4)
	w.markBy(1, 1, 10, w.saved+1) // the chunk is on its way
	w.want("what is known", w.fetch("west", "west", 0, 200*time.Millisecond), "order", 0, 6)
	before := led.Load()
	req := fetchRequest(base+6, 10*time.Second)
	req.Rack = "west"
	answer := begun(t, w.at["west"], req)
	time.Sleep(2 * time.Second)
	if asked := led.Load() - before; asked > 10 {
		t.Errorf("the standby was asked %d times in two seconds", asked)
	}
	w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
		Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 6, Length: 4}}}))
	w.want("once the map tells", answer().(*kmsg.FetchResponse).Topics[0].Partitions[0], "order", 6, 10)
}

// A consumer that does not stand at the gateway's site, or does not say so, and one of a
// group whose standbys are not read, are served as ever.
func TestWhoDoesNotStandThereDoesNotReadThere(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]func(*spillway.FailoverGroup){
		"reads active": func(g *spillway.FailoverGroup) { g.Reads = spillway.ReadsActive },
		"elsewhere":    func(g *spillway.FailoverGroup) { g.Sites = []spillway.SiteID{"east", "north"} },
		"":             nil,
	} {
		w := startStandbys(t, group, nil)
		w.write("east", "order", 0, 6)
		w.mirrorAs("copy", 0, 6) // told apart by what no mirror would change
		w.mark(1, 1, 6)
		racks := []string{"west"}
		if group == nil {
			w.locally()
			racks = []string{"", "rack-7"}
		}
		for i := range 10 { // also once the mark has come, and the standby is known to be fresh
			rack := racks[i%len(racks)]
			time.Sleep(100 * time.Millisecond)
			w.want("at west", w.read("west", rack, 0), "order", 0, 6)
			if p := w.fetch("east", rack, 0, time.Second); p.PreferredReadReplica >= 0 || len(p.RecordBatches) == 0 {
				t.Errorf("%s: a client at %q is sent to node %d", name, rack, p.PreferredReadReplica)
			}
		}
	}
}

// A gateway without a lease hands out nothing of a standby: others may have counted on its
// end, and given up what it would (promise A).
func TestAStandbyIsNotReadWithoutALease(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, func(c *federation.Config) { c.LeaseTTL = time.Second })
	w.follows(6)
	w.want("with a lease", w.read("west", "west", 0), "order", 0, 6)
	w.Store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeWrite && ops[0].Key == w.Keys.Gateway("west") {
			return errors.New("it does not reach the store")
		}
		return nil
	})
	time.Sleep(1500 * time.Millisecond) // its own clock counts, and the test has no other
	w.want("without one", w.fetch("west", "west", 0, 200*time.Millisecond), "order", 0, 0)
}

// What cannot say how far it is, a partition or a broker, makes nothing else old beside it.
func TestOneThatDoesNotAnswerMakesNoOtherOld(t *testing.T) {
	t.Parallel()
	fails, relearnt := new(atomic.Bool), new(atomic.Int64)
	var mu sync.Mutex
	var stale []federation.Standby
	w := startStandbysOf(t, 2, func(g *spillway.FailoverGroup) { g.FreshnessMax = 4 * time.Second }, func(c *federation.Config) {
		if c.Site == "west" {
			c.Sites = maps.Clone(c.Sites)
			c.Sites["east"] = standIn{c.Sites["east"], new(atomic.Int64), relearnt, fails}
			told := c.Events.Standby
			c.Events.Standby = func(share spillway.ShareID, site spillway.SiteID, info federation.Standby) {
				told(share, site, info)
				mu.Lock()
				defer mu.Unlock()
				stale = append(stale, info)
			}
		}
	})
	w.follows(6)
	second := spillway.TopicPartition{Topic: "orders", Partition: 1}
	w.Save("west", maptopic.SessionEntry(second, offsetmap.Session{Session: 1, Worker: "test", Opened: true, Epoch: 1, Virtual: base}))
	w.marks <- fmt.Sprintf(`{"site":"west","topic":"orders","partition":1,"epoch":1,"session":1,"end":%d,"compared":true,"map":%d}`, base, w.saved)
	req := fetchRequest(base, 0)
	req.Rack = "west"
	another := req.Topics[0].Partitions[0]
	another.Partition = 1
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, another)
	state := func(until func(federation.Standby) bool) func() bool {
		return func() bool {
			do[*kmsg.FetchResponse](t, w.at["west"], req)
			mu.Lock()
			defer mu.Unlock()
			return len(stale) > 0 && until(stale[len(stale)-1])
		}
	}
	gatewaytest.Eventually(t, "both are read, and fresh", state(func(s federation.Standby) bool { return s.Partitions == 2 && s.Stale == 0 && s.Age > 0 }))
	before := relearnt.Load()
	fails.Store(true)
	gatewaytest.Eventually(t, "one is old", state(func(s federation.Standby) bool { return s.Stale == 1 }))
	if relearnt.Load() == before {
		t.Error("nobody has asked who leads it by now")
	}
	mu.Lock()
	stale = nil
	mu.Unlock()
	gatewaytest.Eventually(t, "some time has gone", state(func(s federation.Standby) bool { return s.Age > 12*time.Second }))
	mu.Lock()
	defer mu.Unlock()
	for _, s := range stale {
		if s.Stale != 1 {
			t.Fatalf("%+v", s)
		}
	}
}

// At a standby a principal may read what it may read at the active site, and its quota holds
// there, too: answers beyond it have no records and a throttle time.
func TestRightsAndQuotasHoldAtStandbys(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := startStandbys(t, nil, func(c *federation.Config) {
		if c.Site == "west" {
			f.ask(c, 0, authentication.ScramSHA256)
			l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) { return l.at(site) })
			c.Quotas, c.QuotaBurst = []federation.Quota{{Principal: "User:alice", ConsumerBytes: 100}}, quotaBurst
		}
	})
	l.set(t, "east", "allow User:alice read topic orders") // the site that serves
	l.set(t, "west", "allow User:bob read topic orders")
	alice, bob := login(t, w.Addrs[1], "alice", "alice's"), login(t, w.Addrs[1], "bob", "bob's")
	w.at["west"] = alice
	w.write("east", "order", 0, 6)
	w.mirror(0, 6)
	w.mark(1, 1, 6)
	ask := func(c *conn.Conn) *kmsg.FetchResponse {
		req := fetchRequest(base, 100*time.Millisecond)
		req.Rack = "west"
		return do[*kmsg.FetchResponse](t, c, req)
	}
	throttled := 0
	gatewaytest.Eventually(t, "the one who may reads at the standby", func() bool {
		if ask(alice).ThrottleMillis > 0 {
			throttled++
		}
		return w.from("west", "west") > 1
	})
	if throttled == 0 {
		t.Error("she read twice as much as her quota, and was not told to pause")
	}
	before := w.from("west", "west")
	resp := ask(bob)
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != kerr.TopicAuthorizationFailed.Code || p.PreferredReadReplica >= 0 || len(p.RecordBatches) > 0 {
		t.Errorf("the other: %v, node %d, %d bytes", kerr.ErrorForCode(p.ErrorCode), p.PreferredReadReplica, len(p.RecordBatches))
	}
	if w.from("west", "west") != before {
		t.Error("the standby was read for who may not")
	}
}
