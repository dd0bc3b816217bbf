package maptopic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/sitelog"
)

// Bounds of a Writer's requests.
const (
	writeBytesMax = 1 << 20 // of one batch, unless one entry is larger
	topicBytesMax = 16 << 20
	writeTimeout  = 10 * time.Second
	writePause    = 100 * time.Millisecond
)

// Writer appends to the map topic of one site. Calls of Save at the same time
// share requests; the topic's order is the order of their arrival. One process
// has one Writer; stale processes are sorted out by the append sessions that
// their records carry.
type Writer struct {
	// Set once, read by anyone.
	cluster     broker.Cluster
	replication int16
	queue       chan *save
	cancel      context.CancelFunc
	done        chan struct{}

	// Owned by run.
	conn *conn.Conn

	ensure sync.Mutex   // one creation at a time
	saved  atomic.Int64 // see Saved
}

type save struct {
	ctx      context.Context
	may      func() error // asked before each try; nil: always
	entries  []Entry
	position int64
	err      error
	done     chan struct{}
}

// over tells whether nothing of it may be appended any more.
func (s *save) over() bool {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err == nil && s.may != nil {
		s.err = s.may()
	}
	return s.err != nil
}

// NewWriter starts a writer. replication is that of the data; −1 takes the
// cluster's default.
func NewWriter(ctx context.Context, cluster broker.Cluster, replication int16) *Writer {
	ctx, cancel := context.WithCancel(ctx)
	w := &Writer{cluster: cluster, replication: replication, queue: make(chan *save, 1024), cancel: cancel, done: make(chan struct{})}
	w.saved.Store(-1)
	go w.run(ctx)
	return w
}

// Close ends the writing and waits for it.
func (w *Writer) Close() {
	w.cancel()
	<-w.done
}

// EnsureTopic creates the map topic if the site does not have it.
func (w *Writer) EnsureTopic(ctx context.Context) error {
	w.ensure.Lock()
	defer w.ensure.Unlock()
	md, err := w.cluster.Metadata(ctx, spillway.MapTopic)
	if err != nil {
		return fmt.Errorf("create %s/%s: %w", w.cluster.Site(), spillway.MapTopic, err)
	}
	if t, ok := md.Topics[spillway.MapTopic]; ok && t.ErrorCode == 0 {
		return nil
	}
	configs := map[string]string{
		"cleanup.policy":                 "compact",
		"max.message.bytes":              fmt.Sprint(topicBytesMax),
		"min.compaction.lag.ms":          "3600000", // readers that were away for less see every record
		"segment.ms":                     "3600000", // workers write each second, and what is in the newest segment stays
		"message.timestamp.type":         "CreateTime",
		"unclean.leader.election.enable": "false", // a map that lost its end contradicts the log (C14)
	}
	if w.replication >= 3 {
		configs["min.insync.replicas"] = "2"
	}
	err = w.cluster.Admin().CreateTopic(ctx, spillway.MapTopic, 1, w.replication, configs)
	if err != nil && !errors.Is(err, broker.ErrTopicExists) {
		return fmt.Errorf("create %s/%s: %w", w.cluster.Site(), spillway.MapTopic, err)
	}
	return nil
}

// Saved is the position of the last entry that was appended, -1 before the first. Whatever
// a finished Save has appended lies there or before.
func (w *Writer) Saved() int64 { return w.saved.Load() }

// Save appends the entries in their order and returns the map position of the
// last one once all in-sync replicas have them. It tries until ctx ends; then
// it is open whether they were appended, but no new try begins.
func (w *Writer) Save(ctx context.Context, entries ...Entry) (position int64, err error) {
	return w.SaveWhile(ctx, nil, entries...)
}

// SaveWhile is Save as long as may has no error, which is then that of the call: it is
// asked directly before each batch is sent, for what is late must not be appended at all.
// What was sent may arrive, as long as the network lets it.
func (w *Writer) SaveWhile(ctx context.Context, may func() error, entries ...Entry) (position int64, err error) {
	if len(entries) == 0 {
		return -1, nil
	}
	s := &save{ctx: ctx, may: may, entries: entries, done: make(chan struct{})}
	select {
	case w.queue <- s:
	case <-ctx.Done():
		return -1, fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, ctx.Err())
	case <-w.done:
		return -1, fmt.Errorf("save to %s/%s: the writer was closed", w.cluster.Site(), spillway.MapTopic)
	}
	select {
	case <-s.done:
		return s.position, s.err
	case <-ctx.Done():
		return -1, fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, ctx.Err())
	case <-w.done:
		return -1, fmt.Errorf("save to %s/%s: the writer was closed", w.cluster.Site(), spillway.MapTopic)
	}
}

func (w *Writer) run(ctx context.Context) {
	defer close(w.done)
	defer func() {
		if w.conn != nil {
			w.conn.Close()
		}
	}()
	for {
		var saves []*save
		select {
		case s := <-w.queue:
			saves = append(saves, s)
		case <-ctx.Done():
			return
		}
		for full := false; !full && len(saves) < 256; {
			select {
			case s := <-w.queue:
				saves = append(saves, s)
			default:
				full = true
			}
		}
		err := w.write(ctx, saves)
		for _, s := range saves {
			if s.err != nil {
				s.err = fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, s.err)
			} else {
				s.err = err
			}
			close(s.done)
		}
	}
}

// piece is one entry of a save.
type piece struct {
	of    *save
	entry int
}

// write appends what the saves hold, as few batches as fit. An append whose
// answer is lost is repeated: readers take the same record twice without harm.
func (w *Writer) write(ctx context.Context, saves []*save) error {
	var pieces []piece
	size := 0
	for _, s := range saves {
		for i, e := range s.entries {
			n := len(e.Key) + len(e.Value) + 32
			if size+n > writeBytesMax {
				if err := w.append(ctx, pieces); err != nil {
					return err
				}
				pieces, size = nil, 0
			}
			pieces = append(pieces, piece{s, i})
			size += n
		}
	}
	return w.append(ctx, pieces)
}

// batchOf makes one batch of the pieces.
func batchOf(pieces []piece) ([]byte, error) {
	records := make([]batch.Record, len(pieces))
	for i, p := range pieces {
		e := p.of.entries[p.entry]
		records[i] = batch.Record{OffsetDelta: int32(i), Key: []byte(e.Key), Value: e.Value}
	}
	h := batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	return batch.Rebuild(h, records, batch.None)
}

// append tries until it is acknowledged or ctx ends, except where the broker
// says that it never will be. What is over is left out of the next try.
func (w *Writer) append(ctx context.Context, pieces []piece) error {
	for {
		err := w.connect(ctx) // may take long
		if pieces = due(pieces); len(pieces) == 0 {
			return nil
		}
		b, broken := batchOf(pieces)
		if broken != nil {
			return fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, broken)
		}
		var base int64
		if err == nil {
			base, err = w.send(ctx, b)
		}
		if err == nil {
			for i, p := range pieces {
				p.of.position = base + int64(i)
				w.saved.Store(p.of.position)
			}
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, errors.Join(ctx.Err(), err))
		case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord),
			errors.Is(err, kerr.CorruptMessage), errors.Is(err, kerr.TopicAuthorizationFailed):
			return fmt.Errorf("save to %s/%s: %w", w.cluster.Site(), spillway.MapTopic, err)
		}
		if w.conn != nil {
			w.conn.Close()
			w.conn = nil
		}
		if errors.Is(err, broker.ErrUnknownTopic) || errors.Is(err, kerr.UnknownTopicOrPartition) {
			_ = w.EnsureTopic(ctx) // met again by the next try
		}
		if sitelog.Pause(ctx, writePause) == nil {
			_ = w.cluster.Refresh(ctx) // met again by the next try
		}
	}
}

// due are the pieces of saves that are not over. A save is asked once, so that all of it is
// in the batch or nothing.
func due(pieces []piece) []piece {
	var asked *save
	over := false
	return slices.DeleteFunc(pieces, func(p piece) bool {
		if p.of != asked {
			asked, over = p.of, p.of.over()
		}
		return over
	})
}

// connect waits until the leader takes a batch.
func (w *Writer) connect(ctx context.Context) error {
	if w.conn == nil {
		node, err := w.cluster.Leader(ctx, topic)
		if err != nil {
			return err
		}
		if w.conn, err = w.cluster.Dial(ctx, node); err != nil {
			return err
		}
	}
	return w.conn.Unmuted(ctx)
}

// send appends one batch and returns the position of its first entry.
func (w *Writer) send(ctx context.Context, b []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout+5*time.Second)
	defer cancel()
	answer, err := sitelog.ProduceOne(ctx, w.conn, sitelog.ProducePart{TopicPartition: topic, Batch: b}, writeTimeout)
	if err != nil {
		return -1, err
	}
	return int64(answer.Base), nil
}
