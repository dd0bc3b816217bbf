package mirror

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/selection"
	"spillway/mirror/sitelog"
)

// MirrorMaker 2 goes on behind the source offsets that are in the offsets topic of its
// workers (Kafka Connect, org.apache.kafka.connect.storage.OffsetStorageWriter). It is
// handed back a topic by writing there how far a flow has come since.

// HandBackConfig says what is handed back: spillway mirror hand-back.
type HandBackConfig struct {
	From, To broker.Cluster
	Topics   selection.Topics
	// Alias is what MirrorMaker 2 calls the source; Connector is the name of its source
	// connector, empty: the only one that has offsets of that source.
	Alias, Connector string
	// OffsetsTopic is that of its workers, at the target; empty: that of a dedicated
	// MirrorMaker 2.
	OffsetsTopic string
	DryRun       bool
	Watch        time.Duration // as in AdoptConfig
	Mirror       Config
}

// HandBackReport has the form in which Kafka Connect takes offsets (KIP-875).
type HandBackReport struct {
	Topic   string          `json:"topic"`
	Offsets []ConnectOffset `json:"offsets"`
	Written bool            `json:"written"`
}

// ConnectOffset is where a source connector stands.
type ConnectOffset struct {
	Partition ConnectPartition `json:"partition"`
	Offset    struct {
		Offset int64 `json:"offset"` // of the last record that was copied
	} `json:"offset"`
}

// ConnectPartition is a partition of a source of MirrorMaker 2
// (org.apache.kafka.connect.mirror.MirrorUtils.wrapPartition).
type ConnectPartition struct {
	Cluster   string `json:"cluster"`
	Partition int32  `json:"partition"`
	Topic     string `json:"topic"`
}

// HandBack writes how far the flow into To has come where MirrorMaker 2 looks when it is
// started. Both have to be stopped. What a run that was killed has left is read back; a dry
// run, which must not tell the map, is refused there.
func HandBack(ctx context.Context, c HandBackConfig) (HandBackReport, error) {
	report := HandBackReport{Topic: cmp.Or(c.OffsetsTopic, "mm2-offsets."+c.Alias+".internal"), Offsets: []ConnectOffset{}}
	m, share, err := RunConfig{From: c.From, To: c.To, Topics: c.Topics, Mirror: c.Mirror}.open(ctx)
	if err != nil {
		return report, err
	}
	defer m.Close()
	if err := m.handBack(ctx, c, share, &report); err != nil {
		return report, fmt.Errorf("hand back: %w", err)
	}
	return report, nil
}

func (m *Mirror) handBack(ctx context.Context, c HandBackConfig, share Assignment, report *HandBackReport) error {
	src, err := m.source(share.Source)
	if err != nil {
		return err
	}
	running, err := watchMirrorMaker(ctx, c.To, c.Alias)
	if err != nil {
		return err
	}
	if !c.DryRun {
		if err := m.lead(ctx, share); err != nil {
			return err
		}
	}
	tps, err := m.fed(ctx, share, src)
	if err != nil {
		return err
	}
	if c.DryRun {
		err = m.allVerified(ctx, tps)
	} else {
		var h held
		if h, err = m.hold(ctx, share, tps); err == nil {
			defer h.letGo()
			err = m.readAllBack(ctx, share, tps)
		}
	}
	if err != nil {
		return err
	}
	if report.Offsets = m.copiedOffsets(c.Alias, src, tps); len(report.Offsets) == 0 {
		return fmt.Errorf("the flow from site %s has brought nothing into these topics yet", src.site)
	}
	if err := running.stopped(ctx, cmp.Or(c.Watch, 3*time.Second)); err != nil {
		return err
	}
	stored, err := readConnectOffsets(ctx, c.To, report.Topic, c.Alias, c.Connector)
	if err != nil || c.DryRun {
		return err
	}
	if err := stored.write(ctx, c.To, report.Offsets); err != nil {
		return err
	}
	report.Written = true
	return nil
}

// fed are the partitions into which a flow from the source has written.
func (m *Mirror) fed(ctx context.Context, share Assignment, src *source) ([]spillway.TopicPartition, error) {
	tps, err := share.partitionsAt(ctx, src.cluster)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(m.reader.CaughtUp(ctx), src.ready(ctx, true)); err != nil {
		return nil, err
	}
	tps = slices.DeleteFunc(tps, func(tp spillway.TopicPartition) bool {
		return m.fedBy(src, tp.Topic) == "" || !m.reader.View(tp).Begun()
	})
	if len(tps) == 0 {
		return nil, fmt.Errorf("the map of site %s knows no flow from site %s into these topics", m.site, src.site)
	}
	return tps, nil
}

// unverified are the partitions whose log ends elsewhere than the map says for certain: a
// run was killed, or somebody has written there since.
func (m *Mirror) unverified(ctx context.Context, tps []spillway.TopicPartition) ([]spillway.TopicPartition, error) {
	ends, err := m.local.Admin().LogEnds(ctx, tps)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(tps), func(tp spillway.TopicPartition) bool {
		view := m.reader.View(tp)
		_, open := view.Open()
		_, local := view.End()
		return open || local == ends[tp]
	}), nil
}

// readAllBack has the map say of all that the target has what it is. The caller holds the
// partitions.
func (m *Mirror) readAllBack(ctx context.Context, a Assignment, tps []spillway.TopicPartition) error {
	some, err := m.unverified(ctx, tps)
	if err != nil {
		return err
	}
	_, err = m.readBack(ctx, &share{id: a.Share, assignment: a}, a.Epoch, some)
	return err
}

// allVerified refuses to tell where MirrorMaker 2 would go on while the map does not say
// it for certain: it would copy again what is there.
func (m *Mirror) allVerified(ctx context.Context, tps []spillway.TopicPartition) error {
	some, err := m.unverified(ctx, tps)
	if err == nil && len(some) > 0 {
		err = fmt.Errorf("of %d partitions, %s first, the map of site %s does not say yet what the end of the log is: a mirror run works, or was killed, or somebody else has written there; let mirror run --until-caught-up end before, or leave --dry-run out, which reads it back", len(some), some[0], m.site)
	}
	return err
}

// copiedOffsets are where MirrorMaker 2 would stand if it had copied what the flow has.
func (m *Mirror) copiedOffsets(alias string, src *source, tps []spillway.TopicPartition) []ConnectOffset {
	offsets := []ConnectOffset{}
	for _, tp := range tps {
		end, _ := m.reader.View(tp).End()
		next, _ := src.view(tp).ToLocal(end)
		o := ConnectOffset{Partition: ConnectPartition{alias, tp.Partition, m.fedBy(src, tp.Topic)}}
		if o.Offset.Offset = int64(next) - 1; end > 0 && next > 0 {
			offsets = append(offsets, o)
		}
	}
	return offsets
}

// connectOffsets is what the offsets topic says of one source connector.
type connectOffsets struct {
	topic      string
	partitions int32
	connector  string
	keys       map[ConnectPartition]connectKey
}

// connectKey is a key as it stands there: Kafka Connect takes two keys that differ in
// their bytes, or that lie in different partitions, for the same.
type connectKey struct {
	partition int32
	bytes     []byte
}

// readConnectOffsets reads the keys of a source's partitions.
func readConnectOffsets(ctx context.Context, c broker.Cluster, topic, alias, connector string) (*connectOffsets, error) {
	md, err := c.Metadata(ctx, topic)
	if err != nil {
		return nil, err
	}
	if !exists(md.Topics[topic]) {
		return nil, fmt.Errorf("site %s has no topic %s, where MirrorMaker 2 keeps its offsets; name the one that its workers have (offset.storage.topic)", c.Site(), topic)
	}
	found := &connectOffsets{topic: topic, partitions: int32(len(md.Topics[topic].Partitions)), keys: make(map[ConnectPartition]connectKey)}
	var tps []spillway.TopicPartition
	for p := range found.partitions {
		tps = append(tps, spillway.TopicPartition{Topic: topic, Partition: p})
	}
	starts, err1 := c.Admin().LogStarts(ctx, tps)
	ends, err2 := c.Admin().HighWatermarks(ctx, tps)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	connectors := make(map[string]bool)
	for _, tp := range tps {
		err := sitelog.Scan(ctx, c, tp, starts[tp], ends[tp], func(b sitelog.Batch) error {
			if b.Control() {
				return nil
			}
			records, err := batch.Records(b.Bytes, DecompressedBytesMax)
			if err != nil {
				return err
			}
			for _, r := range records {
				name, of, ok := connectSource(r.Key)
				if !ok || of.Cluster != alias || connector != "" && name != connector {
					continue
				}
				connectors[name] = true
				found.keys[of] = connectKey{tp.Partition, slices.Clone(r.Key)}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	switch names := slices.Sorted(maps.Keys(connectors)); len(names) {
	case 1:
		found.connector = names[0]
		return found, nil
	case 0:
		return nil, fmt.Errorf("%s/%s has no offsets of a source %q (connector %q): is that what MirrorMaker 2 calls the source?", c.Site(), topic, alias, connector)
	default:
		return nil, fmt.Errorf("%s/%s has offsets of the connectors %v; say which one is meant", c.Site(), topic, names)
	}
}

// connectSource reads the key of an offset: the connector's name and the partition.
func connectSource(key []byte) (connector string, of ConnectPartition, ok bool) {
	var parts []json.RawMessage
	if json.Unmarshal(key, &parts) != nil || len(parts) != 2 || json.Unmarshal(parts[0], &connector) != nil {
		return "", of, false
	}
	var words map[string]json.RawMessage
	if json.Unmarshal(parts[1], &words) != nil || len(words) != 3 || words["cluster"] == nil || words["topic"] == nil || words["partition"] == nil {
		return "", of, false
	}
	return connector, of, json.Unmarshal(parts[1], &of) == nil
}

// write appends the offsets, each where its key lies, and tries again after faults: the
// last one of a key counts.
func (s *connectOffsets) write(ctx context.Context, c broker.Cluster, offsets []ConnectOffset) error {
	records := make(map[int32][]batch.Record)
	for _, o := range offsets {
		key, there := s.keys[o.Partition]
		if !there {
			key.bytes = connectKeyOf(s.connector, o.Partition)
			key.partition = int32(murmur2(key.bytes)&0x7fffffff) % s.partitions
		}
		value, err := json.Marshal(o.Offset)
		if err != nil {
			return err
		}
		rs := records[key.partition]
		records[key.partition] = append(rs, batch.Record{OffsetDelta: int32(len(rs)), Key: key.bytes, Value: value})
	}
	for partition, rs := range records {
		h := batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
		b, err := batch.Rebuild(h, rs, batch.None)
		if err != nil {
			return err
		}
		tp := spillway.TopicPartition{Topic: s.topic, Partition: partition}
		for tries := 1; ; tries++ {
			if err = produceOnce(ctx, c, tp, b); err == nil {
				break
			}
			if tries == 5 || sitelog.Pause(ctx, time.Second/2) != nil {
				return fmt.Errorf("write to %s/%s: %w", c.Site(), tp, err)
			}
			_ = c.Refresh(ctx) // met again by the next try
		}
	}
	return nil
}

func produceOnce(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition, b []byte) error {
	node, err := c.Leader(ctx, tp)
	if err != nil {
		return err
	}
	conn, err := c.Dial(ctx, node)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = sitelog.ProduceOne(ctx, conn, sitelog.ProducePart{TopicPartition: tp, Batch: b}, 10*time.Second)
	return err
}

// connectKeyOf is a key as Kafka Connect writes it.
func connectKeyOf(connector string, of ConnectPartition) []byte {
	key, err := json.Marshal([]any{connector, of})
	if err != nil {
		panic(fmt.Sprintf("the key of %v cannot be encoded: %v", of, err)) // plain data, cannot happen
	}
	return key
}

// murmur2 is the hash by which Java producers choose partitions
// (org.apache.kafka.common.utils.Utils.murmur2).
func murmur2(b []byte) uint32 {
	const m = 0x5bd1e995
	h := uint32(0x9747b28c) ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		h = h*m ^ (k^k>>24)*m
	}
	for i := len(b) - 1; i >= 0; i-- {
		h ^= uint32(b[i]) << (8 * i)
	}
	if len(b) > 0 {
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
