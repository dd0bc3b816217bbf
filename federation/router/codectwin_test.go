package router

import (
	"crypto/sha1"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
)

// mapping is how the numbers of a site and of the virtual cluster belong
// together: a dumb twin of what the gateway does. It goes by the names of fields, so
// it translates an API of which nobody has thought yet.
type mapping struct {
	topology *spillway.Topology
	base     int64 // virtual minus local offset
	mask     uint64
	same     bool // ids of topics are the same on both sides
	bare     bool // ids of topics and producers stay as they are
	ids      bool // of producers, bare or not
}

func codecTopology() *spillway.Topology {
	return spillway.NewTopology("t", "id", nil, []spillway.FailoverGroup{{Name: "shop", Topics: []string{"*"}, ConsumerGroups: []string{"*"}, TransactionalIDs: []string{"*"}}})
}

func identity() mapping { return mapping{topology: codecTopology(), same: true} }

func translating() mapping {
	return mapping{topology: codecTopology(), base: 1 << 41, mask: 0x5a5a5a5a5a5}
}

func (m mapping) siteID(name string) (id [16]byte) {
	if m.same {
		return m.topology.TopicID(name)
	}
	sum := sha1.Sum([]byte(name))
	copy(id[:], sum[:])
	return id
}

// side is where a message is read.
type side bool

const (
	atSite   side = true
	atClient side = false
)

func (m mapping) id(s side, name string) [16]byte {
	if s == atSite {
		return m.siteID(name)
	}
	return m.topology.TopicID(name)
}

func (m mapping) name(s side, id [16]byte) string {
	for _, name := range codecTopics {
		if m.id(s, name) == id {
			return name
		}
	}
	return ""
}

// translate turns the numbers of a message into those of the other side.
func (m mapping) translate(message any, to side) { m.value(reflect.ValueOf(message).Elem(), to) }

func (m mapping) value(v reflect.Value, to side) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			m.value(v.Elem(), to)
		}
	case reflect.Slice:
		for i := range v.Len() {
			m.value(v.Index(i), to)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.FetchResponseTopicPartitionAbortedTransaction]() {
			m.bare, m.ids = true, false // as in the batches
		}
		m.topic(v, to)
		for i := range v.NumField() {
			m.field(v.Type().Field(i).Name, v.Field(i), to)
		}
	}
}

func (m mapping) field(name string, v reflect.Value, to side) {
	switch {
	case v.Kind() == reflect.Int64 && (strings.Contains(name, "Offset") || name == "HighWatermark"):
		if v.Int() >= 0 {
			v.SetInt(v.Int() + m.shift(to))
		}
	case name == "ProducerID" && v.Kind() == reflect.Int64:
		if v.Int() >= 0 && (m.ids || !m.bare) {
			v.SetInt(m.producer(v.Int(), to))
		}
	case strings.HasSuffix(name, "LeaderEpoch") && v.Kind() == reflect.Int32:
		v.SetInt(-1) // they are not carried
	case name == "Records":
		m.produced(v.Bytes(), to)
	case name == "RecordBatches":
		m.fetched(v.Bytes(), to)
	default:
		m.value(v, to)
	}
}

func (m mapping) shift(to side) int64 {
	if to == atSite {
		return -m.base
	}
	return m.base
}

// topic gives a struct that names a topic both name and id.
func (m mapping) topic(v reflect.Value, to side) {
	id := v.FieldByName("TopicID")
	if !id.IsValid() || m.bare {
		return
	}
	name := m.name(!to, id.Interface().([16]byte))
	if field := v.FieldByName("Topic"); field.IsValid() {
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				field.Set(reflect.New(field.Type().Elem()))
			}
			field = field.Elem()
		}
		if field.String() == "" {
			field.SetString(name)
		}
		name = field.String()
	}
	if name != "" {
		id.Set(reflect.ValueOf(m.id(to, name)))
	}
}

// codecProducer is the producer id that the site has given to every transactional id.
const codecProducer = 0x0123_4567_89ab_cdef

// producer is the id of a transactional producer, which is never the same on both sides.
func (m mapping) producer(id int64, to side) int64 {
	if to == atSite && id&(1<<48-1) == codecProducer&(1<<48-1) {
		return codecProducer
	}
	return 1<<48 | id&(1<<48-1)
}

// produced masks the producer ids of what a client writes, or takes the mask off.
func (m mapping) produced(set []byte, to side) {
	for w := batch.Over(set); w.Next(); {
		if h := w.Header; h.Transactional() {
			if m.ids || !m.bare {
				batch.SetProducer(w.Bytes, m.producer(h.ProducerID, to), h.ProducerEpoch, h.BaseSequence)
			}
			continue
		}
		if h := w.Header; h.ProducerID >= 0 {
			batch.SetProducer(w.Bytes, spillway.MaskProducerID(h.ProducerID, m.mask), h.ProducerEpoch, h.BaseSequence)
		}
	}
}

// fetched shifts what a site has. Leader epochs are the virtual cluster's.
func (m mapping) fetched(set []byte, to side) {
	for w := batch.Over(set); w.Next(); {
		batch.SetBaseOffset(w.Bytes, w.Header.BaseOffset+m.shift(to))
		batch.SetLeaderEpoch(w.Bytes, spillway.VirtualLeaderEpoch(1))
	}
}

// tidy makes a random message one of this virtual cluster: topics that exist, each
// once, offsets within bounds, and no negative partitions.
func (m mapping) tidy(random *rand.Rand, message any, at side) {
	m.tidyValue(random, reflect.ValueOf(message).Elem(), at)
}

func (m mapping) tidyValue(random *rand.Rand, v reflect.Value, at side) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			m.tidyValue(random, v.Elem(), at)
		}
	case reflect.Slice:
		names := slices.Clone(codecTopics)
		random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for i := range v.Len() {
			e := v.Index(i)
			m.tidyValue(random, e, at)
			if e.Kind() != reflect.Struct {
				continue
			}
			if p := e.FieldByName("Partition"); p.IsValid() {
				p.SetInt(int64(i))
			}
			if g := e.FieldByName("Group"); g.IsValid() && g.Kind() == reflect.String {
				g.SetString(g.String() + string(rune('a'+i)))
			}
			if topic := e.FieldByName("Topic"); topic.IsValid() && topic.Kind() == reflect.String {
				topic.SetString(names[i])
			}
			if id := e.FieldByName("TopicID"); id.IsValid() {
				id.Set(reflect.ValueOf(m.id(at, names[i])))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, f := v.Type().Field(i).Name, v.Field(i)
			switch {
			case f.Kind() == reflect.Int64 && (strings.Contains(name, "Offset") || name == "HighWatermark"):
				f.SetInt(random.Int64N(1 << 40))
				if at == atClient {
					f.SetInt(f.Int() + m.base)
				}
			case name == "ProducerID" && f.Kind() == reflect.Int64:
				if f.SetInt(codecProducer); at == atClient {
					f.SetInt(m.producer(codecProducer, atClient))
				}
			case m.same && strings.HasSuffix(name, "LeaderEpoch") && f.Kind() == reflect.Int32:
				f.SetInt(-1)
			case name == "Partitions" && f.Type() == reflect.TypeFor[[]int32]():
				for i := range f.Len() {
					f.Index(i).SetInt(int64(i))
				}
			case name == "ThrottleMillis":
				if f.SetInt(int64(int32(random.Uint32()))); m.same {
					f.SetInt(random.Int64N(throttleMillisMax))
				}
			case name == "ErrorCode":
				f.SetInt(0)
			default:
				m.tidyValue(random, f, at)
			}
		}
	}
}

// untagged takes the tagged fields that nobody knows out of a message.
func untagged(message any) { untagValue(reflect.ValueOf(message).Elem()) }

func untagValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			untagValue(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			untagValue(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			v.SetZero()
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				untagValue(v.Field(i))
			}
		}
	}
}
