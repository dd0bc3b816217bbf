package replay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror"
	"spillway/mirror/sitelog"
)

// Source is where the unreplicated records are.
type Source interface {
	UnreplicatedBatches(ctx context.Context, r mirror.UnreplicatedRange, visit func(mirror.UnreplicatedBatch) error) error
	ReplayedUnreplicated(ctx context.Context, r mirror.UnreplicatedRange, detail string) error
}

// Config of a replay.
type Config struct {
	Cluster string // name of the virtual cluster
	Source  Source
	Ranges  []mirror.UnreplicatedRange // those that are not open are left out
	// Virtual is the virtual cluster, as its gateways show it to any client.
	Virtual broker.Cluster
	// Terms of the share, as they are now. An error: it is not served.
	Terms func(context.Context) (Terms, error)
	// Holds, if not nil, is asked before each write whether this run is still the only one;
	// its error ends the run.
	Holds func() error
	// DryRun: only find out what would be written.
	DryRun   bool
	Who, Why string
	// PatienceMax is how long it waits for a gateway that serves; 0: PatienceMax.
	PatienceMax time.Duration
	// BatchRecordsMax bounds one batch that is written; 0: BatchRecordsMax.
	BatchRecordsMax int

	// Progress, if not nil, is told what has been done of a range after each write.
	Progress func(Range)
	// At, if not nil, is called at each of the steps below; its error ends the run there,
	// as if the process had been killed. For tests.
	At func(step Step) error
}

// PatienceMax is how long a run waits for a gateway that serves the share, as it moves.
const PatienceMax = time.Minute

// Step of a run at which it may end.
type Step string

// The steps, in their order, for each range.
const (
	StepCompared Step = "compared" // nothing is written yet
	StepSent     Step = "sent"     // a batch is on its way, its answer did not come
	StepWritten  Step = "written"  // a batch is there, and nothing was noted
	StepChecked  Step = "checked"  // all is there, the range is not marked
)

// Range is what becomes of one range. Without a dry run Write has become Written.
type Range struct {
	mirror.UnreplicatedRange
	Records int64 `json:"records"` // that count: neither aborted nor undecided
	// Numbered and There are in the log of the virtual cluster already: known by the
	// numbers of their producers, and by content.
	Numbered   int64 `json:"alreadyThereByNumber"`
	There      int64 `json:"alreadyThereByContent"`
	Superseded int64 `json:"superseded"` // their keys have newer records (compacted topics)
	Write      int64 `json:"write"`      // to be written
	Written    int64 `json:"written"`    // by this run
	// CannotTell of those to be written came from producers without idempotence. Had
	// their applications written them again under another time stamp, that would not
	// be recognised.
	CannotTell int64 `json:"cannotTell"`
	// InTransactions are records of open transactions of the virtual cluster with the
	// content of one that is to be written, or was: if they are committed, it is there twice.
	InTransactions int64     `json:"inOpenTransactions"`
	First          time.Time `json:"first,omitzero"` // of those to be written, by their own time stamps
	Last           time.Time `json:"last,omitzero"`
	Refused        string    `json:"refused,omitempty"` // why not all of the range is written
	Done           bool      `json:"done"`              // marked as replayed
}

// refused is the error of one range. The others have nothing to do with it.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

func refuse(format string, a ...any) error { return refused{fmt.Errorf(format, a...)} }

// silent is the error of a partition that no gateway tells of. The run ends with it where
// they tell of no other one either.
type silent struct{ error }

func (s silent) Unwrap() error { return s.error }

type run struct {
	Config
	topics map[string]topicSettings
	// sent is when the last batch left that nobody has answered. Until AnswerMax behind it
	// a gateway may still write it.
	sent time.Time
}

// ErrUnanswered: the run ended while a batch was on its way. For AnswerMax nobody else may
// write.
var ErrUnanswered = errors.New("a batch is still on its way")

func (r *run) patience() time.Time { return time.Now().Add(r.PatienceMax) }

func (r *run) at(s Step) error {
	if r.At == nil {
		return nil
	}
	return r.At(s)
}

// Run replays the open ranges, or with DryRun says what that would write. A range that
// cannot be read or written is refused, and the others go on. What it returns is true also
// with an error, which is of ctx, of the store, or that nobody serves; a later run goes on
// from there.
func Run(ctx context.Context, c Config) ([]Range, error) {
	if c.PatienceMax == 0 {
		c.PatienceMax = PatienceMax
	}
	if c.BatchRecordsMax == 0 {
		c.BatchRecordsMax = BatchRecordsMax
	}
	r := &run{Config: c, topics: make(map[string]topicSettings)}
	ranges := slices.DeleteFunc(slices.Clone(c.Ranges), func(u mirror.UnreplicatedRange) bool { return !u.Open() })
	// Older epochs first: of one key the newest record comes last.
	slices.SortStableFunc(ranges, func(a, b mirror.UnreplicatedRange) int { return int(a.Epoch) - int(b.Epoch) })
	done := make([]Range, 0, len(ranges))
	for _, u := range ranges {
		result, err := r.replay(ctx, u)
		if ctx.Err() == nil && (errors.As(err, new(refused)) || errors.As(err, new(silent)) && r.others(ctx, u, ranges)) {
			result.Refused, err = err.Error(), nil
		}
		done = append(done, result)
		if err != nil {
			err = fmt.Errorf("replay %s-%d [%d,%d) of site %s: %w", u.Topic, u.Partition, u.From, u.To, u.Site, err)
			if !r.sent.IsZero() {
				err = fmt.Errorf("%w (%w)", err, ErrUnanswered)
			}
			return done, err
		}
	}
	return done, nil
}

// Bounds of asking for other partitions, where one is silent.
const (
	othersMax  = 8
	othersWait = 2 * time.Second // for each
)

// others tells whether gateways tell of another partition of the share.
func (r *run) others(ctx context.Context, u mirror.UnreplicatedRange, ranges []mirror.UnreplicatedRange) bool {
	asked := map[spillway.TopicPartition]bool{{Topic: u.Topic, Partition: u.Partition}: true}
	for _, other := range ranges {
		tp := spillway.TopicPartition{Topic: other.Topic, Partition: other.Partition}
		if asked[tp] || len(asked) > othersMax {
			continue
		}
		asked[tp] = true
		within, cancel := context.WithTimeout(ctx, othersWait)
		_, err := r.Virtual.Admin().HighWatermarks(within, []spillway.TopicPartition{tp})
		cancel()
		if err == nil {
			return true
		}
	}
	return false
}

// Pauses between two tries, and between two looks for what will be there by itself.
const (
	retryPause = 300 * time.Millisecond
	lookPause  = 2 * time.Second // the range is read each time
)

// replay compares, writes what is missing, and compares again until nothing is (R5).
func (r *run) replay(ctx context.Context, u mirror.UnreplicatedRange) (Range, error) {
	done := Range{UnreplicatedRange: u}
	topic, err := r.settings(ctx, u.Topic)
	if err != nil {
		return done, err
	}
	var log *virtualLog
	left, until := int64(math.MaxInt64), r.patience() // to be written, the fewest so far
	var undecided time.Time                           // until then open transactions are waited for
	risked := int64(0)                                // of their records, when others like them were written
	for {
		terms, err := r.terms(ctx)
		if err != nil {
			return done, err
		}
		if err := r.landed(ctx); err != nil {
			return done, err
		}
		if log == nil || log.terms.current() != terms.current() {
			if log, err = r.begin(ctx, u, topic, terms); err != nil {
				return done, err
			}
			left = math.MaxInt64
		}
		found, err := r.compare(ctx, log, u, topic)
		found.Written = done.Written
		done = found.Range
		done.InTransactions = max(done.InTransactions, risked)
		if err != nil {
			return done, err
		}
		if r.DryRun || done.Refused != "" {
			return done, nil
		}
		if looked, err := r.look(ctx, log, &done); err != nil {
			return done, err
		} else if !looked {
			continue
		}
		if done.Write == 0 {
			// What was read counts only if no move took any of it back meanwhile.
			if terms, err = r.terms(ctx); err != nil {
				return done, err
			}
			if terms.current() == log.terms.current() {
				return r.close(ctx, done)
			}
			continue
		}
		if undecided.IsZero() {
			undecided = r.patience()
		}
		if found.InTransactions > 0 && time.Now().Before(undecided) {
			if err := sitelog.Pause(ctx, lookPause); err != nil {
				return done, err
			}
			continue
		}
		if err := r.further(ctx, done.Write, &left, &until); err != nil {
			return done, err
		}
		if err := r.at(StepCompared); err != nil {
			return done, err
		}
		risked = max(risked, found.InTransactions)
		if err := r.write(ctx, found, topic, &done); err != nil && !errors.Is(err, errAnew) {
			return done, err
		}
	}
}

// landed waits until a batch that nobody answered has been written or never will be. It
// claims its place by its sequence, but not in the next term, nor where its records are so
// old that brokers forget their producer.
func (r *run) landed(ctx context.Context) error {
	if r.sent.IsZero() {
		return nil
	}
	if err := sitelog.Pause(ctx, max(0, time.Until(r.sent.Add(AnswerMax)))); err != nil {
		return err
	}
	r.sent = time.Time{}
	return nil
}

// look looks for the batch of which this run is not sure. False: it is there and not shown
// yet; look again.
func (r *run) look(ctx context.Context, log *virtualLog, done *Range) (looked bool, err error) {
	u := log.unsure
	switch {
	case u.err == nil:
		return true, nil
	case log.next == u.next:
		done.Written += u.records
	case !u.appended(): // nor will it be (landed)
	case time.Now().After(u.until):
		return false, refuse("%d records were written, and are not durable after %s: %w; give the command again when enough sites have them", u.records, r.PatienceMax, u.err)
	default:
		return false, sitelog.Pause(ctx, lookPause)
	}
	log.unsure = unsure{}
	return true, nil
}

// further gives up where less and less was to be written and is not any more.
func (r *run) further(ctx context.Context, write int64, left *int64, until *time.Time) error {
	switch {
	case write < *left:
		*left, *until = write, r.patience()
		return nil
	case time.Now().After(*until):
		return refuse("%d records are missing, and could not be written for %s; give the command again, what is written is recognised", write, r.PatienceMax)
	default:
		return sitelog.Pause(ctx, retryPause)
	}
}

// close marks the range.
func (r *run) close(ctx context.Context, done Range) (Range, error) {
	if err := r.at(StepChecked); err != nil {
		return done, err
	}
	detail := fmt.Sprintf("%s: %s (%d records; the last run wrote %d; superseded: %d)", r.Who, r.Why, done.Records, done.Written, done.Superseded)
	err := r.Source.ReplayedUnreplicated(ctx, done.UnreplicatedRange, detail)
	if errors.Is(err, mirror.ErrDiscarded) {
		done.Discarded = true
		return done, refuse("all is there, but the range was discarded while it was replayed, and stays so")
	}
	if err != nil {
		return done, refuse("all is there, and the range could not be marked: %w; give the command again", err)
	}
	done.Done, done.Replayed = true, true
	return done, nil
}

// batches reads a range. What ends it there is of this range alone, but for visit's errors.
func (r *run) batches(ctx context.Context, u mirror.UnreplicatedRange, visit func(mirror.UnreplicatedBatch) error) error {
	var visited error
	err := r.Source.UnreplicatedBatches(ctx, u, func(b mirror.UnreplicatedBatch) error {
		visited = visit(b)
		return visited
	})
	switch {
	case visited != nil:
		return visited
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, kerr.OffsetOutOfRange):
		return refuse("retention at site %s has taken records of the range, and those that are left are not told apart: %w; what is left is in the log there, give it up with discard", u.Site, err)
	default:
		return refuse("%w; is all well at site %s? Give the command again then", err, u.Site)
	}
}

// found is the outcome of a comparison.
type found struct {
	Range
	fates fates
	log   *virtualLog
}

// begin reads the range.
func (r *run) begin(ctx context.Context, u mirror.UnreplicatedRange, topic topicSettings, terms Terms) (*virtualLog, error) {
	c := newComparison(topic.rules)
	err := r.batches(ctx, u, func(b mirror.UnreplicatedBatch) error {
		p := terms.producer(b.Header, u.Epoch)
		for _, rec := range b.Records {
			one := record{local: rec.Local, key: rec.Key, value: rec.Value, headers: rec.Headers, timestamp: rec.Timestamp, producer: p, sequence: rec.Sequence}
			if err := c.add(one); err != nil {
				return err
			}
		}
		return nil
	})
	tp := spillway.TopicPartition{Topic: u.Topic, Partition: u.Partition}
	return &virtualLog{
		c: c, terms: terms, tp: tp, own: ownProducer(r.Cluster, tp, terms.current()), from: u.From, at: spillway.LocalOffset(u.From),
		begun: spillway.LocalOffset(terms.begun(tp, u.Epoch)), undecided: make(map[int64][]seen),
	}, err
}

// compare reads the virtual cluster's log, and counts what the range has beyond it.
func (r *run) compare(ctx context.Context, log *virtualLog, u mirror.UnreplicatedRange, topic topicSettings) (found, error) {
	out := found{Range: Range{UnreplicatedRange: u}, log: log}
	if err := log.read(ctx, r); err != nil {
		return out, err
	}
	out.fates = log.c.settle()
	out.InTransactions = log.likeMissing(out.fates.fates)
	return out, r.count(ctx, &out, topic)
}

// terms waits for the share to be served.
func (r *run) terms(ctx context.Context) (Terms, error) {
	for until := r.patience(); ; {
		terms, err := r.Terms(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(until) {
			return terms, err
		}
		if err := sitelog.Pause(ctx, retryPause); err != nil {
			return nil, err
		}
	}
}

// count adds up what becomes of the records, and refuses what the topic would.
func (r *run) count(ctx context.Context, out *found, topic topicSettings) error {
	fates, now := out.fates, time.Now()
	return r.batches(ctx, out.UnreplicatedRange, func(b mirror.UnreplicatedBatch) error {
		for _, rec := range b.Records {
			out.Records++
			switch fates.next(rec.Local) {
			case numbered:
				out.Numbered++
			case there:
				out.There++
			case superseded:
				out.Superseded++
			case missing:
				out.Write++
				if rec.Sequence < 0 {
					out.CannotTell++
				}
				at := time.UnixMilli(rec.Timestamp).UTC()
				if out.Write == 1 || at.Before(out.First) {
					out.First = at
				}
				if at.After(out.Last) {
					out.Last = at
				}
				if why := topic.refuses(rec, now); why != "" && out.Refused == "" {
					out.Refused = why
				}
			}
		}
		return nil
	})
}

// topicSettings are those that decide what is written.
type topicSettings struct {
	rules
	beforeMax, afterMax time.Duration // 0: any
	bytesMax            int           // of a batch
	unknown             error         // the topic was deleted
}

// settings waits for a gateway that tells them, and asks once.
func (r *run) settings(ctx context.Context, topic string) (topicSettings, error) {
	if s, known := r.topics[topic]; known {
		return s, s.unknown
	}
	for until, unknown := r.patience(), time.Now().Add(min(unknownMax, r.PatienceMax)); ; {
		settings, err := r.Virtual.Admin().TopicConfigs(ctx, topic)
		switch {
		case err == nil:
			r.topics[topic] = readSettings(settings)
			return r.topics[topic], nil
		case ctx.Err() != nil:
			return topicSettings{}, ctx.Err()
		case errors.Is(err, broker.ErrUnknownTopic) && time.Now().After(unknown):
			s := topicSettings{unknown: refuse("the virtual cluster has no topic %s any more: create it, or give the records up", topic)}
			r.topics[topic] = s
			return s, s.unknown
		case time.Now().After(until):
			return topicSettings{}, fmt.Errorf("read the settings of topic %s: %w", topic, err)
		}
		if err := r.again(ctx); err != nil {
			return topicSettings{}, err
		}
	}
}

func readSettings(settings map[string]broker.ConfigValue) (s topicSettings) {
	s.compacted = strings.Contains(settings["cleanup.policy"].Value, "compact")
	s.appendTime = settings["message.timestamp.type"].Value == "LogAppendTime"
	s.bytesMax = math.MaxInt32
	if n, err := strconv.ParseInt(settings["max.message.bytes"].Value, 10, 32); err == nil {
		s.bytesMax = int(n)
	}
	limit := func(name string) time.Duration {
		n, err := strconv.ParseInt(settings[name].Value, 10, 64)
		if err != nil || n < 0 || n > timestampAnyMax.Milliseconds() {
			return 0
		}
		return max(time.Duration(n)*time.Millisecond, time.Millisecond)
	}
	s.beforeMax, s.afterMax = limit("message.timestamp.before.max.ms"), limit("message.timestamp.after.max.ms")
	return s
}

// timestampAnyMax: from here on a limit of time stamps is none, as time.Duration ends
// after 292 years.
const timestampAnyMax = 250 * 365 * 24 * time.Hour

// refuses tells why the topic does not take the record, or nothing.
func (s topicSettings) refuses(rec mirror.UnreplicatedRecord, now time.Time) string {
	at := time.UnixMilli(rec.Timestamp)
	switch {
	case s.appendTime:
		return ""
	case s.beforeMax > 0 && now.Sub(at) > s.beforeMax:
		return fmt.Sprintf("topic %s takes no records that are older than %s (message.timestamp.before.max.ms), and that of offset %d is of %s; raise the setting for the time of the replay, or export them",
			rec.Topic, s.beforeMax, rec.Virtual, at.UTC().Format(time.RFC3339))
	case s.afterMax > 0 && at.Sub(now) > s.afterMax:
		return fmt.Sprintf("topic %s takes no records that are more than %s ahead (message.timestamp.after.max.ms), and that of offset %d is of %s; raise the setting for the time of the replay, or export them",
			rec.Topic, s.afterMax, rec.Virtual, at.UTC().Format(time.RFC3339))
	default:
		return ""
	}
}
