package namespace

import (
	"reflect"
	"sync"
)

// kind is what a text of a message names.
type kind int

const (
	topic kind = iota + 1
	group
	transactional
	coordinated // a group or a transactional id
	resource    // what it names is said by the field ResourceType beside it
	expression  // a regular expression over topics
	message     // words for people, which may quote names
)

// fields are the texts of messages that are names, by what kmsg calls them. A test holds every
// text of every message that is sent to sites against this.
var fields = map[string]kind{
	"Topic": topic, "Topics": topic, "TopicNames": topic, "SubscribedTopicNames": topic, "SubscribedTopics": topic,
	"Group": group, "Groups": group,
	"TransactionID": transactional, "TransactionalID": transactional, "TransactionalIDs": transactional,
	"CoordinatorKey": coordinated, "CoordinatorKeys": coordinated, "Key": coordinated,
	"ResourceName":         resource,
	"SubscribedTopicRegex": expression, "TransactionalIDPattern": expression,
	"ErrorMessage": message,
}

// named are the requests whose names are known to be those of fields.
var named = keys(0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 35, 37,
	42, 44, 47, 61, 65, 66, 68, 69)

// unnamed are requests whose texts look like names and are none: of quotas, features,
// credentials, metrics, and of the controllers' own topic.
var unnamed = keys(17, 18, 36, 48, 49, 50, 51, 55, 57, 60, 71, 72)

func keys(all ...int16) map[int16]bool {
	set := make(map[int16]bool, len(all))
	for _, k := range all {
		set[k] = true
	}
	return set
}

// plan says where the names of a struct are.
type plan struct {
	steps []step
	typed int // field of ResourceType, −1 if there is none
}

type step struct {
	field int
	kind  kind  // of a text, or of a list of them
	inner *plan // of a struct, or of a list of them
}

var plans sync.Map // by reflect.Type: *plan

// planOf is nil where nothing of a type is a name.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := compile(t)
	plans.Store(t, p)
	return p
}

func compile(t reflect.Type) *plan {
	p := &plan{typed: -1}
	for i := range t.NumField() {
		f := t.Field(i)
		inner := f.Type
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch inner.Kind() {
		case reflect.String:
			if k := fields[f.Name]; k != 0 {
				p.steps = append(p.steps, step{field: i, kind: k})
			}
		case reflect.Struct:
			if f.Name == "UnknownTags" {
				continue
			}
			if below := planOf(inner); below != nil {
				p.steps = append(p.steps, step{field: i, inner: below})
			}
		default:
			if f.Name == "ResourceType" {
				p.typed = i
			}
		}
	}
	if len(p.steps) == 0 {
		return nil
	}
	return p
}

// rewrite gives every name to f. It is false where f disowned a name of this very
// struct: a list leaves such structs out.
func (p *plan) rewrite(v reflect.Value, f func(kind, string) (string, bool)) bool {
	for _, s := range p.steps {
		field := v.Field(s.field)
		if s.inner != nil {
			s.inner.below(field, f)
			continue
		}
		if s.kind == resource && !scoped(v.Field(p.typed).Int()) {
			continue
		}
		if !texts(field, s.kind, f) {
			return false
		}
	}
	return true
}

func (p *plan) below(v reflect.Value, f func(kind, string) (string, bool)) {
	switch v.Kind() {
	case reflect.Struct:
		p.rewrite(v, f)
	case reflect.Pointer:
		if !v.IsNil() && !p.rewrite(v.Elem(), f) {
			v.SetZero()
		}
	default: // a list
		kept := 0
		for i := range v.Len() {
			if p.rewrite(v.Index(i), f) {
				if kept < i {
					v.Index(kept).Set(v.Index(i))
				}
				kept++
			}
		}
		if kept < v.Len() {
			v.SetLen(kept)
		}
	}
}

func texts(v reflect.Value, k kind, f func(kind, string) (string, bool)) bool {
	switch v.Kind() {
	case reflect.String:
		name, own := f(k, v.String())
		v.SetString(name)
		return own
	case reflect.Pointer:
		if v.IsNil() {
			return true
		}
		name, own := f(k, v.Elem().String())
		v.Set(reflect.ValueOf(&name))
		return own
	}
	kept := reflect.MakeSlice(v.Type(), 0, v.Len())
	for i := range v.Len() {
		if name, own := f(k, v.Index(i).String()); own {
			kept = reflect.Append(kept, reflect.ValueOf(name))
		}
	}
	if !v.IsNil() {
		v.Set(kept)
	}
	return true
}

// Types of resources that are within a namespace, numbered as in ConfigResource and
// ResourceType: 4 is a broker in one of them and the cluster in the other.
const (
	typeTopic         = 2
	typeGroup         = 3 // of rights
	typeTransactional = 5 // of rights
	typeGroupConfig   = 32
)

func scoped(resourceType int64) bool {
	switch resourceType {
	case typeTopic, typeGroup, typeTransactional, typeGroupConfig:
		return true
	}
	return false
}
