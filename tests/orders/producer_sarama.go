package orders

import (
	"github.com/IBM/sarama"

	"spillway/tests/orders/history"
)

// saramaSender sends with sarama, with its own defaults: three retries, then a
// record fails.
type saramaSender struct {
	producer sarama.AsyncProducer
	answered chan struct{} // closed when all answers were told
}

func newSarama(bootstrap []string, spec Producer) (*saramaSender, error) {
	cfg := sarama.NewConfig()
	cfg.ClientID = spec.Name
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.Return.Successes = true
	cfg.Producer.Partitioner = sarama.NewManualPartitioner
	switch spec.Acks {
	case "0":
		cfg.Producer.RequiredAcks = sarama.NoResponse
	case "1":
		cfg.Producer.RequiredAcks = sarama.WaitForLocal
	default:
		cfg.Producer.RequiredAcks = sarama.WaitForAll
	}
	if !spec.Plain {
		cfg.Producer.Idempotent = true
		cfg.Net.MaxOpenRequests = 1 // sarama's own condition for idempotence
	}
	producer, err := sarama.NewAsyncProducer(bootstrap, cfg)
	if err != nil {
		return nil, err
	}
	s := &saramaSender{producer: producer, answered: make(chan struct{})}
	go s.answers()
	return s, nil
}

func (s *saramaSender) send(id history.ID, key string, value []byte, done func(int64, error)) {
	s.producer.Input() <- &sarama.ProducerMessage{
		Topic: id.Topic, Partition: id.Partition,
		Key: sarama.StringEncoder(key), Value: sarama.ByteEncoder(value), Metadata: done,
	}
}

func (s *saramaSender) answers() {
	defer close(s.answered)
	successes, failures := s.producer.Successes(), s.producer.Errors()
	for successes != nil || failures != nil {
		select {
		case m, ok := <-successes:
			if !ok {
				successes = nil
				continue
			}
			m.Metadata.(func(int64, error))(m.Offset, nil)
		case e, ok := <-failures:
			if !ok {
				failures = nil
				continue
			}
			e.Msg.Metadata.(func(int64, error))(history.NoOffset, e.Err)
		}
	}
}

func (s *saramaSender) close() error {
	s.producer.AsyncClose()
	<-s.answered
	return nil
}
