package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/adopt"
	"spillway/mirror/audit"
	"spillway/mirror/sitelog"
)

// What Java's Utils.murmur2 says (UtilsTest.testMurmur2).
func TestMurmur2(t *testing.T) {
	for s, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(s))); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestConnectKeys(t *testing.T) {
	of := ConnectPartition{"east", 3, "orders"}
	key := connectKeyOf("MirrorSourceConnector", of)
	if want := `["MirrorSourceConnector",{"cluster":"east","partition":3,"topic":"orders"}]`; string(key) != want {
		t.Errorf("%s, want %s", key, want)
	}
	if name, back, ok := connectSource([]byte(`["any", {"topic":"orders","partition":3,"cluster":"east"}]`)); !ok || name != "any" || back != of {
		t.Errorf("%s %+v %v", name, back, ok)
	}
	for _, other := range []string{
		``, `{}`, `["MirrorHeartbeatConnector",{"sourceClusterAlias":"east","targetClusterAlias":"west"}]`,
		`["MirrorCheckpointConnector",{"group":"app","partition":0,"topic":"orders"}]`, `[1,{"cluster":"east","partition":3,"topic":"orders"}]`,
		`["x",{"cluster":"east","partition":"3","topic":"orders"}]`, `["x"]`,
	} {
		if name, of, ok := connectSource([]byte(other)); ok {
			t.Errorf("%s is taken for %s %+v", other, name, of)
		}
	}
}

// TestHandBackAndAdoptAgain goes the whole way round: another mirror, ours, the other one
// from where ours had come, and ours again. No record is copied twice on any of the ways.
func TestHandBackAndAdoptAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	write := func() {
		t.Helper()
		if err := l.write(ctx, "orders", 2, 40); err != nil {
			t.Fatal(err)
		}
	}
	write()
	cp.copy(ctx, 0, 0)
	cp.copy(ctx, 1, 0)
	if _, err := Adopt(ctx, config); err != nil {
		t.Fatal(err)
	}
	write()
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	back := HandBackConfig{From: east, To: west, Topics: config.Topics, Alias: "east", Watch: time.Millisecond}
	if _, err := HandBack(ctx, back); err == nil {
		t.Error("there is no offsets topic, and it was handed back")
	}
	const offsets = "mm2-offsets.east.internal"
	if err := west.Admin().CreateTopic(ctx, offsets, 5, 1, nil); err != nil {
		t.Fatal(err)
	}
	// Its keys may look other than ours, and lie anywhere.
	key := `["MirrorSourceConnector",{"topic":"orders","cluster":"east","partition":0}]`
	stored := &kgo.Record{Topic: offsets, Partition: 2, Key: []byte(key), Value: []byte(`{"offset":1}`)}
	other := &kgo.Record{Topic: offsets, Partition: 1, Key: []byte(`["another",{"cluster":"north","partition":0,"topic":"orders"}]`), Value: []byte(`{"offset":1}`)}
	if err := cp.client.ProduceSync(ctx, stored, other).FirstErr(); err != nil {
		t.Fatal(err)
	}
	report, err := HandBack(ctx, back)
	if err != nil || !report.Written || len(report.Offsets) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	found := make(map[ConnectPartition]int64)
	for p := range int32(5) {
		tp := spillway.TopicPartition{Topic: offsets, Partition: p}
		ends, err := west.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
		err = errors.Join(err, sitelog.Scan(ctx, west, tp, 0, ends[tp], func(b sitelog.Batch) error {
			records, err := batch.Records(b.Bytes, 1<<20)
			for _, r := range records {
				_, of, _ := connectSource(r.Key)
				var v struct{ Offset int64 }
				if err := json.Unmarshal(r.Value, &v); err != nil || of.Partition == 0 && of.Cluster == "east" && (p != 2 || string(r.Key) != key) {
					t.Errorf("partition %d has %s: %s, %v", p, r.Key, r.Value, err)
				}
				found[of] = v.Offset
			}
			return err
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range report.Offsets {
		if found[o.Partition] != o.Offset.Offset {
			t.Errorf("%+v was told, and %d is there", o, found[o.Partition])
		}
		cp.next[o.Partition.Partition] = spillway.LocalOffset(o.Offset.Offset) + 1
	}
	write()
	cp.copy(ctx, 0, 0) // partition 1 is not copied any more
	again, err := Adopt(ctx, config)
	if err != nil || again.Records == 0 || rowsOf(again, adopt.Duplicate)+again.Unknown+again.Missing > 0 {
		t.Fatalf("%+v, %v", again, err)
	}
	write()
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal {
		t.Errorf("audit: %+v, %v", audited, err)
	}
	everyOffsetIsExact(t, ctx, east, west, config, nil)

	// Without being handed anything back, it copies once more what ours has carried.
	write()
	cp.copy(ctx, 0, 0)
	cp.copy(ctx, 1, 0)
	if again, err = Adopt(ctx, config); err != nil || again.Records == 0 || rowsOf(again, adopt.Duplicate) == 0 || again.Unknown+again.Missing > 0 {
		t.Fatalf("%+v, %v", again, err)
	}
	write()
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	if audited, err = audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil); err != nil || !audited.Equal {
		t.Errorf("audit: %+v, %v", audited, err)
	}
	everyOffsetIsExact(t, ctx, east, west, config, nil)
	for _, o := range []HandBackConfig{
		{From: east, To: west, Topics: config.Topics, Alias: "south", OffsetsTopic: offsets, Watch: time.Millisecond},
		{From: east, To: west, Topics: selected(t, "nothing"), Alias: "east", Watch: time.Millisecond},
	} {
		_, err := HandBack(ctx, o)
		if err == nil {
			t.Errorf("%+v was accepted", o)
		}
		t.Log(fmt.Sprint(err))
	}
}

// TestHandBackAfterAKill hands back behind a run that was killed with records at the target
// of which the map does not know yet whether they came there.
func TestHandBackAfterAKill(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	const offsets = "mm2-offsets.east.internal"
	if err := west.Admin().CreateTopic(ctx, offsets, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	write := func(addresses []string, records ...*kgo.Record) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(1<<10))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	records := make([]*kgo.Record, 2000)
	for i := range records {
		records[i] = &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "record %d", i)}
	}
	write(east.Addresses(), records...)
	write(west.Addresses(), &kgo.Record{Topic: offsets, Key: []byte(`["MirrorSourceConnector",{"topic":"orders","cluster":"east","partition":0}]`), Value: []byte(`{"offset":1}`)})
	runChild(t, east.Addresses(), west.Addresses(), "afterProduceAcked", 5, childAlone+"=1")
	ours, err := read(ctx, west, spillway.TopicPartition{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	back := HandBackConfig{From: east, To: west, Topics: selected(t, ".*"), Alias: "east", Watch: time.Millisecond}
	dry := back
	dry.DryRun = true
	if would, err := HandBack(ctx, dry); err == nil || !strings.Contains(err.Error(), "--until-caught-up") {
		t.Errorf("dry run: %+v, %v", would, err)
	}
	report, err := HandBack(ctx, back)
	if err != nil || !report.Written || len(report.Offsets) != 1 || report.Offsets[0].Offset.Offset != int64(len(ours))-1 {
		t.Fatalf("%+v, %v; %d records are at the target", report, err, len(ours))
	}
	if would, err := HandBack(ctx, dry); err != nil || would.Offsets[0] != report.Offsets[0] {
		t.Errorf("dry run: %+v, %v; want %+v", would, err, report)
	}
}
