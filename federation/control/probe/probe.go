// Package probe asks a site whether it works and whether its fence holds. It
// knows Kafka, and nothing of shares and moves.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/sitelog"
)

// CanaryTopic takes the records of probes: it is internal to each site, never
// mirrored, and has a partition for each broker (C44).
const CanaryTopic = spillway.InternalTopicPrefix + "canary"

// canaryConfig keeps next to nothing.
var canaryConfig = map[string]string{"retention.ms": "60000", "segment.ms": "60000", "cleanup.policy": "delete"}

// Result of a probe. A site that takes writes in some partitions only is up, but
// Failing names what is broken.
type Result struct {
	Failing string // why some canary does not work; empty: all do
	Brokers int
}

// Site asks for metadata and sends a record through every canary partition: a
// broker whose disk is full still answers metadata. An error means that the site
// does not work at all.
func Site(ctx context.Context, cluster broker.Cluster) (Result, error) {
	md, err := cluster.Metadata(ctx, CanaryTopic)
	if err != nil {
		return Result{}, err
	}
	topic, ok := md.Topics[CanaryTopic]
	if !ok || len(topic.Partitions) == 0 {
		err := cluster.Admin().CreateTopic(ctx, CanaryTopic, int32(max(1, len(md.Nodes))), -1, canaryConfig)
		if err != nil && !errors.Is(err, broker.ErrTopicExists) {
			return Result{}, fmt.Errorf("create the canary topic: %w", err)
		}
		if md, err = cluster.Metadata(ctx, CanaryTopic); err != nil {
			return Result{}, err
		}
		topic = md.Topics[CanaryTopic]
	}
	r := Result{Brokers: len(md.Nodes)}
	if len(topic.Partitions) == 0 {
		return r, errors.New("the canary topic has no partitions")
	}
	faults := canaries(ctx, cluster, topic.Partitions)
	working, first := 0, -1
	for i, err := range faults {
		switch {
		case err == nil:
			working++
		case first < 0:
			first = i
		}
	}
	if first >= 0 {
		r.Failing = fmt.Sprintf("%s-%d: %v", CanaryTopic, topic.Partitions[first].Partition, faults[first])
		if others := len(faults) - working - 1; others > 0 {
			r.Failing += fmt.Sprintf(" (and %d more of %d canaries)", others, len(faults))
		}
	}
	if working == 0 {
		_ = cluster.Refresh(ctx) // the next probe looks for leaders again
		return r, fmt.Errorf("no canary partition takes a record: %w", errors.Join(faults...))
	}
	return r, nil
}

// canariesAtOnce bounds the connections of one probe. It is far above the brokers of
// a site: those that hang must leave room for those that work.
const canariesAtOnce = 1000

// canaries tries all of them at once, so that each has the whole time: the leader of
// one may take connections and never answer, and what it used up of a common time
// the others would lack, until the site looked dead.
func canaries(ctx context.Context, cluster broker.Cluster, partitions []broker.PartitionMetadata) []error {
	faults, turns := make([]error, len(partitions)), make(chan struct{}, canariesAtOnce)
	var wg sync.WaitGroup
	for i, p := range partitions {
		wg.Go(func() {
			select {
			case turns <- struct{}{}:
				defer func() { <-turns }()
				faults[i] = canary(ctx, cluster, spillway.TopicPartition{Topic: CanaryTopic, Partition: p.Partition}, p.Leader)
			case <-ctx.Done():
				faults[i] = ctx.Err()
			}
		})
	}
	wg.Wait()
	return faults
}

// canary produces one record with acks=all and fetches it back.
func canary(ctx context.Context, cluster broker.Cluster, tp spillway.TopicPartition, leader int32) error {
	if leader < 0 {
		return broker.ErrNoLeader
	}
	c, err := cluster.Dial(ctx, leader)
	if err != nil {
		return err
	}
	defer c.Close()
	now := time.Now().UnixMilli()
	b, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, Magic: 2, BaseTimestamp: now, MaxTimestamp: now, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1},
		[]batch.Record{{Value: binary.BigEndian.AppendUint64(nil, uint64(now))}}, 0)
	if err != nil {
		return err
	}
	timeout := time.Second
	if at, ok := ctx.Deadline(); ok {
		timeout = max(time.Millisecond, time.Until(at))
	}
	done, err := sitelog.ProduceOne(ctx, c, sitelog.ProducePart{TopicPartition: tp, Batch: b}, timeout)
	if err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	got, err := sitelog.Fetch(ctx, c, []sitelog.FetchPart{{TopicPartition: tp, Offset: done.Base, BytesMax: 4096}}, sitelog.FetchOptions{MaxWait: timeout / 2, BytesMax: 4096, Uncommitted: true})
	switch {
	case err != nil:
		return fmt.Errorf("fetch: %w", err)
	case len(got) != 1 || got[0].Err != nil:
		return fmt.Errorf("fetch at %d refused", done.Base)
	case len(got[0].Records) == 0:
		return fmt.Errorf("fetch at %d: the record that was acknowledged is not there", done.Base)
	}
	return nil
}

// Fenced tells whether every leader refuses this principal's writes to the
// partitions, or, with want false, whether every leader takes them. It sends a
// batch that no broker can append: authorization is checked first, so the answer
// tells which check refused it, and nothing is ever written (C24).
func Fenced(ctx context.Context, cluster broker.Cluster, tps []spillway.TopicPartition, want bool) (bool, error) {
	leaders := map[int32][]sitelog.ProducePart{}
	for _, tp := range tps {
		leader, err := cluster.Leader(ctx, tp)
		if err != nil {
			return false, fmt.Errorf("probe the fence of %s: %w", tp, err)
		}
		leaders[leader] = append(leaders[leader], sitelog.ProducePart{TopicPartition: tp, Batch: unappendable()})
	}
	for leader, parts := range leaders {
		ok, err := fencedAt(ctx, cluster, leader, parts, want)
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// Takes tells whether the leaders that can be reached, each within so long, take this
// principal's writes. No leader answers: that is an error.
// It is for a site that is to serve again: a broker that hangs serves nobody, and must
// not keep the others from doing so.
func Takes(ctx context.Context, cluster broker.Cluster, leaders map[int32][]spillway.TopicPartition, each time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var faults []error
	refused := false
	for leader, tps := range leaders {
		wg.Go(func() {
			parts := make([]sitelog.ProducePart, 0, len(tps))
			for _, tp := range tps {
				parts = append(parts, sitelog.ProducePart{TopicPartition: tp, Batch: unappendable()})
			}
			ok, err := fencedAt(ctx, cluster, leader, parts, false)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, err)
			} else if !ok {
				refused = true
				cancel() // the others would change nothing
			}
		})
	}
	wg.Wait()
	if refused {
		return false, nil
	}
	if len(faults) == len(leaders) && len(leaders) > 0 {
		return false, fmt.Errorf("no leader says whether it takes writes: %w", errors.Join(faults...))
	}
	return true, nil
}

func fencedAt(ctx context.Context, cluster broker.Cluster, leader int32, parts []sitelog.ProducePart, want bool) (bool, error) {
	var c *conn.Conn
	c, err := cluster.Dial(ctx, leader)
	if err != nil {
		return false, fmt.Errorf("probe the fence at broker %d: %w", leader, err)
	}
	defer c.Close()
	done, err := sitelog.Produce(ctx, c, parts, time.Second)
	if err != nil {
		return false, fmt.Errorf("probe the fence at broker %d: %w", leader, err)
	}
	for _, d := range done {
		switch {
		case errors.Is(d.Err, kerr.TopicAuthorizationFailed):
			if !want {
				return false, nil
			}
		case d.Err == nil:
			return false, fmt.Errorf("probe of %s: the broker took a batch with a wrong checksum", d.TopicPartition)
		case errors.Is(d.Err, kerr.NotLeaderForPartition), errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			return false, cluster.Refresh(ctx)
		default: // refused as corrupt: the principal may write
			if want {
				return false, nil
			}
		}
	}
	return true, nil
}

// unappendable is a batch whose checksum is wrong.
func unappendable() []byte {
	b := batch.Empty(0, 1)
	b[17] ^= 0xff // within the CRC field
	return b
}
