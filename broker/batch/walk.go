package batch

import "errors"

// Walk goes over the batches of a record set:
//
//	w := batch.Over(set)
//	for w.Next() { use(w.Header, w.Bytes) }
//	if err := w.Err(); err != nil { … }
type Walk struct {
	Header Header
	Bytes  []byte // the whole current batch, a part of the set

	rest      []byte
	truncated bool
	err       error
}

// Over starts a walk.
func Over(set []byte) Walk { return Walk{rest: set} }

// Next goes to the next whole batch. A last batch that is cut off ends the
// walk without an error, as brokers cut record sets at their size limit.
func (w *Walk) Next() bool {
	if len(w.rest) == 0 || w.err != nil || w.truncated {
		return false
	}
	h, rest, err := Parse(w.rest)
	if errors.Is(err, ErrTruncated) {
		w.truncated = true
		return false
	}
	if err != nil {
		w.err = err
		return false
	}
	w.Header, w.Bytes, w.rest = h, w.rest[:h.Size():h.Size()], rest
	return true
}

// Err tells why the walk ended early: ErrMagic or ErrCorrupt.
func (w *Walk) Err() error { return w.err }

// Truncated tells that the set ended inside a batch.
func (w *Walk) Truncated() bool { return w.truncated }

// Rest is what was not walked: after the end, the cut-off batch.
func (w *Walk) Rest() []byte { return w.rest }
