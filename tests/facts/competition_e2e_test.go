//go:build e2e

package facts

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/tests/cluster/process"
)

// Conditional append (experiments B): two writers send the same batches under
// the same id, five in flight each; one is killed, a third takes over; the log
// must hold every record once, in order.
var competition = fact{
	name:  "conditional append: two writers, one killed, a third takes over",
	probe: compete,
	want:  "every record once and in order, writers were refused in between",
	kfake: "every record once and in order, writers were refused in between",
}

const (
	writerTask    = "SPILLWAY_FACTS_WRITER" // address and topic
	writerBatches = 1500
)

// theBatches are the same for every writer: bytes and boundaries are a function
// of the source alone. As all records are written once, a batch's first offset
// is its first sequence.
func theBatches() (batches [][]byte, firsts []int64, total int64, err error) {
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Now().Truncate(time.Hour).UnixMilli()
	for range writerBatches {
		var records []batch.Record
		for i := range 1 + random.IntN(40) {
			records = append(records, batch.Record{OffsetDelta: int32(i), Value: fmt.Append(nil, total+int64(i))})
		}
		set, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, BaseTimestamp: at, ProducerID: tag + 4, BaseSequence: int32(total)}, records, batch.None)
		if err != nil {
			return nil, nil, 0, err
		}
		batches, firsts = append(batches, set), append(firsts, total)
		total += int64(len(records))
	}
	return batches, firsts, total, nil
}

func compete(t *testing.T, s *site) string {
	topic := s.topic(t)
	_, _, total, err := theBatches()
	must(t, err)
	dir := t.TempDir()
	start := func(name string) *process.Process {
		p, err := process.Start(process.Spec{
			Name: name, Path: os.Args[0], Env: []string{writerTask + "=" + s.address + " " + topic}, Log: filepath.Join(dir, name),
		})
		must(t, err)
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	first, second := start("first"), start("second")
	eventually(t, "a third of the log is written", func() bool { return s.end(t, topic) > total/3 })
	must(t, first.Kill())
	killedAt := s.end(t, topic)
	third := start("third")
	refused := 0
	for name, p := range map[string]*process.Process{"second": second, "third": third} {
		select {
		case <-p.Done():
		case <-time.After(time.Minute):
			t.Fatalf("writer %s is not done after a minute; the log ends at %d of %d", name, s.end(t, topic), total)
		}
		if p.ExitCode() != 0 {
			t.Fatalf("writer %s: %s: %s", name, p.Exit(), p.Tail(5))
		}
		var counts writerCounts
		must(t, json.Unmarshal([]byte(p.Tail(1)), &counts))
		t.Logf("%s: %+v", name, counts)
		refused += counts.Refused
	}
	if killedAt >= total {
		t.Fatal("the first writer was killed after the end; this shows nothing")
	}
	log := s.log(t, topic)
	for i, value := range log {
		if value != fmt.Sprint(i) {
			return fmt.Sprintf("offset %d holds record %s", i, value)
		}
	}
	if int64(len(log)) != total {
		return fmt.Sprintf("%d records instead of %d", len(log), total)
	}
	return "every record once and in order" + map[bool]string{true: ", writers were refused in between", false: ", but nobody was ever refused"}[refused > 0]
}

type writerCounts struct {
	Acknowledged, Refused, Resyncs int
}

// write is the writer's process. On any error it lets everything in flight
// finish, reads the end of the log, and goes on at the batch that starts there.
func write(task string) error {
	address, topic, _ := strings.Cut(task, " ")
	batches, firsts, total, err := theBatches()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := conn.Open(ctx, conn.Config{Site: "facts", Node: -1, Address: address})
	if err != nil {
		return err
	}
	defer c.Close()
	var counts writerCounts
	for {
		end, err := logEnd(ctx, c, topic)
		if err != nil {
			return err
		}
		if end >= total {
			return json.NewEncoder(os.Stdout).Encode(counts)
		}
		next := 0
		for next < len(firsts) && firsts[next] < end {
			next++
		}
		if firsts[next] != end {
			return fmt.Errorf("the log ends at %d, which is no boundary", end)
		}
		if err := writeFrom(ctx, c, topic, batches[next:], &counts); err != nil {
			return err
		}
		counts.Resyncs++
	}
}

// writeFrom writes batches, at most five in flight, until one is refused.
func writeFrom(ctx context.Context, c *conn.Conn, topic string, batches [][]byte, counts *writerCounts) error {
	var flight []*conn.Pending
	refused := false
	for len(flight) > 0 || len(batches) > 0 && !refused {
		if len(batches) > 0 && len(flight) < 5 && !refused {
			if rand.IntN(15) == 0 { // stalls let the other one overtake
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			}
			request := produceRequest(topic, batches[0])
			flight = append(flight, c.Send(ctx, request.Key(), request.Version, true, request.AppendTo(nil)))
			batches = batches[1:]
			continue
		}
		body, err := flight[0].Wait(ctx)
		if err != nil {
			return err
		}
		flight = flight[1:]
		response := kmsg.NewPtrProduceResponse()
		response.Version = produceVersion
		if err := conn.Decode(response, body); err != nil {
			return err
		}
		switch code := response.Topics[0].Partitions[0].ErrorCode; code {
		case 0:
			counts.Acknowledged++
		case 45:
			counts.Refused++
			refused = true
		default:
			return fmt.Errorf("error %d", code)
		}
	}
	return nil
}

func logEnd(ctx context.Context, c *conn.Conn, topic string) (int64, error) {
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Timestamp, partition.CurrentLeaderEpoch = -1, -1
	named := kmsg.NewListOffsetsRequestTopic()
	named.Topic, named.Partitions = topic, append(named.Partitions, partition)
	request.Topics = append(request.Topics, named)
	response, err := c.Do(ctx, request)
	if err != nil {
		return 0, err
	}
	p := response.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return 0, fmt.Errorf("list offsets: error %d", p.ErrorCode)
	}
	return p.Offset, nil
}
