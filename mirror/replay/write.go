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
)

// AnswerMax is how long a gateway may hold a batch; then it has written it, or never will.
const AnswerMax = 10 * time.Second

// errAnew: what was compared may not be true any more; compare again.
var errAnew = errors.New("the log has changed since it was compared")

// writer appends the missing records of a range, in their order.
type writer struct {
	*run
	log  *virtualLog
	done *Range

	records []mirror.UnreplicatedRecord // not written yet
	bytes   int
	codec   batch.Codec
	conn    *conn.Conn
}

// write writes what is missing. With errAnew a part of it is written, as after a move:
// what comes behind is compared first.
func (r *run) write(ctx context.Context, f found, topic topicSettings, done *Range) error {
	w := &writer{run: r, log: f.log, done: done}
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
	w.done.Written += int64(len(w.records))
	w.records, w.bytes = w.records[:0], 0
	if w.Progress != nil {
		w.Progress(*w.done)
	}
	return w.at(StepWritten)
}

func (w *writer) batch() ([]byte, error) {
	h := batch.Header{BaseTimestamp: w.records[0].Timestamp, LeaderEpoch: -1, ProducerID: w.log.own, BaseSequence: w.log.next}
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

// append sends a batch once. After an unsure answer what comes behind is compared anew.
func (w *writer) append(ctx context.Context, b []byte) error {
	if err := w.may(ctx); err != nil {
		return err
	}
	n := int64(len(w.records))
	next := batch.NextSequence(w.log.next, int32(n))
	base, err := w.send(ctx, b)
	switch {
	case err == nil && base < max(w.log.written, w.log.at):
		return errAnew // an older batch of the same sequence was found, maybe of another run
	case err == nil:
		w.log.next, w.log.written = next, base+spillway.LocalOffset(n)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(ended)):
		return err
	case errors.Is(err, kerr.DuplicateSequenceNumber), errors.Is(err, kerr.OutOfOrderSequenceNumber), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.UnknownProducerID):
		return fmt.Errorf("%w (%w)", errAnew, err) // another run was here, or the end of an earlier one
	case !kerr.IsRetriable(err) && isKafka(err):
		return refuse("the records from offset %d on are not taken: %w; export the records, and write back what is wanted", w.records[0].Virtual, err)
	}
	w.log.unsure = unsure{next: next, records: n, err: err}
	w.hangUp()
	if err := w.again(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w (%w)", errAnew, err)
}

// may tells whether the next batch may go: the run is the only one, and the term is the
// one of the comparison. In another one an earlier batch may be lost, and this one would
// come before it.
func (w *writer) may(ctx context.Context) error {
	if w.Holds != nil {
		if err := w.Holds(); err != nil {
			return err
		}
	}
	terms, err := w.Terms(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w (%w)", errAnew, err)
	case terms.current() != w.log.terms.current():
		return errAnew
	}
	return nil
}

// send returns where the batch lies.
func (w *writer) send(ctx context.Context, b []byte) (spillway.LocalOffset, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*AnswerMax)
	defer cancel()
	if w.conn == nil {
		node, err := w.Virtual.Leader(ctx, w.log.tp)
		if err != nil {
			return 0, err
		}
		if w.conn, err = w.Virtual.Dial(ctx, node); err != nil {
			return 0, err
		}
	}
	if err := w.conn.Unmuted(ctx); err != nil {
		return 0, err
	}
	w.sent = time.Now()
	answer := sitelog.Send(ctx, w.conn, []sitelog.ProducePart{{TopicPartition: w.log.tp, Batch: b}}, AnswerMax)
	if err := w.at(StepSent); err != nil {
		return 0, ended{err}
	}
	produced, err := answer(ctx)
	if err != nil {
		return 0, err
	}
	w.sent = time.Time{}
	if len(produced) != 1 {
		return 0, fmt.Errorf("%d partitions in the answer for one", len(produced))
	}
	return produced[0].Base, produced[0].Err
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
