package clients

import (
	"encoding/binary"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
)

// Tap is a listener that reads along what clients and a gateway say to each
// other. So a test sees every number that a client was told, also of clients
// that show little of it themselves, such as kcat.
type Tap struct {
	net.Listener
	mu struct {
		sync.Mutex
		heard  map[string]*Heard
		faults []error
	}
}

// Heard is what one client was told and what it wrote, by its client id.
type Heard struct {
	Numbers     map[Number]int // and how often
	ProducerIDs []int64        // answers to InitProducerId
	Batches     []SentBatch    // in the order sent; a batch that was sent again is here twice
}

// Number is one number or id of the cluster.
type Number struct {
	Kind  string // one of the kinds below
	Where string // the answer and the field, such as Fetch.HighWatermark
	Value int64
	Text  string // of ids that are no numbers
}

// The kinds of numbers that belong to a cluster and mean nothing at another one.
const (
	OffsetNumber  = "offset"
	EpochNumber   = "leader epoch"
	NodeNumber    = "node id"
	TopicNumber   = "topic id"
	ClusterNumber = "cluster id"
)

// kinds of fields, by the names that kmsg gives them in all answers.
var kinds = map[string]string{
	"BaseOffset": OffsetNumber, "Offset": OffsetNumber, "HighWatermark": OffsetNumber, "LastStableOffset": OffsetNumber,
	"LogStartOffset": OffsetNumber, "EndOffset": OffsetNumber, "FirstOffset": OffsetNumber, "CommittedOffset": OffsetNumber,
	"LeaderEpoch": EpochNumber, "CurrentLeaderEpoch": EpochNumber, "DivergingEpoch.Epoch": EpochNumber,
	"NodeID": NodeNumber, "LeaderID": NodeNumber, "ControllerID": NodeNumber, "Leader": NodeNumber, "BrokerID": NodeNumber,
	"Replicas": NodeNumber, "ISR": NodeNumber, "OfflineReplicas": NodeNumber, "PreferredReadReplica": NodeNumber,
	"TopicID": TopicNumber, "ClusterID": ClusterNumber,
}

// SentBatch is a batch of a Produce request.
type SentBatch struct {
	Acks   int16
	Header batch.Header
	First  string // value of its first record
}

// NewTap reads along what passes through a listener.
func NewTap(l net.Listener) *Tap {
	t := &Tap{Listener: l}
	t.mu.heard = make(map[string]*Heard)
	return t
}

// Accept is net.Listener's.
func (t *Tap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: c, tap: t, asked: make(map[int32]question)}, nil
}

// Heard is what one client was told so far. The faults are frames that the tap
// could not read: it must read all of them to be believed.
func (t *Tap) Heard(clientID string) (Heard, []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.mu.heard[clientID]; ok {
		return *h, t.mu.faults
	}
	return Heard{}, t.mu.faults
}

// tapped is one connection, as the gateway has it.
type tapped struct {
	net.Conn
	tap *Tap

	mu       sync.Mutex // answers are written while requests are read
	requests []byte     // begun and not yet whole
	answers  []byte
	asked    map[int32]question // by correlation id
}

type question struct {
	key, version int16
	client       string
}

// Read hears the client's requests.
func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = c.hear(append(c.requests, b[:n]...), c.request)
	return n, err
}

// Write hears the answers, before the client does.
func (c *tapped) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.answers = c.hear(append(c.answers, b...), c.answer)
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// hear hands whole frames on and returns the rest.
func (c *tapped) hear(b []byte, frame func([]byte) error) []byte {
	for len(b) >= 4 {
		size := int(binary.BigEndian.Uint32(b))
		if len(b) < 4+size {
			break
		}
		if err := frame(b[4 : 4+size]); err != nil {
			c.tap.mu.Lock()
			c.tap.mu.faults = append(c.tap.mu.faults, err)
			c.tap.mu.Unlock()
		}
		b = b[4+size:]
	}
	return b
}

func (c *tapped) request(frame []byte) error {
	r := kbin.Reader{Src: frame}
	q := question{key: r.Int16(), version: r.Int16()}
	correlation := r.Int32()
	if id := r.NullableString(); id != nil {
		q.client = *id
	}
	c.asked[correlation] = q
	if q.key != int16(kmsg.Produce) {
		return r.Complete()
	}
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(q.version)
	if req.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if err := req.ReadFrom(r.Src); err != nil {
		return fmt.Errorf("a request of %s: %w", q.client, err)
	}
	for _, topic := range req.Topics {
		for _, p := range topic.Partitions {
			if err := c.produced(q, req.Acks, p.Records); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *tapped) produced(q question, acks int16, batches []byte) error {
	for b := batch.Over(batches); b.Next(); {
		records, err := batch.Records(b.Bytes, 1<<20)
		if err != nil || len(records) == 0 {
			return fmt.Errorf("a batch of %s: %w", q.client, err)
		}
		c.tap.note(q.client, func(h *Heard) {
			h.Batches = append(h.Batches, SentBatch{acks, b.Header, string(records[0].Value)})
		})
	}
	return nil
}

func (c *tapped) answer(frame []byte) error {
	r := kbin.Reader{Src: frame}
	correlation := r.Int32()
	q, ok := c.asked[correlation]
	if !ok {
		return fmt.Errorf("an answer to nothing that was asked: %d", correlation)
	}
	delete(c.asked, correlation)
	if q.key == int16(kmsg.ApiVersions) { // has none of these numbers, and a format of its own for who asks too new a version
		return nil
	}
	resp := kmsg.ResponseForKey(q.key)
	if resp == nil {
		return fmt.Errorf("an answer of the unknown kind %d", q.key)
	}
	resp.SetVersion(q.version)
	if resp.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if err := resp.ReadFrom(r.Src); err != nil {
		return fmt.Errorf("answer %s v%d to %s: %w", kmsg.NameForKey(q.key), q.version, q.client, err)
	}
	if found, ok := resp.(*kmsg.FindCoordinatorResponse); ok && q.version >= 4 {
		found.NodeID = -1 // stands in the list of coordinators from then on
	}
	c.tap.note(q.client, func(h *Heard) {
		h.walk(kmsg.NameForKey(q.key), "", reflect.ValueOf(resp).Elem())
		if init, ok := resp.(*kmsg.InitProducerIDResponse); ok && init.ErrorCode == 0 {
			h.ProducerIDs = append(h.ProducerIDs, init.ProducerID)
		}
	})
	return nil
}

func (t *Tap) note(client string, write func(*Heard)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.mu.heard[client]
	if h == nil {
		h = &Heard{Numbers: make(map[Number]int)}
		t.mu.heard[client] = h
	}
	write(h)
}

// walk notes the numbers of an answer, at any depth.
func (h *Heard) walk(answer, field string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			h.walk(answer, field, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if strings.HasSuffix(field, "DivergingEpoch") {
				name = "DivergingEpoch." + name
			}
			if v.Type().Field(i).IsExported() && name != "UnknownTags" {
				h.walk(answer, name, v.Field(i))
			}
		}
	case reflect.Slice:
		if batches, ok := v.Interface().([]byte); ok {
			if field == "RecordBatches" {
				h.fetched(batches)
			}
			return
		}
		for i := range v.Len() {
			h.walk(answer, field, v.Index(i))
		}
	case reflect.Array:
		// Zero stands where the version of the answer has names.
		if id, ok := v.Interface().([16]byte); ok && id != [16]byte{} && kinds[field] == TopicNumber {
			h.add(Number{Kind: TopicNumber, Where: answer + "." + field, Text: fmt.Sprintf("%x", id)})
		}
	case reflect.Int32, reflect.Int64:
		if kind := kinds[strings.Replace(field, "DivergingEpoch.EndOffset", "EndOffset", 1)]; kind != "" {
			h.add(Number{Kind: kind, Where: answer + "." + field, Value: v.Int()})
		}
	case reflect.String:
		if kinds[field] == ClusterNumber {
			h.add(Number{Kind: ClusterNumber, Where: answer + "." + field, Text: v.String()})
		}
	}
}

func (h *Heard) fetched(batches []byte) {
	for b := batch.Over(batches); b.Next(); {
		h.add(Number{Kind: OffsetNumber, Where: "Fetch.batch", Value: b.Header.BaseOffset})
		h.add(Number{Kind: EpochNumber, Where: "Fetch.batch", Value: int64(b.Header.LeaderEpoch)})
	}
}

func (h *Heard) add(n Number) { h.Numbers[n]++ }

// NetConn lets the gateway look through the tap, as it does through TLS.
func (c *tapped) NetConn() net.Conn { return c.Conn }
