package wire

import "fmt"

// What a decoded message may cost: a multiple of its bytes, and a sum that
// every small message gets.
const (
	requestFactor  = 8
	responseFactor = 32 // a site's broker is trusted further than a client
	costBase       = 64 << 10
)

// Check walks over the body of a request as its schema says. It refuses
// lengths that the body cannot hold, null where the protocol knows none, more
// tagged fields than TagsMax and TagBytesMax allow, arrays that would decode
// to many times the body's size, and bytes that are left over. Only what it
// accepts may be given to kmsg. Errors are ErrMalformed.
func Check(key, version int16, body []byte) error {
	return check(request, key, version, body, requestFactor)
}

// CheckResponse is Check for an answer's body. Null is accepted for every array.
func CheckResponse(key, version int16, body []byte) error {
	return check(response, key, version, body, responseFactor)
}

func check(kind messageKind, key, version int16, body []byte, factor int) error {
	ops, ok := programs()[[3]int16{int16(kind), key, version}]
	if !ok {
		return fmt.Errorf("%w: key %d version %d is not known", ErrMalformed, key, version)
	}
	w := walker{cursor: cursor{rest: body}, lenient: kind == response, budget: costBase + factor*len(body)}
	w.walk(ops)
	if w.err == nil && len(w.rest) > 0 {
		w.fail("%d bytes are left over", len(w.rest))
	}
	if w.err != nil {
		return fmt.Errorf("key %d version %d: %w", key, version, w.err)
	}
	return nil
}

type walker struct {
	cursor
	tagged  tagBudget
	budget  int // what arrays may still cost
	lenient bool
}

func (w *walker) walk(ops []op) {
	for i := range ops {
		if w.err != nil {
			return
		}
		o := &ops[i]
		switch o.letter {
		case 'b':
			w.take(1)
		case 'h':
			w.take(2)
		case 'i':
			w.take(4)
		case 'l':
			w.take(8)
		case 'u':
			w.take(16)
		case 's', 'n':
			w.sized(int64(w.int16()), o.letter == 'n')
		case 'y', 'z':
			w.sized(int64(w.int32()), o.letter == 'z')
		case 'S', 'Y', 'N', 'Z':
			w.sized(int64(w.uvarint())-1, o.letter == 'N' || o.letter == 'Z')
		case '[':
			w.array(o)
		case '?':
			if b := w.take(1); b != nil && b[0] != 0xff {
				w.walk(o.children)
			}
		case 'T':
			if o.fields == nil { // spares the closure
				w.tags(&w.tagged, nil)
			} else {
				w.tags(&w.tagged, func(tag uint32, body *cursor) bool { return w.field(o.fields[tag], body) })
			}
		}
	}
}

// sized skips a string or bytes of length n, −1 for null.
func (w *walker) sized(n int64, nullable bool) {
	switch {
	case w.err != nil || n == -1 && nullable:
	case n < 0:
		w.fail("length %d", n)
	case n > int64(len(w.rest)):
		w.fail("length %d, %d bytes left", n, len(w.rest))
	default:
		w.rest = w.rest[n:]
	}
}

func (w *walker) array(o *op) {
	var n int64
	if o.compact {
		n = int64(w.uvarint()) - 1
	} else {
		n = int64(w.int32())
	}
	switch {
	case w.err != nil || n == -1 && (o.nullable || w.lenient):
		return
	case n < 0:
		w.fail("array of length %d", n)
		return
	case n*int64(o.minBytes) > int64(len(w.rest)):
		w.fail("array of %d elements, %d bytes left", n, len(w.rest))
		return
	}
	if w.budget -= int(n) * o.cost; w.budget < 0 {
		w.fail("array of %d elements would cost too much memory", n)
		return
	}
	if len(o.children) == 1 {
		if size := fixed(o.children[0].letter); size > 0 { // array of numbers
			w.take(int(n) * size)
			return
		}
	}
	for ; n > 0 && w.err == nil; n-- {
		w.walk(o.children)
	}
}

func fixed(letter byte) int {
	switch letter {
	case 'b':
		return 1
	case 'h':
		return 2
	case 'i':
		return 4
	case 'l':
		return 8
	case 'u':
		return 16
	}
	return 0
}

// field checks the body of a tagged field, if its structure is known.
func (w *walker) field(ops []op, body *cursor) bool {
	if ops == nil {
		return false
	}
	outer := w.cursor
	w.cursor = *body
	w.walk(ops)
	if w.err == nil && len(w.rest) > 0 {
		w.fail("%d bytes are left over in a tagged field", len(w.rest))
	}
	*body, w.cursor = w.cursor, outer
	return true
}
