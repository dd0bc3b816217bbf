package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
)

// describeLogDirsRoom is the first version that tells the room of volumes (KIP-827).
const describeLogDirsRoom = 4

// logDirsAtOnce is how many brokers are asked for their directories at the same time.
const logDirsAtOnce = 16

// LogDirs implements broker.Admin: it asks every node.
func (a *admin) LogDirs(ctx context.Context, tps []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	c := a.cluster
	meta := kmsg.NewPtrMetadataRequest()
	meta.Topics = []kmsg.MetadataRequestTopic{}
	m, err := c.metadata(ctx, meta)
	if err != nil {
		return nil, err
	}
	byTopic := map[string][]int32{}
	for _, tp := range tps {
		byTopic[tp.Topic] = append(byTopic[tp.Topic], tp.Partition)
	}
	topics := []kmsg.DescribeLogDirsRequestTopic{} // not nil, which asks for all
	for name, partitions := range byTopic {
		topics = append(topics, kmsg.DescribeLogDirsRequestTopic{Topic: name, Partitions: partitions})
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	found, faults := map[int32][]broker.LogDir{}, []error{}
	turn := make(chan struct{}, logDirsAtOnce)
	for _, n := range m.Nodes {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			dirs, err := a.logDirsOf(ctx, n.ID, topics)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, fmt.Errorf("site %s: DescribeLogDirs of broker %d: %w", c.config.Site, n.ID, err))
				return
			}
			found[n.ID] = dirs
		})
	}
	wg.Wait()
	return found, errors.Join(faults...)
}

func (a *admin) logDirsOf(ctx context.Context, node int32, topics []kmsg.DescribeLogDirsRequestTopic) (dirs []broker.LogDir, err error) {
	c := a.cluster
	err = c.retry(ctx, func() error {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Topics = topics
		answer, err := c.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.DescribeLogDirsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return sentinel(err)
		}
		if resp.Version < describeLogDirsCodes && len(resp.Dirs) == 0 {
			return fmt.Errorf("%w: it tells no directories", broker.ErrNotAuthorized)
		}
		dirs, err = logDirs(resp, c.Capabilities().DiskSpace)
		return err
	})
	return dirs, err
}

// describeLogDirsCodes is the first version that says when it tells nothing (before, an
// answer without directories is for those who may not ask).
const describeLogDirsCodes = 3

func logDirs(resp *kmsg.DescribeLogDirsResponse, room bool) ([]broker.LogDir, error) {
	dirs := make([]broker.LogDir, 0, len(resp.Dirs))
	for _, d := range resp.Dirs {
		dir := broker.LogDir{Path: d.Dir, TotalBytes: -1, UsableBytes: -1, Sizes: map[spillway.TopicPartition]int64{}}
		switch err := kerr.ErrorForCode(d.ErrorCode); {
		case errors.Is(err, kerr.KafkaStorageError):
			dir.Offline = true
		case err != nil:
			return nil, fmt.Errorf("directory %s: %w", d.Dir, sentinel(err))
		case room:
			dir.TotalBytes, dir.UsableBytes = d.TotalBytes, d.UsableBytes
		}
		for _, t := range d.Topics {
			for _, p := range t.Partitions {
				if !p.IsFuture { // on its way to this directory, and counted where it is
					dir.Sizes[spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = p.Size
				}
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// apiVersionsV3 is the first version with features.
const apiVersionsV3 = 3

// Features implements broker.Admin.
func (a *admin) Features(ctx context.Context) (levels map[string]int16, err error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "spillway", "1"
	err = a.cluster.retry(ctx, func() error {
		answer, err := a.cluster.any(ctx, req, apiVersionsV3)
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.ApiVersionsResponse)
		levels = make(map[string]int16, len(resp.FinalizedFeatures))
		for _, f := range resp.FinalizedFeatures {
			levels[f.Name] = f.MaxVersionLevel
		}
		return sentinel(kerr.ErrorForCode(resp.ErrorCode))
	})
	if err != nil {
		return nil, fmt.Errorf("site %s: ApiVersions: %w", a.cluster.config.Site, err)
	}
	return levels, nil
}
