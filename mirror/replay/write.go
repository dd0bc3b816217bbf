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
	batchBytesMax   = 256 << 10 // and what the topic takes, if that is less; a larger record goes alone

	batchHeadBytes  = 61
	recordHeadBytes = 32 // at most: its length, attributes, time, offset, and the lengths of key, value and headers
	headerHeadBytes = 10
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

	recordsMax int // of a batch; less when the topic took no more
	bytesMax   int

	records []mirror.UnreplicatedRecord // not written yet
	bytes   int
	codec   batch.Codec
	conn    *conn.Conn
}

// write writes what is missing. With errAnew a part of it is written, as after a move:
// what comes behind is compared first.
func (r *run) write(ctx context.Context, f found, topic topicSettings, done *Range) error {
	w := &writer{run: r, log: f.log, done: done, recordsMax: r.BatchRecordsMax, bytesMax: min(batchBytesMax, topic.bytesMax) - batchHeadBytes}
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
	size := recordHeadBytes + len(rec.Key) + len(rec.Value)
	for _, h := range rec.Headers {
		size += headerHeadBytes + len(h.Key) + len(h.Value)
	}
	if len(w.records) > 0 && (len(w.records) >= w.recordsMax || w.bytes+size > w.bytesMax || codec != w.codec) {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.records, w.bytes, w.codec = append(w.records, rec), w.bytes+size, codec
	return nil
}

// flush writes what was added, in halves where the topic takes no batch as large. The first
// record goes alone: if something lies before it that was not compared, no other one may.
func (w *writer) flush(ctx context.Context) error {
	for left := w.records; len(left) > 0; {
		n := w.recordsMax
		if !w.log.proved {
			n = 1
		}
		part := left[:min(len(left), n)]
		hidden, err := w.append(ctx, part)
		if (errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)) && len(part) > 1 {
			w.recordsMax = len(part) / 2
			continue
		}
		if err != nil {
			return err
		}
		left = left[len(part):]
		w.done.Written += int64(len(part))
		if w.Progress != nil {
			w.Progress(*w.done)
		}
		if err := w.at(StepWritten); err != nil {
			return err
		}
		if hidden {
			return errAnew
		}
	}
	w.records, w.bytes = w.records[:0], 0
	return nil
}

func (w *writer) batch(of []mirror.UnreplicatedRecord) ([]byte, error) {
	h := batch.Header{BaseTimestamp: of[0].Timestamp, LeaderEpoch: -1, ProducerID: w.log.own, BaseSequence: w.log.next}
	records := make([]batch.Record, 0, len(of))
	for i, rec := range of {
		out := batch.Record{TimestampDelta: rec.Timestamp - h.BaseTimestamp, OffsetDelta: int32(i), Key: rec.Key, Value: rec.Value}
		for _, header := range rec.Headers {
			out.Headers = append(out.Headers, batch.RecordHeader{Key: header.Key, Value: header.Value})
		}
		records = append(records, out)
	}
	return batch.Rebuild(h, records, w.codec)
}

// append sends a batch once. After an unsure answer what comes behind is compared anew.
// hidden: it is the first one, and something lies before it that was not compared.
func (w *writer) append(ctx context.Context, records []mirror.UnreplicatedRecord) (hidden bool, err error) {
	b, err := w.batch(records)
	if err != nil {
		return false, refuse("the records from offset %d on cannot be put into a batch: %w", records[0].Virtual, err)
	}
	if err := w.may(ctx); err != nil {
		return false, err
	}
	n := int64(len(records))
	next, end := batch.NextSequence(w.log.next, int32(n)), max(w.log.written, w.log.at)
	base, err := w.send(ctx, b)
	switch {
	case err == nil && base < end:
		return false, errAnew // an older batch of the same sequence was found, maybe of another run
	case err == nil:
		hidden = !w.log.proved && base > end
		w.log.next, w.log.written, w.log.proved = next, base+spillway.LocalOffset(n), true
		return hidden, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.As(err, new(ended)):
		return false, err
	case errors.Is(err, kerr.DuplicateSequenceNumber), errors.Is(err, kerr.OutOfOrderSequenceNumber), errors.Is(err, kerr.InvalidProducerEpoch), errors.Is(err, kerr.UnknownProducerID):
		return false, fmt.Errorf("%w (%w)", errAnew, err) // another run was here, or the end of an earlier one
	case !kerr.IsRetriable(err) && isKafka(err):
		return false, refuse("the records from offset %d on are not taken: %w; export the records, and write back what is wanted", records[0].Virtual, err)
	}
	w.log.proved = false // it may be there and hidden
	w.log.unsure = unsure{next: next, records: n, err: err, until: w.patience()}
	w.hangUp()
	if err := w.again(ctx); err != nil {
		return false, err
	}
	return false, fmt.Errorf("%w (%w)", errAnew, err)
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
