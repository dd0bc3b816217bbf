package configs

import (
	"reflect"
	"strings"
	"time"
)

var durationType = reflect.TypeFor[time.Duration]()

// field is one key as the struct tags describe it.
type field struct {
	Key      string
	Doc      string
	Default  string
	Enum     []string
	Required bool
	Type     reflect.Type // of the Go field; pointers mark optional sections
	Index    int
}

// elem is the type behind an optional section.
func (f field) elem() reflect.Type {
	if f.Type.Kind() == reflect.Pointer {
		return f.Type.Elem()
	}
	return f.Type
}

func (f field) section() bool { return f.elem().Kind() == reflect.Struct }

func (f field) optional() bool { return f.Type.Kind() == reflect.Pointer }

// sectionList tells whether the key holds a list of sections, as sites does.
func (f field) sectionList() bool {
	return f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct
}

// fieldsOf lists the keys of a section in the order of the struct.
func fieldsOf(t reflect.Type) []field {
	out := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue // worked out from other keys
		}
		f := field{
			Key:      sf.Tag.Get("key"),
			Doc:      sf.Tag.Get("doc"),
			Default:  sf.Tag.Get("default"),
			Required: sf.Tag.Get("required") == "true",
			Type:     sf.Type,
			Index:    i,
		}
		if e := sf.Tag.Get("enum"); e != "" {
			f.Enum = strings.Split(e, ",")
		}
		out = append(out, f)
	}
	return out
}

// kindOf names a type for a person.
func kindOf(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "list of words"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Struct:
		return "section"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.String:
		return "word"
	default:
		return "whole number"
	}
}

// leaf is a key outside lists: it can be given by the environment.
type leaf struct {
	Path  string
	Field field
}

// leaves walks the sections that present says are there.
func leaves(t reflect.Type, prefix string, present func(path string) bool) []leaf {
	var out []leaf
	for _, f := range fieldsOf(t) {
		path := join(prefix, f.Key)
		switch {
		case f.sectionList():
		case f.section():
			if !f.optional() || present(path) {
				out = append(out, leaves(f.elem(), path, present)...)
			}
		default:
			out = append(out, leaf{Path: path, Field: f})
		}
	}
	return out
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// EnvPrefix starts the names of all environment variables that override keys:
// gateway.lease.ttl is SPILLWAY_GATEWAY_LEASE_TTL.
const EnvPrefix = "SPILLWAY"

// EnvName is the environment variable that overrides the key at path.
func EnvName(path string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}
