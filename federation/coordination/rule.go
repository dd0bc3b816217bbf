package coordination

import "errors"

// ErrDenied: the store answers, and does not let this process do it. A read that is
// denied is ErrUnavailable as well: nobody may conclude anything from it.
var ErrDenied = errors.New("the coordinator store does not allow it")

// Rule is a right that a process needs in the store: to read, or to read and write,
// one key or all keys that begin alike.
type Rule struct {
	Path   string // a key, or with Prefix what keys begin with
	Prefix bool
	Write  bool
	Why    string // what for, in a few words
}
