// Package wiretest makes messages of the Kafka protocol for tests: every key and
// version that kmsg knows, and random values in every field.
package wiretest

import (
	"math/rand/v2"
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Message is a request or a response.
type Message interface {
	Key() int16
	SetVersion(int16)
	GetVersion() int16
	AppendTo([]byte) []byte
	ReadFrom([]byte) error
	IsFlexible() bool
}

// Fill sets every field to a random value that the protocol allows.
func Fill(random *rand.Rand, m Message) {
	v := reflect.ValueOf(m).Elem()
	version := m.GetVersion()
	fillStruct(random, v, 0)
	m.SetVersion(version)
}

func fillStruct(random *rand.Rand, v reflect.Value, depth int) {
	for i := range v.NumField() {
		if tags, ok := v.Field(i).Addr().Interface().(*kmsg.Tags); ok {
			for range random.IntN(3) {
				tags.Set(100+random.Uint32N(1000), make([]byte, random.IntN(20)))
			}
			continue
		}
		fillValue(random, v.Field(i), depth)
	}
}

func fillValue(random *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(random.Int64() >> random.IntN(63))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(random.Uint64())
	case reflect.Float64:
		v.SetFloat(random.Float64())
	case reflect.String:
		v.SetString(text(random))
	case reflect.Pointer:
		if random.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fillValue(random, v.Elem(), depth+1)
		}
	case reflect.Slice:
		n := random.IntN(4)
		if n == 0 && random.IntN(2) == 0 {
			return // nil: null where that is allowed, else empty
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillValue(random, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fillValue(random, v.Index(i), depth+1)
		}
	case reflect.Struct:
		fillStruct(random, v, depth+1)
	}
}

func text(random *rand.Rand) string {
	b := make([]byte, random.IntN(12))
	for i := range b {
		b[i] = 'a' + byte(random.IntN(26))
	}
	return string(b)
}

// Every calls f with an empty request or response of each key and version.
func Every(f func(kind string, m Message)) {
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		for version := int16(0); version <= req.MaxVersion(); version++ {
			req := kmsg.RequestForKey(key)
			req.SetVersion(version)
			f("request", req)
			f("response", req.ResponseKind())
		}
	}
}

// Fresh makes an empty message of the same kind, key and version.
func Fresh(m Message) Message {
	n := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
	n.SetVersion(m.GetVersion())
	return n
}

// FillFull is Fill without empty lists of what the message is about: all of its
// own lists and those of their elements have an element at least.
func FillFull(random *rand.Rand, m Message) {
	for version := m.GetVersion(); ; {
		reflect.ValueOf(m).Elem().SetZero() // of an earlier try
		m.SetVersion(version)
		Fill(random, m)
		if full(reflect.ValueOf(m).Elem()) {
			return
		}
	}
}

// full tells whether each list of structs has an element, at any depth.
func full(v reflect.Value) bool {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Slice || f.Type().Elem().Kind() == reflect.Uint8 {
			continue
		}
		if f.Len() == 0 {
			return false
		}
		for j := range f.Len() {
			if e := f.Index(j); e.Kind() == reflect.Struct && !full(e) {
				return false
			}
		}
	}
	return true
}

// FillStruct is Fill for a part of a message.
func FillStruct(random *rand.Rand, part any) {
	fillStruct(random, reflect.ValueOf(part).Elem(), 0)
}
