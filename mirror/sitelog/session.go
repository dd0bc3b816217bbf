package sitelog

import (
	"context"
	"errors"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
)

// Session fetches again and again over one connection. The broker remembers what was
// asked for (KIP-227): a request says only what is another than before, and an answer
// leaves out the partitions about which there is no news. A broker that has no room for
// a session is asked for everything each time. It belongs to one goroutine at a time.
type Session struct {
	conn  *conn.Conn
	id    int32
	epoch int32 // of the next request; 0: the broker remembers nothing
	// What the broker remembers, with the names on the wire of its topics.
	parts map[spillway.TopicPartition]FetchPart
	wire  map[string]string // by topic
	names map[string]string // by name on the wire
}

// NewSession begins with the first Fetch.
func NewSession(c *conn.Conn) *Session {
	s := &Session{}
	s.Move(c)
	return s
}

// Move goes on over another connection to the same broker, with a request that says
// everything: how much of what was asked over the former one has come there, nobody knows.
func (s *Session) Move(c *conn.Conn) {
	s.conn = c
	s.Forget()
}

// Remembers tells whether the broker knows that the partition is asked for, and will say
// nothing of it while nothing is new.
func (s *Session) Remembers(tp spillway.TopicPartition) bool {
	_, known := s.parts[tp]
	return known
}

// Forget has the next request say everything, and end what the broker remembers: there
// will be an answer about each partition.
func (s *Session) Forget() {
	s.epoch = 0
	s.parts = make(map[spillway.TopicPartition]FetchPart)
	s.wire, s.names = make(map[string]string), make(map[string]string)
}

// Fetch is the function Fetch, but that of a partition of which nothing is new, and
// nothing is to be had, there may be no answer. New are records, an error, another high
// watermark or log start, and the partition itself. After an error connection and session
// are of no use.
func (s *Session) Fetch(ctx context.Context, parts []FetchPart, o FetchOptions) ([]Fetched, error) {
	fetched, err := s.fetch(ctx, parts, o)
	if errors.Is(err, kerr.FetchSessionIDNotFound) || errors.Is(err, kerr.InvalidFetchSessionEpoch) {
		s.Forget() // the broker has needed the room
		fetched, err = s.fetch(ctx, parts, o)
	}
	return fetched, err
}

func (s *Session) fetch(ctx context.Context, parts []FetchPart, o FetchOptions) ([]Fetched, error) {
	r := newRequest(s.conn, o)
	if s.renamed(r, parts) {
		s.Forget()
	}
	r.req.SessionID, r.req.SessionEpoch = s.id, s.epoch
	s.tell(r, parts)
	if len(s.parts) == 0 {
		s.Forget()
		return r.unknown, nil
	}
	resp, err := r.send(ctx, s.conn, o)
	if err != nil {
		return nil, err
	}
	fetched := append(r.unknown, answers(resp, s.names, s.parts)...)
	switch s.id = resp.SessionID; {
	case s.id == 0:
		s.Forget()
	case s.epoch == math.MaxInt32:
		s.epoch = 1
	default:
		s.epoch++
	}
	return fetched, nil
}

// renamed tells whether a topic has another name on the wire than before, or none.
func (s *Session) renamed(r *request, parts []FetchPart) bool {
	checked := ""
	for _, p := range parts {
		before, known := s.wire[p.Topic]
		if !known || p.Topic == checked {
			continue
		}
		if name, ok := r.nameOf(p.Topic); !ok || name != before {
			return true
		}
		checked = p.Topic
	}
	return false
}

// tell puts into the request what the broker has to remember, and to forget.
func (s *Session) tell(r *request, parts []FetchPart) {
	wanted := 0
	for _, p := range parts {
		if before, known := s.parts[p.TopicPartition]; known && before.same(p) {
			wanted++
		} else if r.ask(p) {
			wanted++
			s.parts[p.TopicPartition] = p
		}
	}
	for name, topic := range r.names {
		s.wire[topic], s.names[name] = name, topic
	}
	if len(s.parts) == wanted {
		return
	}
	kept := make(map[spillway.TopicPartition]bool, len(parts))
	for _, p := range parts {
		kept[p.TopicPartition] = true
	}
	places := make(map[string]int)
	for tp := range s.parts {
		if kept[tp] {
			continue
		}
		i, ok := places[tp.Topic]
		if !ok {
			i = len(r.req.ForgottenTopics)
			places[tp.Topic] = i
			t := kmsg.NewFetchRequestForgottenTopic()
			t.Topic = s.wire[tp.Topic]
			r.req.ForgottenTopics = append(r.req.ForgottenTopics, t)
		}
		r.req.ForgottenTopics[i].Partitions = append(r.req.ForgottenTopics[i].Partitions, tp.Partition)
		delete(s.parts, tp)
	}
}

// same tells whether the broker need not be told: it may bring somewhat less than is
// wanted, and not more.
func (p FetchPart) same(now FetchPart) bool {
	bytes := p.BytesMax
	p.BytesMax = now.BytesMax
	return p == now && bytes <= now.BytesMax && bytes >= now.BytesMax/2
}
