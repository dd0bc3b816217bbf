package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"
)

// LineBytesMax bounds one line of a history that is read.
const LineBytesMax = 1 << 20

// Recorder writes a history. It is safe for concurrent use; events come out in
// the order of their times.
type Recorder struct {
	mu  sync.Mutex
	w   *bufio.Writer
	now func() time.Time
	// last keeps times rising even where the wall clock does not.
	last int64
	n    int64
	err  error
}

// NewRecorder records to w. The caller calls Flush at the end, and closes w.
func NewRecorder(w io.Writer) *Recorder {
	return &Recorder{w: bufio.NewWriterSize(w, 64<<10), now: time.Now}
}

// Record stamps e with the present time and writes it. A write error is kept
// for Flush: a client cannot do anything about it.
func (r *Recorder) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record(&e)
}

// RecordAll writes events that were made at the same moment.
func (r *Recorder) RecordAll(es []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range es {
		r.record(&es[i])
	}
}

func (r *Recorder) record(e *Event) {
	e.Time = max(r.now().UnixNano(), r.last)
	r.last = e.Time
	r.n++
	if r.err != nil {
		return
	}
	b, err := json.Marshal(e)
	if err == nil {
		_, err = r.w.Write(append(b, '\n'))
	}
	r.err = err
}

// Len is the number of events so far.
func (r *Recorder) Len() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// Flush writes out what is buffered and returns the first error of all writes.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.err, r.w.Flush())
}

// Read yields the events of one history, in the order of its lines. Empty
// lines and lines that do not begin with "{" are passed over, so that the
// output of a client may hold its library's log as well. The last line may be
// cut (its writer was killed).
func Read(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewReaderSize(r, 64<<10)
		for n := 1; ; n++ {
			raw, err := readLine(lines)
			whole := err == nil
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Event{}, fmt.Errorf("history, line %d: %w", n, err))
				return
			}
			if raw = bytes.TrimSpace(raw); len(raw) > 0 && raw[0] == '{' {
				var e Event
				switch err := json.Unmarshal(raw, &e); {
				case err == nil:
					if !yield(e, nil) {
						return
					}
				case whole:
					yield(Event{}, fmt.Errorf("history, line %d: %w", n, err))
					return
				}
			}
			if !whole {
				return
			}
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		out = append(out, part...)
		if len(out) > LineBytesMax {
			return nil, fmt.Errorf("longer than %d bytes", LineBytesMax)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return out, err
		}
	}
}

// Merge yields the events of several histories by time. Each of them must be
// in the order of its times; a step back within one is evened out, since what
// counts is the order in which that client wrote.
func Merge(histories ...iter.Seq2[Event, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		type source struct {
			head Event
			next func() (Event, error, bool)
		}
		var open []*source
		for _, h := range histories {
			next, stop := iter.Pull2(h)
			defer stop()
			e, err, ok := next()
			if err != nil {
				yield(Event{}, err)
				return
			}
			if ok {
				open = append(open, &source{head: e, next: next})
			}
		}
		for len(open) > 0 {
			first := 0
			for i, s := range open {
				if s.head.Time < open[first].head.Time {
					first = i
				}
			}
			s := open[first]
			if !yield(s.head, nil) {
				return
			}
			e, err, ok := s.next()
			switch {
			case err != nil:
				yield(Event{}, err)
				return
			case !ok:
				open = slices.Delete(open, first, first+1)
			default:
				e.Time = max(e.Time, s.head.Time)
				s.head = e
			}
		}
	}
}

// All yields events that are already in memory.
func All(es []Event) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
	}
}
