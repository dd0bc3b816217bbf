package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/sitelog"
)

// heartbeatsTopic is where each MirrorMaker 2 says at its target, every second by
// default, that it runs (org.apache.kafka.connect.mirror.Heartbeat).
const heartbeatsTopic = "heartbeats"

// mirrorMakerWatch looks for a MirrorMaker 2 that still runs into a cluster.
type mirrorMakerWatch struct {
	cluster broker.Cluster
	alias   string // only the one from this source; empty: any
	since   time.Time
	beats   map[spillway.TopicPartition]spillway.LocalOffset // ends of the heartbeats
}

// errMirrorMakerRuns tells what to do.
var errMirrorMakerRuns = errors.New("MirrorMaker 2 still runs; stop it first")

func watchMirrorMaker(ctx context.Context, c broker.Cluster, alias string) (*mirrorMakerWatch, error) {
	w := &mirrorMakerWatch{cluster: c, alias: alias, since: time.Now()}
	groups, err := c.Admin().ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		// The group of the workers of a dedicated MirrorMaker 2 (MirrorMakerConfig.workerConfig).
		name, is := strings.CutSuffix(g.ID, "-mm2")
		if is && g.ProtocolType == "connect" && g.State != "Empty" && g.State != "Dead" && (alias == "" || name == alias) {
			return nil, fmt.Errorf("%w: the workers that copy from %s are in group %s of site %s", errMirrorMakerRuns, name, g.ID, c.Site())
		}
	}
	w.beats, err = w.ends(ctx)
	return w, err
}

func (w *mirrorMakerWatch) ends(ctx context.Context) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	md, err := w.cluster.Metadata(ctx, heartbeatsTopic)
	if err != nil || !exists(md.Topics[heartbeatsTopic]) {
		return nil, err
	}
	var tps []spillway.TopicPartition
	for _, p := range md.Topics[heartbeatsTopic].Partitions {
		tps = append(tps, spillway.TopicPartition{Topic: heartbeatsTopic, Partition: p.Partition})
	}
	return w.cluster.Admin().HighWatermarks(ctx, tps)
}

// stopped looks whether heartbeats have come since the watch began, which it makes as
// long as wanted.
func (w *mirrorMakerWatch) stopped(ctx context.Context, watch time.Duration) error {
	if len(w.beats) == 0 {
		return nil
	}
	if err := sitelog.Pause(ctx, watch-time.Since(w.since)); err != nil {
		return err
	}
	now, err := w.ends(ctx)
	if err != nil {
		return err
	}
	for tp, end := range now {
		err := sitelog.Scan(ctx, w.cluster, tp, w.beats[tp], end, func(b sitelog.Batch) error {
			records, err := batch.Records(b.Bytes, DecompressedBytesMax)
			if err != nil || b.Control() {
				return err
			}
			for _, r := range records {
				if from := heartbeatFrom(r.Key); w.alias == "" || from == w.alias {
					return fmt.Errorf("%w: heartbeats of the one that copies from %s come into site %s", errMirrorMakerRuns, from, w.cluster.Site())
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// heartbeatFrom is the name of the source in the key of a heartbeat: two strings, each
// with its length in two bytes before it. "?" where it is none.
func heartbeatFrom(key []byte) string {
	if len(key) < 2 {
		return "?"
	}
	n := int(binary.BigEndian.Uint16(key))
	if len(key) < 2+n {
		return "?"
	}
	return string(key[2 : 2+n])
}
