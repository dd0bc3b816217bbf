//go:build e2e

package mirrors

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/kafka"
	"spillway/mirror/sitelog"
)

// copyTask makes this program the plain copier: addresses of source and target,
// a topic, a topic at the target, its partitions, and follow if it shall not end.
const (
	copyTask = "SPILLWAY_BENCH_COPY"
	follow   = "follow"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(copyTask); task != "" {
		if err := copyTopic(strings.Fields(task)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(contenderMax) // it is killed once what it used was read
		os.Exit(0)
	}
	code := m.Run()
	if err := told.Write(*out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// copyTopic is the lower bound of what a mirror costs: the batches of each
// partition are fetched and produced as they are, one request after the other,
// and nothing is known of holes, offsets, restarts or second copies.
func copyTopic(task []string) error {
	from, err := kafka.New(kafka.Config{Site: "east", Bootstrap: strings.Split(task[0], ",")})
	if err != nil {
		return err
	}
	to, err := kafka.New(kafka.Config{Site: "west", Bootstrap: strings.Split(task[1], ",")})
	if err != nil {
		return err
	}
	partitions, err := strconv.Atoi(task[4])
	if err != nil {
		return err
	}
	ctx := context.Background()
	faults := make([]error, partitions)
	var copies sync.WaitGroup
	for i := range faults {
		copies.Go(func() {
			source, target := spillway.TopicPartition{Topic: task[2], Partition: int32(i)}, spillway.TopicPartition{Topic: task[3], Partition: int32(i)}
			faults[i] = copyPartition(ctx, from, to, source, target, len(task) > 5 && task[5] == follow)
		})
	}
	copies.Wait()
	return errors.Join(faults...)
}

func copyPartition(ctx context.Context, from, to *kafka.Cluster, source, target spillway.TopicPartition, follows bool) error {
	tps := []spillway.TopicPartition{source}
	ends, err := from.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		return err
	}
	leader, err1 := from.Leader(ctx, source)
	leaderThere, err2 := to.Leader(ctx, target)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	in, err1 := from.Dial(ctx, leader)
	out, err2 := to.Dial(ctx, leaderThere)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	defer in.Close()
	defer out.Close()
	for at := spillway.LocalOffset(0); follows || at < ends[source]; {
		fetched, err := sitelog.Fetch(ctx, in, []sitelog.FetchPart{{TopicPartition: source, Offset: at, BytesMax: 2 << 20}}, sitelog.FetchOptions{MaxWait: time.Second, BytesMax: 16 << 20})
		if err != nil {
			return err
		}
		walk := batch.Over(fetched[0].Records)
		for walk.Next() {
			at = spillway.LocalOffset(walk.Header.NextOffset())
			if walk.Header.Control() {
				continue
			}
			batch.Clean(walk.Bytes, -1, -1, -1)
			answers, err := sitelog.Produce(ctx, out, []sitelog.ProducePart{{TopicPartition: target, Batch: walk.Bytes}}, 10*time.Second)
			if err == nil {
				err = answers[0].Err
			}
			if err != nil {
				return err
			}
		}
		if err := errors.Join(fetched[0].Err, walk.Err()); err != nil {
			return err
		}
	}
	return nil
}
