package mirror

import (
	"context"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/mirror/selection"
)

// settingsOf is what is set on the topic itself, without what a mirror needs.
func settingsOf(t *testing.T, c broker.Cluster, topic string) map[string]string {
	t.Helper()
	all, err := c.Admin().TopicSettings(testContext(t), []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	settings := all[topic]
	delete(settings, "unclean.leader.election.enable")
	for _, own := range []string{"compression.type", "message.timestamp.type", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"} {
		delete(settings, own)
	}
	return settings
}

// set changes settings of a topic as a person does; "" removes one.
func set(t *testing.T, c broker.Cluster, topic string, settings map[string]string) {
	t.Helper()
	configs := make(map[string]*string)
	for key, value := range settings {
		if configs[key] = &value; value == "" {
			configs[key] = nil
		}
	}
	if err := c.Admin().SetTopicConfigs(testContext(t), topic, configs); err != nil {
		t.Fatal(err)
	}
}

func awaitSettings(t *testing.T, c broker.Cluster, topic string, want map[string]string) {
	t.Helper()
	eventually(t, "the settings of "+topic+" are as they should be", func() bool { return maps.Equal(settingsOf(t, c, topic), want) })
}

// Settings follow the source while the flow runs, over a restart of the mirror
// too. What a person set at the target stays.
func TestSettingsAreKeptInStep(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	keepInStep(t, east, west)
}

func keepInStep(t *testing.T, east, west broker.Cluster) {
	t.Helper()
	if err := east.Admin().CreateTopic(testContext(t), "orders", 2, 1, map[string]string{"retention.ms": "1000000", "segment.bytes": "2000000", "min.insync.replicas": "2", "compression.type": "zstd"}); err != nil {
		t.Fatal(err)
	}
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	kept := new(atomic.Int64)
	start := func() *Mirror {
		m := testMirrorWith(t, Config{Local: west, SettingsExcluded: []string{"flush.*"}, Events: Events{Metadata: func(i MetadataInfo) {
			if i.Problem != "" {
				t.Errorf("problem of %s: %s", i.Name, i.Problem)
			}
			if i.Kept {
				if !strings.Contains(i.What, "delete.retention.ms stays 5000") {
					t.Errorf("kept: %+v", i)
				}
				kept.Add(1)
			}
		}}}, east)
		assign(t, m, ordersAssignment("east", 1))
		return m
	}
	m := start()
	eventually(t, "west has the topic", func() bool {
		md, err := west.Metadata(testContext(t), "orders")
		return err == nil && len(md.Topics["orders"].Partitions) == 2
	})
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "1000000", "segment.bytes": "2000000"})
	set(t, west, "orders", map[string]string{"delete.retention.ms": "5000"})
	set(t, east, "orders", map[string]string{"retention.ms": "2000000", "segment.bytes": "", "delete.retention.ms": "6000", "flush.ms": "7000"})
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "2000000", "delete.retention.ms": "5000"})
	eventually(t, "what stays is told", func() bool { return kept.Load() > 0 })
	m.Close()
	if kept.Load() != 1 {
		t.Errorf("it was told %d times that a setting stays", kept.Load())
	}

	set(t, east, "orders", map[string]string{"retention.ms": "", "segment.ms": "50000"})
	set(t, west, "orders", map[string]string{"segment.bytes": "3000000"})
	m = start()
	awaitSettings(t, west, "orders", map[string]string{"segment.ms": "50000", "segment.bytes": "3000000", "delete.retention.ms": "5000"})
	// To hand a setting over it is removed.
	set(t, west, "orders", map[string]string{"delete.retention.ms": ""})
	awaitSettings(t, west, "orders", map[string]string{"segment.ms": "50000", "segment.bytes": "3000000", "delete.retention.ms": "6000"})
	m.Close()
}

// askedSettings is a cluster whose settings change before they are told, once.
type askedSettings struct {
	broker.Cluster
	armed  *atomic.Bool
	change func()
}

func (s askedSettings) Admin() broker.Admin { return askedSettingsAdmin{s.Cluster.Admin(), s} }

type askedSettingsAdmin struct {
	broker.Admin
	of askedSettings
}

func (a askedSettingsAdmin) TopicSettings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	if a.of.armed.CompareAndSwap(true, false) {
		a.of.change()
	}
	return a.Admin.TopicSettings(ctx, topics)
}

// What a person sets here, and then at the source, stays here, also where the mirror was
// about to look at the source.
func TestASettingOfAPersonIsNotOverwritten(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", map[string]int32{"orders": 1})
	assign(t, testMirror(t, east, west), ordersAssignment("", 1))
	kept := make(chan string, 1)
	asked := askedSettings{east, new(atomic.Bool), func() {
		set(t, west, "orders", map[string]string{"delete.retention.ms": "5000"})
		set(t, east, "orders", map[string]string{"delete.retention.ms": "6000"})
	}}
	m := testMirrorWith(t, Config{Local: west, Events: Events{Metadata: func(i MetadataInfo) {
		if i.Kept {
			select {
			case kept <- i.What:
			default:
			}
		}
	}}}, asked)
	assign(t, m, ordersAssignment("east", 1))
	set(t, east, "orders", map[string]string{"retention.ms": "1000000"})
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "1000000"})
	asked.armed.Store(true)
	eventually(t, "it is told that a setting stays", func() bool { return len(kept) > 0 })
	if what := <-kept; !strings.Contains(what, "delete.retention.ms stays 5000") {
		t.Errorf("kept: %s", what)
	}
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "1000000", "delete.retention.ms": "5000"})
}

// stuckSettings is a cluster that does not answer when settings are changed, once asked.
type stuckSettings struct {
	broker.Cluster
	armed *atomic.Bool
	asked chan struct{}
}

func (s stuckSettings) Admin() broker.Admin { return stuckSettingsAdmin{s.Cluster.Admin(), s} }

type stuckSettingsAdmin struct {
	broker.Admin
	of stuckSettings
}

func (a stuckSettingsAdmin) SetTopicConfigs(ctx context.Context, topic string, configs map[string]*string) error {
	if !a.of.armed.Load() {
		return a.Admin.SetTopicConfigs(ctx, topic, configs)
	}
	select {
	case a.of.asked <- struct{}{}:
	default: // it is known
	}
	<-ctx.Done()
	return ctx.Err()
}

// A mirror that is closed while it changes a setting tells of no problem: nothing refused
// the change, and the next mirror makes it.
func TestClosingWhileASettingIsChanged(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	assign(t, testMirror(t, east, west), ordersAssignment("", 1))
	stuck := stuckSettings{west, new(atomic.Bool), make(chan struct{}, 1)}
	m := testMirrorWith(t, Config{Local: stuck, Events: Events{Metadata: func(i MetadataInfo) {
		if i.Problem != "" {
			t.Errorf("problem of %q: %s", i.Name, i.Problem)
		}
	}}}, east)
	assign(t, m, ordersAssignment("east", 1))
	eventually(t, "west has the topic", func() bool {
		md, err := west.Metadata(testContext(t), "orders")
		return err == nil && len(md.Topics["orders"].Partitions) == 1
	})
	stuck.armed.Store(true)
	set(t, east, "orders", map[string]string{"retention.ms": "1000000"})
	<-stuck.asked
	m.Close()
	m = testMirror(t, west, east)
	assign(t, m, ordersAssignment("east", 1))
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "1000000"})
}

// A mirror that dies before or after it changed a setting knows it again as its own.
func TestSettingsAfterACrash(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"afterSettingsIntended", "afterSettingsChanged"} {
		t.Run(point, func(t *testing.T) {
			east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
			eastM := testMirror(t, east, west)
			assign(t, eastM, ordersAssignment("", 1))
			set(t, east, "orders", map[string]string{"retention.ms": "1000000"})
			var armed atomic.Bool
			ctx, die := context.WithCancel(t.Context())
			m, err := New(ctx, Config{Worker: "first", Local: west, Sources: map[spillway.SiteID]broker.Cluster{"east": east}, MetadataInterval: 100_000_000,
				Crash: func(at string) {
					if at == point && armed.Load() {
						die()
					}
				}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Close)
			assign(t, m, ordersAssignment("east", 1))
			eventually(t, "west has the topic", func() bool {
				md, err := west.Metadata(testContext(t), "orders")
				return err == nil && len(md.Topics["orders"].Partitions) == 1
			})
			awaitSettings(t, west, "orders", map[string]string{"retention.ms": "1000000"})
			armed.Store(true)
			set(t, east, "orders", map[string]string{"retention.ms": "2000000"})
			<-ctx.Done()
			m.Close()
			set(t, east, "orders", map[string]string{"retention.ms": "3000000"})
			m = testMirror(t, west, east)
			assign(t, m, ordersAssignment("east", 1))
			awaitSettings(t, west, "orders", map[string]string{"retention.ms": "3000000"})
			set(t, east, "orders", map[string]string{"retention.ms": ""})
			awaitSettings(t, west, "orders", map[string]string{})
		})
	}
}

// After a move the settings that a person changes at the new site are carried to
// the old one, though no mirror had set them there.
func TestSettingsFollowTheShareHome(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	set(t, east, "orders", map[string]string{"retention.ms": "1000000", "segment.bytes": "2000000", "message.timestamp.type": "LogAppendTime"})
	eastM, westM := testMirror(t, east, west), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 7).write(ctx, "orders", 1, 5); err != nil {
		t.Fatal(err)
	}
	kind := func(c broker.Cluster) string {
		all, err := c.Admin().TopicSettings(ctx, []string{"orders"})
		if err != nil {
			t.Fatal(err)
		}
		return all["orders"]["message.timestamp.type"]
	}
	eventually(t, "the mirror has borrowed the kind of times", func() bool { return kind(west) == "CreateTime" })
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })

	cutover := virtualEnds(t, east, eastM, ordersAssignment("", 1))
	if _, err := westM.CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	if _, err := westM.OpenEpoch(ctx, ordersShare, 2, 5, cutover); err != nil {
		t.Fatal(err)
	}
	terms := []Term{{Epoch: 1, Site: "east"}, term(2, "west", cutover)}
	assign(t, westM, ordersAssignment("", 2, terms...))
	eventually(t, "the site that serves has the kind of times of its topic", func() bool { return kind(west) == "LogAppendTime" })
	assign(t, eastM, ordersAssignment("west", 2, terms...))
	eventually(t, "the site that follows has not", func() bool { return kind(east) == "CreateTime" })
	set(t, west, "orders", map[string]string{"retention.ms": "2000000", "segment.bytes": ""})
	awaitSettings(t, east, "orders", map[string]string{"retention.ms": "2000000"})
}

// A topic that takes larger batches than before gets them as they are.
func TestALargerLimitIsLearned(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", map[string]int32{"orders": 1})
	set(t, west, "orders", map[string]string{"max.message.bytes": "200"})
	eastM, passed, rebuilt := testMirror(t, east, west), new(atomic.Int64), new(atomic.Int64)
	assign(t, eastM, ordersAssignment("", 1))
	westM := testMirrorWith(t, Config{Local: west, Events: Events{BatchMirrored: func(i BatchInfo) {
		if i.Rebuilt {
			rebuilt.Add(1)
		} else {
			passed.Add(1)
		}
	}}}, east)
	assign(t, westM, ordersAssignment("east", 1))
	c, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	write := func() {
		t.Helper()
		var rs []*kgo.Record
		for range 10 {
			rs = append(rs, &kgo.Record{Topic: "orders", Value: make([]byte, 50)})
		}
		if err := c.ProduceSync(ctx, rs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	}
	write()
	if rebuilt.Load() == 0 {
		t.Fatal("batches that the target does not take were passed")
	}
	set(t, west, "orders", map[string]string{"max.message.bytes": ""})
	before := passed.Load()
	eventually(t, "batches pass as they are", func() bool { write(); return passed.Load() > before })
	compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders"})
}

// Partitions that the source gets are at the target with all their records, the
// first ones too.
func TestNewPartitionsAreFollowedFromTheirFirstRecord(t *testing.T) {
	t.Parallel()
	growAndCompare(t, embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil), func(c broker.Cluster) []string {
		return c.(interface{ Addresses() []string }).Addresses()
	})
}

func growAndCompare(t *testing.T, east, west broker.Cluster, addresses func(broker.Cluster) []string) {
	t.Helper()
	ctx := testContext(t)
	eastM, westM := testMirror(t, east, west), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	l := newLoad(t, addresses(east), 71)
	for round, partitions := range []int32{1, 3, 4} {
		if round > 0 {
			if err := east.Admin().CreatePartitions(ctx, "orders", partitions); err != nil {
				t.Fatal(err)
			}
			l = newLoad(t, addresses(east), uint64(71+round)) // a client that knows them
		}
		if err := l.write(ctx, "orders", partitions, 20); err != nil {
			t.Fatal(err)
		}
		eventually(t, "west has what east has", func() bool {
			return len(westM.Ends(ordersShare)) == int(partitions) && caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1))
		})
		md, err := west.Metadata(ctx, "orders")
		if err != nil || len(md.Topics["orders"].Partitions) != int(partitions) {
			t.Fatalf("the source has %d partitions, the target %d, %v", partitions, len(md.Topics["orders"].Partitions), err)
		}
		for p := range partitions {
			compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders", Partition: p})
		}
	}
	if gaps := westM.Map().Gaps(); len(gaps) != 0 {
		t.Errorf("gaps: %+v", gaps)
	}
}

// A run that ends when it has caught up has carried settings, under other names too.
func TestARunCarriesSettings(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", map[string]int32{"east.orders": 1})
	set(t, east, "orders", map[string]string{"retention.ms": "1000000"})
	topics, err := selection.Parse("orders", "", []string{"(.*)=east.$1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"1000000", "2000000"} {
		set(t, east, "orders", map[string]string{"retention.ms": value})
		report, err := Run(ctx, RunConfig{From: east, To: west, Topics: topics, UntilCaughtUp: true})
		if err != nil || report.Changes == 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		if got := settingsOf(t, west, "east.orders"); !maps.Equal(got, map[string]string{"retention.ms": value}) {
			t.Errorf("after a run: %v", got)
		}
	}
}

// A target that is behind on purpose gets changes of settings as late as records.
func TestADelayedTargetGetsSettingsLate(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	set(t, east, "orders", map[string]string{"retention.ms": "2000000"})
	eastM, later := testMirror(t, east, west), new(atomic.Int64)
	assign(t, eastM, ordersAssignment("", 1))
	m := testMirrorWith(t, Config{Local: west, Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }}, east)
	a := ordersAssignment("east", 1)
	a.Delay = time.Hour
	assign(t, m, a)
	eventually(t, "west has the topic", func() bool {
		md, err := west.Metadata(ctx, "orders")
		return err == nil && len(md.Topics["orders"].Partitions) == 1
	})
	awaitSettings(t, west, "orders", map[string]string{"retention.ms": "2000000"})
	eventually(t, "the mirror decides about the topic", func() bool { return len(m.Flows()) == 1 && m.Flows()[0].Partitions == 1 && m.Flows()[0].Running == 1 })
	set(t, east, "orders", map[string]string{"retention.ms": "1"})
	for range 2 {
		m.keepMetadata(ctx, ordersShare)
	}
	if got := settingsOf(t, west, "orders"); got["retention.ms"] != "2000000" {
		t.Errorf("it came at once: %v", got)
	}
	later.Store(int64(2 * time.Hour))
	m.keepMetadata(ctx, ordersShare)
	if got := settingsOf(t, west, "orders"); got["retention.ms"] != "1" {
		t.Errorf("it did not come: %v", got)
	}
}
