package telemetry

import (
	"time"

	"spillway"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// foreignWriters are who may write past a mirror: a client, or a mirror that
// had lost its lease.
var foreignWriters = [...]string{"client", "stale-mirror"}

// MirrorEvents counts what a mirror does.
func (t *Telemetry) MirrorEvents() mirror.Events {
	return mirror.Events{
		BatchMirrored: func(b mirror.BatchInfo) {
			source, target := string(b.Source), string(b.Target)
			t.counter(mirrorRecords, source, target, b.Topic).Add(float64(b.Records))
			t.counter(mirrorBytes, source, target, b.Topic).Add(float64(b.Bytes))
			form := "passed"
			if b.Rebuilt {
				form = "rebuilt"
			}
			t.counter(mirrorBatches, source, target, form).Inc()
			if age := time.Since(time.UnixMilli(b.MaxTimestamp)); b.MaxTimestamp > 0 && age >= 0 {
				t.histogram(mirrorLatency, source, target).Observe(age.Seconds())
			}
		},
		RecordsLeftOut: func(i mirror.LeftOutInfo) {
			t.counter(mirrorLeftOut, string(i.Source), string(i.Target), i.Topic).Add(float64(i.Records))
		},
		MarkPublished: func(m mirror.Mark) { t.counter(mirrorMarks, string(m.Site)).Inc() },
		GapLogged:     func(g maptopic.Gap) { t.counter(mirrorGaps, string(g.Site), g.Kind).Inc() },
		Resync:        func(r mirror.ResyncInfo) { t.counter(mirrorResyncs, string(r.Target)).Inc() },
		ForeignWriter: func(f mirror.ForeignInfo) {
			writer := foreignWriters[0]
			if f.Stale {
				writer = foreignWriters[1]
			}
			t.counter(mirrorForeign, string(f.Target), f.Topic, writer).Add(float64(f.To - f.From))
		},
		SessionOpened: func(s mirror.SessionInfo) {
			t.counter(mirrorSessions, string(s.Target)).Inc()
			for _, writer := range foreignWriters {
				t.counter(mirrorForeign, string(s.Target), s.Topic, writer) // begins at 0, see Prepare
			}
		},
		FlowState:    t.flowState,
		FlowEnded:    t.flowEnded,
		GroupCarried: func(g mirror.GroupInfo) { t.counter(mirrorGroups, g.Share.Group).Add(float64(g.Partitions)) },
		Metadata: func(i mirror.MetadataInfo) {
			outcome := "changed"
			switch {
			case i.Problem != "":
				outcome = "failed"
			case i.Kept:
				outcome = "kept"
			}
			t.counter(mirrorMetadata, string(i.Target), i.Kind, outcome).Inc()
		},
		Workers: func(w mirror.WorkersInfo) {
			for direction, tps := range map[string][]spillway.TopicPartition{"taken": w.Taken, "given": w.Given} {
				t.counter(mirrorMoved, w.Share.Group, string(w.Source), string(w.Target), direction).Add(float64(len(tps)))
			}
		},
		Throttled: func(i mirror.ThrottleInfo) {
			side := "source"
			if i.Target {
				side = "target"
			}
			t.counter(mirrorThrottle, string(i.Site), side).Add(i.Pause.Seconds())
		},
		PartitionState: func(p mirror.PartitionInfo) {
			if p.Problem != "" {
				t.counter(mirrorStops, p.Share.Group, string(p.Source), string(p.Target)).Inc()
			}
		},
	}
}

// flowEnded takes the figures of a flow away: what no longer runs neither lags
// nor catches up, and a lag that stands still would be an alarm for ever.
func (t *Telemetry) flowEnded(f mirror.FlowInfo) {
	gone := map[string]string{"failover_group": f.Share.Group, "source": string(f.Source), "target": string(f.Target)}
	for _, m := range flowGauges {
		t.gauges[m.Name].DeletePartialMatch(gone)
	}
}

// flowGauges are the series that end with a flow.
var flowGauges = []Metric{mirrorLag, mirrorUndecided, mirrorHanging, mirrorDeletions, mirrorLagTime, mirrorGroupAge, mirrorPartitions, mirrorWorkers}

// flowState keeps only the flow that runs: after a move the group has another
// source, and the old series would stand still for ever.
func (t *Telemetry) flowState(f mirror.FlowInfo) {
	group, source, target := f.Share.Group, string(f.Source), string(f.Target)
	t.mu.Lock()
	old := t.mu.sources[group+"→"+target]
	t.mu.sources[group+"→"+target] = source
	t.mu.Unlock()
	if old != source {
		gone := map[string]string{"failover_group": group, "source": old, "target": target}
		for _, m := range flowGauges {
			t.gauges[m.Name].DeletePartialMatch(gone)
		}
	}
	t.gauge(mirrorMemory, target).Set(float64(f.MemoryBytes))
	t.gauge(mirrorMemoryMax, target).Set(float64(f.MemoryBytesMax))
	t.gauge(mirrorLag, group, source, target).Set(float64(f.LagRecords))
	t.gauge(mirrorUndecided, group, source, target).Set(float64(f.UndecidedRecords))
	t.gauge(mirrorHanging, group, source, target).Set(float64(len(f.Hanging)))
	t.gauge(mirrorDeletions, group, source, target).Set(f.DeletionsBehind)
	t.gauge(mirrorGroupAge, group, source, target).Set(f.GroupAge.Seconds())
	t.gauge(mirrorLagTime, group, source, target).Set(f.LagTime.Seconds())
	t.gauge(mirrorPartitions, group, source, target, "running").Set(float64(f.Running))
	t.gauge(mirrorPartitions, group, source, target, "stopped").Set(float64(f.Partitions - f.Running))
	if len(f.Workers) > 0 {
		t.gauge(mirrorPartitions, group, source, target, "elsewhere").Set(float64(f.Elsewhere))
		t.gauge(mirrorWorkers, group, source, target).Set(float64(len(f.Workers)))
	}
}
