package bench

import (
	"bufio"
	"encoding/binary"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/broker/wire"
	"spillway/federation/gatewaytest"
)

// topic is what the benchmarks write and read.
const topic = "orders"

// nullSite is a site whose broker answers produces and fetches of the topic at
// once, without looking at them: what is left is the way there and back.
// Everything else is an embedded broker's.
func nullSite(b *testing.B, stored []byte) gatewaytest.RealSite {
	b.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return &nullListener{Listener: l, stored: stored}, err
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return gatewaytest.RealSite{
		Config: kafka.Config{Bootstrap: c.ListenAddrs(), Capabilities: embedded.Capabilities(false)},
		Dial:   []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)},
	}
}

type nullListener struct {
	net.Listener
	stored []byte
}

func (l *nullListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		defer c.Close()
		defer near.Close()
		n := &nullConn{client: c, rest: near, stored: l.stored}
		_ = n.serve() // ends with the connection
	}()
	return &piped{Conn: far, outer: c}, nil
}

// piped has the addresses of the outer connection.
type piped struct {
	net.Conn
	outer net.Conn
}

func (p *piped) LocalAddr() net.Addr  { return p.outer.LocalAddr() }
func (p *piped) RemoteAddr() net.Addr { return p.outer.RemoteAddr() }

type nullConn struct {
	client, rest net.Conn
	stored       []byte
	offset       int64
	out          []byte
}

func (n *nullConn) serve() error {
	in, answers := bufio.NewReaderSize(n.client, 256<<10), bufio.NewReader(n.rest)
	var frame []byte
	for {
		var err error
		if frame, err = wire.ReadFrame(in, frame, wire.FrameBytesMax); err != nil {
			return err
		}
		h, body, err := wire.ParseRequest(frame)
		if err != nil {
			return err
		}
		n.out = wire.AppendResponseHeader(append(n.out[:0], 0, 0, 0, 0), h.Key, h.Version, h.CorrelationID)
		if !n.answer(h.Key, h.Version, body) {
			head := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
			if _, err := n.rest.Write(append(head, frame...)); err != nil {
				return err
			}
			answer, err := wire.ReadFrame(answers, nil, wire.FrameBytesMax)
			if err != nil {
				return err
			}
			n.out = append(n.out[:4], answer...)
		}
		binary.BigEndian.PutUint32(n.out, uint32(len(n.out)-4))
		if _, err := n.client.Write(n.out); err != nil {
			return err
		}
		if h.Key == 1 && cap(n.out) > 8<<20 {
			n.out = nil
		}
	}
}

// answer makes the answer of the null broker; false: the other one's.
func (n *nullConn) answer(key, version int16, body []byte) bool {
	switch key {
	case 0:
		resp := kmsg.NewProduceResponse()
		rt, rp := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		resp.Version, rt.Topic, rp.BaseOffset = version, topic, n.offset
		n.offset += recordsOfBatch
		rt.Partitions = []kmsg.ProduceResponseTopicPartition{rp}
		resp.Topics = []kmsg.ProduceResponseTopic{rt}
		n.out = resp.AppendTo(n.out)
		return true
	case 1:
		req := kmsg.NewFetchRequest()
		req.Version = version
		if req.ReadFrom(body) != nil || req.Topics[0].Topic != topic {
			return false
		}
		at := req.Topics[0].Partitions[0].FetchOffset
		size := min(len(n.stored), int(req.MaxBytes))
		set := n.stored[:max(size/batchBytes, 1)*batchBytes]
		for b := set; len(b) > 0; b = b[batchBytes:] {
			batch.SetBaseOffset(b, at)
			at += recordsOfBatch
		}
		resp := kmsg.NewFetchResponse()
		rt, rp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		resp.Version, rt.Topic, rp.RecordBatches = version, topic, set
		rp.HighWatermark, rp.LastStableOffset = 1<<40, 1<<40
		rt.Partitions = []kmsg.FetchResponseTopicPartition{rp}
		resp.Topics = []kmsg.FetchResponseTopic{rt}
		n.out = resp.AppendTo(n.out)
		return true
	}
	return false
}
