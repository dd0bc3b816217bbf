package brokertest

import (
	"testing"
	"time"

	"spillway"
)

// logDirs: every broker tells where its logs are, how large those are that one asks for,
// and, where it is declared, how much room there is.
func logDirs(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	other := f.topic(1, nil)
	f.append(tp, plain(100, time.Now()))
	f.append(other, plain(1, time.Now()))
	md, err := f.Cluster.Metadata(f.ctx)
	f.must(err)
	brokers, err := f.admin.LogDirs(f.ctx, []spillway.TopicPartition{tp})
	f.must(err)
	if len(brokers) != len(md.Nodes) {
		t.Errorf("%d brokers told their directories, of %d", len(brokers), len(md.Nodes))
	}
	size, room := int64(0), true
	for node, dirs := range brokers {
		for _, d := range dirs {
			if d.Offline || d.Path == "" {
				t.Errorf("broker %d: %+v", node, d)
			}
			size += d.Sizes[tp]
			if _, told := d.Sizes[other]; told || len(d.Sizes) > 1 {
				t.Errorf("broker %d tells of what nobody asked for: %+v", node, d)
			}
			if (d.TotalBytes < 0) != (d.UsableBytes < 0) || d.UsableBytes > d.TotalBytes {
				t.Errorf("broker %d: %d bytes usable of %d", node, d.UsableBytes, d.TotalBytes)
			}
			room = room && d.TotalBytes > 0
		}
	}
	if size < 100 {
		t.Errorf("100 records take %d bytes", size)
	}
	f.declared("DiskSpace", room, f.can.DiskSpace)
	// Without partitions one is told of directories all the same.
	brokers, err = f.admin.LogDirs(f.ctx, nil)
	f.must(err)
	for node, dirs := range brokers {
		for _, d := range dirs {
			if len(d.Sizes) > 0 {
				t.Errorf("broker %d tells of what nobody asked for: %+v", node, d)
			}
		}
		if f.can.DiskSpace && (len(dirs) == 0 || dirs[0].TotalBytes <= 0) {
			t.Errorf("broker %d: %+v", node, dirs)
		}
	}
}

// features: what the cluster has finalized agrees with what it does.
func features(t *testing.T, f *fixture) {
	levels, err := f.admin.Features(f.ctx)
	f.must(err)
	if f.can.Replicas && levels["metadata.version"] < 1 { // a cluster of several brokers has it
		t.Errorf("metadata.version is %d, of %v", levels["metadata.version"], levels)
	}
	f.declared("ConsumerGroupV2", levels["group.version"] >= 1, f.can.ConsumerGroupV2)
}
