package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror"
	"spillway/mirror/sitelog"
)

// Bounds of one batch that is written, before compression.
const (
	BatchRecordsMax = 500
	batchBytesMax   = 256 << 10 // a larger record goes alone
	writeTimeout    = 30 * time.Second
)

// errAnew: what was compared may not be true any more; compare again.
var errAnew = errors.New("the log has changed since it was compared")

// writer appends the missing records of a range, in their order.
type writer struct {
	*run
	tp   spillway.TopicPartition
	own  int64
	next int32
	done *Range

	records []mirror.UnreplicatedRecord // not written yet
	bytes   int
	codec   batch.Codec
	conn    *conn.Conn
}

// write writes what is missing. With errAnew a part of it is written, as after a move:
// what comes behind is compared first.
func (r *run) write(ctx context.Context, f found, done *Range) error {
	w := &writer{run: r, tp: spillway.TopicPartition{Topic: f.Topic, Partition: f.Partition}, own: f.own, next: f.next, done: done}
	defer w.hangUp()
	fates := f.fates
	err := r.batches(ctx, f.UnreplicatedRange, func(b mirror.UnreplicatedBatch) error {
		for _, rec := range b.Records {
			if fates.next(rec.Local) != missing {
				continue
			}
			if err := w.add(ctx, rec, b.Codec()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.flush(ctx)
}

func (w *writer) add(ctx context.Context, rec mirror.UnreplicatedRecord, codec batch.Codec) error {
	size := len(rec.Key) + len(rec.Value) + 32
	for _, h := range rec.Headers {
		size += len(h.Key) + len(h.Value) + 8
	}
	if len(w.records) > 0 && (len(w.records) == w.BatchRecordsMax || w.bytes+size > batchBytesMax || codec != w.codec) {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.records, w.bytes, w.codec = append(w.records, rec), w.bytes+size, codec
	return nil
}

func (w *writer) flush(ctx context.Context) error {
	if len(w.records) == 0 {
		return nil
	}
	b, err := w.batch()
	if err != nil {
		return err
	}
	if err := w.append(ctx, b); err != nil {
		return err
	}
	n := len(w.records)
	w.next = batch.NextSequence(w.next, int32(n))
	w.done.Written += int64(n)
	w.records, w.bytes = w.records[:0], 0
	if w.Progress != nil {
		w.Progress(*w.done)
	}
	return w.at(StepWritten)
}

func (w *writer) batch() ([]byte, error) {
	h := batch.Header{BaseTimestamp: w.records[0].Timestamp, LeaderEpoch: -1, ProducerID: w.own, BaseSequence: w.next}
	records := make([]batch.Record, 0, len(w.records))
	for i, rec := range w.records {
		out := batch.Record{TimestampDelta: rec.Timestamp - h.BaseTimestamp, OffsetDelta: int32(i), Key: rec.Key, Value: rec.Value}
		for _, header := range rec.Headers {
			out.Headers = append(out.Headers, batch.RecordHeader{Key: header.Key, Value: header.Value})
		}
		records = append(records, out)
	}
	return batch.Rebuild(h, records, w.codec)
}

// append sends a batch until it is there. The same bytes go again after each unsure
// answer: site and gateway know them by their sequences. A move may lie between, so
// what comes behind is compared anew.
func (w *writer) append(ctx context.Context, b []byte) error {
	unsure := false
	for until := w.patience(); ; {
		err := w.send(ctx, b)
		switch {
		case err == nil && unsure:
			return w.anew()
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, new(ended)):
			return err
		case errors.Is(err, kerr.DuplicateSequenceNumber), errors.Is(err, kerr.OutOfOrderSequenceNumber), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.UnknownProducerID):
			return fmt.Errorf("%w (%w)", errAnew, err) // another run was here, or the end of an earlier one
		case !kerr.IsRetriable(err) && isKafka(err):
			return refuse("the records from offset %d on are not taken: %w; export the records, and write back what is wanted", w.records[0].Virtual, err)
		case time.Now().After(until):
			return fmt.Errorf("write %d records, tried for %s: %w; run it again when the group is served, what is written is recognised", len(w.records), w.PatienceMax, err)
		}
		unsure = true
		w.hangUp()
		if err := sitelog.Pause(ctx, retryPause); err != nil {
			return err
		}
		_ = w.Virtual.Refresh(ctx) // gateways that do not answer are met again by the next try
	}
}

// anew counts what was written after an unsure answer, and ends the round.
func (w *writer) anew() error {
	w.done.Written += int64(len(w.records))
	w.records = nil
	return errAnew
}

func (w *writer) send(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if w.conn == nil {
		node, err := w.Virtual.Leader(ctx, w.tp)
		if err != nil {
			return err
		}
		if w.conn, err = w.Virtual.Dial(ctx, node); err != nil {
			return err
		}
	}
	if err := w.conn.Unmuted(ctx); err != nil {
		return err
	}
	answer := sitelog.Send(ctx, w.conn, []sitelog.ProducePart{{TopicPartition: w.tp, Batch: b}}, writeTimeout/2)
	if err := w.at(StepSent); err != nil {
		return ended{err}
	}
	produced, err := answer(ctx)
	if err != nil {
		return err
	}
	if len(produced) != 1 {
		return fmt.Errorf("%d partitions in the answer for one", len(produced))
	}
	return produced[0].Err
}

func (w *writer) hangUp() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// ended is the error of At.
type ended struct{ error }

func (e ended) Unwrap() error { return e.error }

func isKafka(err error) bool {
	var k *kerr.Error
	return errors.As(err, &k)
}
