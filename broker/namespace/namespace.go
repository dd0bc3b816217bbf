package namespace

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/wire"
)

// Namespace is what the names of a virtual cluster begin with at its sites; empty: with
// nothing more than its clients say.
type Namespace string

// bytesMax leaves room for names: Kafka takes topics of up to 249 bytes.
const bytesMax = 100

var valid = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*[._-]$`)

// Parse holds a namespace against what topics may be called. It begins with a letter or digit, as
// Kafka's own topics do not, and ends with a mark, so that pay and payments are no part
// of each other.
func Parse(text string) (Namespace, error) {
	switch {
	case text == "":
	case len(text) > bytesMax:
		return "", fmt.Errorf("%d bytes are too many: at most %d, since topics begin with it", len(text), bytesMax)
	case !valid.MatchString(text):
		return "", fmt.Errorf("%q cannot be a namespace: use letters, digits, '.', '_' and '-', with one of the last three at the end and none of them at the beginning, as in \"payments.\"", text)
	}
	return Namespace(text), nil
}

// ErrRefused is what a request gets whose meaning would reach beyond the namespace.
var ErrRefused = errors.New("not within a namespace")

// Name is how the site calls something.
func (n Namespace) Name(name string) string { return string(n) + name }

// own is what clients call something of the site; false: it belongs to somebody else.
func (n Namespace) own(name string) (string, bool) { return strings.CutPrefix(name, string(n)) }

// Request rewrites a request's body, which may be in pieces. It leaves them as they are; what
// it returns may point into them.
func (n Namespace) Request(key, version int16, body [][]byte) ([][]byte, error) {
	if n == "" {
		return body, nil
	}
	req := kmsg.RequestForKey(key)
	if req == nil {
		return nil, fmt.Errorf("%w: key %d is not known", ErrRefused, key)
	}
	req.SetVersion(version)
	p := planOf(reflect.TypeOf(req).Elem())
	switch {
	case p == nil || unnamed[key]:
		return body, nil
	case !named[key]:
		return nil, fmt.Errorf("%w: nobody has said what names are in %s", ErrRefused, kmsg.NameForKey(key))
	}
	if err := req.ReadFrom(joined(body)); err != nil {
		return nil, fmt.Errorf("%s v%d: %w", kmsg.NameForKey(key), version, err)
	}
	if err := n.filters(req); err != nil {
		return nil, err
	}
	n.subscriptions(req)
	p.rewrite(reflect.ValueOf(req).Elem(), n.enter)
	if r, ok := req.(*kmsg.ProduceRequest); ok {
		return wire.ProducePieces(r), nil
	}
	return [][]byte{req.AppendTo(nil)}, nil
}

// Response rewrites an answer's body.
func (n Namespace) Response(key, version int16, body []byte) ([]byte, error) {
	if n == "" {
		return body, nil
	}
	req := kmsg.RequestForKey(key)
	if req == nil {
		return body, nil
	}
	resp := req.ResponseKind()
	p := planOf(reflect.TypeOf(resp).Elem())
	if p == nil && !said[key] || unnamed[key] {
		return body, nil
	}
	resp.SetVersion(version)
	if err := wire.CheckResponse(key, version, body); err != nil {
		return nil, err
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, err
	}
	n.listed(resp)
	n.subscribed(resp)
	if p != nil {
		p.rewrite(reflect.ValueOf(resp).Elem(), n.leave)
	}
	return resp.AppendTo(make([]byte, 0, len(body))), nil
}

func joined(body [][]byte) []byte {
	if len(body) == 1 {
		return body[0]
	}
	size := 0
	for _, b := range body {
		size += len(b)
	}
	all := make([]byte, 0, size)
	for _, b := range body {
		all = append(all, b...)
	}
	return all
}

// enter is how a request's name is called at the site. A name that is empty is one, for groups
// and for rights on everything; other names are there or are left out of the message.
func (n Namespace) enter(kind kind, name string) (string, bool) {
	switch {
	case kind == message:
		return name, true
	case kind == expression:
		return n.expression(name), true
	case name == "" && kind != group && kind != coordinated && kind != resource:
		return "", true
	}
	return n.Name(name), true
}

// leave is how clients call what an answer names; false: it is not theirs.
func (n Namespace) leave(kind kind, name string) (string, bool) {
	switch {
	case kind == message:
		return n.told(name), true
	case kind == expression:
		return n.unexpression(name), true
	case name == "":
		return "", true // not in this version of the message
	}
	return n.own(name)
}

// told is what a broker says to people, without the namespace, and without the name of
// another topic that is alike but for dots and underscores.
func (n Namespace) told(text string) string {
	if strings.Contains(text, "collides with") {
		return "the name differs from that of another topic of the site in dots and underscores alone, which Kafka does not allow"
	}
	return strings.ReplaceAll(text, string(n), "")
}
