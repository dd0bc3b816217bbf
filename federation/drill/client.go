package drill

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"spillway"
)

// What the client does. A producer with idempotence sends one record at a time for each
// partition, so that the time between two acknowledgements is what a move makes of it.
const (
	pause      = 10 * time.Millisecond // between an acknowledgement and the next record
	retryPause = 100 * time.Millisecond
	retriesMax = 1200 // for two minutes, as long as Java's producer tries
	openPause  = 500 * time.Millisecond
	readWait   = 15 * time.Second // more than a request may be held
	closeMax   = 5 * time.Second
)

// client writes and reads the topic of a group of drills until it is told to end.
type client struct {
	topic string
	run   string // in front of every record: others than this run's are not looked at

	// Two, since sarama has one connection to a broker for each: a record would wait
	// behind a fetch that has nothing to bring, and the silence would be that of the fetch.
	writing  sarama.Client
	fetching sarama.Client
	producer sarama.SyncProducer
	readers  []sarama.PartitionConsumer

	ended     chan struct{} // closed: nothing more is sent
	endOnce   sync.Once
	idle      chan struct{} // closed: every record was answered
	producing sync.WaitGroup
	reading   sync.WaitGroup
	sent      atomic.Int64
	acks      atomic.Int64

	mu struct {
		sync.Mutex
		seen    []seen // by partition
		refused error  // the first record that a producer gave up
		fault   error  // the last one that a consumer was told
	}
}

// start begins to write and read, as soon as gateways know the topic. config is how sarama
// reaches them; run is new for each run.
func start(ctx context.Context, most time.Duration, addresses []string, config *sarama.Config, topic, run string) (*client, error) {
	config.Net.ReadTimeout, config.Net.WriteTimeout = readWait, readWait
	config.Metadata.Retry.Max, config.Metadata.Retry.Backoff = 20, retryPause
	config.Consumer.Return.Errors = true
	config.Consumer.Retry.Backoff = retryPause
	for deadline := time.Now().Add(most); ; {
		c := &client{topic: topic, run: run, ended: make(chan struct{}), idle: make(chan struct{})}
		err := c.open(addresses, config)
		go func() { c.producing.Wait(); close(c.idle) }()
		if err == nil {
			return c, nil
		}
		err = errors.Join(fmt.Errorf("a client of the gateways: %w", err), c.close())
		if !passes(err) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// passes tells whether an error ends by itself, where a topic is new.
func passes(err error) bool {
	return errors.Is(err, sarama.ErrUnknownTopicOrPartition) || errors.Is(err, sarama.ErrLeaderNotAvailable) || errors.Is(err, sarama.ErrNotLeaderForPartition)
}

func (c *client) open(addresses []string, config *sarama.Config) (err error) {
	if c.fetching, err = sarama.NewClient(addresses, config); err != nil {
		return err
	}
	consumer, err := sarama.NewConsumerFromClient(c.fetching)
	if err != nil {
		return err
	}
	if c.writing, err = sarama.NewClient(addresses, writer(config)); err != nil {
		return err
	}
	if c.producer, err = sarama.NewSyncProducerFromClient(c.writing); err != nil {
		return err
	}
	partitions, err := c.fetching.Partitions(c.topic)
	if err != nil {
		return fmt.Errorf("topic %s: %w", c.topic, err)
	}
	for _, p := range partitions {
		// An offset, and not the end: the first record must not come before it is known.
		from, err := c.fetching.GetOffset(c.topic, p, sarama.OffsetNewest)
		if err != nil {
			return fmt.Errorf("end of %s-%d: %w", c.topic, p, err)
		}
		r, err := consumer.ConsumePartition(c.topic, p, from)
		if err != nil {
			return fmt.Errorf("read %s-%d from offset %d: %w", c.topic, p, from, err)
		}
		c.readers = append(c.readers, r)
		c.mu.seen = append(c.mu.seen, seen{tp: spillway.TopicPartition{Topic: c.topic, Partition: p}})
	}
	for i, r := range c.readers {
		c.reading.Go(func() { c.read(i, r) })
		c.producing.Go(func() { c.produce(i) })
	}
	return nil
}

// writer is the configuration of the producer.
func writer(config *sarama.Config) *sarama.Config {
	w := *config
	w.Producer.Idempotent, w.Producer.RequiredAcks = true, sarama.WaitForAll
	w.Net.MaxOpenRequests = 1 // sarama asks for that with idempotence
	w.Producer.Retry.Max, w.Producer.Retry.Backoff = retriesMax, retryPause
	w.Producer.Return.Successes = true
	w.Producer.Partitioner = sarama.NewManualPartitioner
	return &w
}

func (c *client) produce(index int) {
	tp := c.mu.seen[index].tp
	for number := int64(0); ; number++ {
		select {
		case <-c.ended:
			return
		case <-time.After(pause):
		}
		value := sarama.StringEncoder(c.run + " " + strconv.FormatInt(number, 10))
		c.sent.Add(1)
		_, offset, err := c.producer.SendMessage(&sarama.ProducerMessage{Topic: tp.Topic, Partition: tp.Partition, Value: value})
		at := time.Now()
		if err != nil {
			c.refused(fmt.Errorf("record %d of %s was refused: %w", number, tp, err))
			continue
		}
		c.acks.Add(1)
		c.mu.Lock()
		c.mu.seen[index].acked = append(c.mu.seen[index].acked, acked{number, spillway.Offset(offset), at})
		c.mu.Unlock()
	}
}

// read ends when its reader is closed.
func (c *client) read(index int, r sarama.PartitionConsumer) {
	errs, messages := r.Errors(), r.Messages()
	for messages != nil {
		select {
		case m, ok := <-messages:
			if !ok {
				messages = nil
				continue
			}
			run, digits, _ := strings.Cut(string(m.Value), " ")
			number, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || run != c.run {
				continue // of an earlier run that did not come to its end
			}
			c.mu.Lock()
			c.mu.seen[index].read = append(c.mu.seen[index].read, read{number, spillway.Offset(m.Offset), time.Now()})
			c.mu.Unlock()
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			c.failed(err)
		}
	}
}

// refused notes what an application would be told that has its record refused for good.
func (c *client) refused(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.refused == nil {
		c.mu.refused = err
	}
}

// refusal is the first record that was refused; nil: none was.
func (c *client) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.refused
}

func (c *client) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.fault = err
}

// flows waits until records are acknowledged on every partition, from now on.
func (c *client) flows(ctx context.Context, most time.Duration) error {
	from := time.Now()
	return c.until(ctx, most, "records are acknowledged on every partition", func(s seen) bool {
		return len(s.acked) > 0 && s.acked[len(s.acked)-1].at.After(from)
	})
}

// end has the producers stop, and waits until what was acknowledged last on each
// partition was read.
func (c *client) end(ctx context.Context, most time.Duration) error {
	c.stop()
	select {
	case <-c.idle:
	case <-time.After(most):
		return fmt.Errorf("the last records were not answered within %s: %w", most, c.lastFault())
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.until(ctx, most, "the last records are read", func(s seen) bool {
		if len(s.acked) == 0 {
			return true
		}
		return len(s.read) > 0 && s.read[len(s.read)-1].offset >= s.acked[len(s.acked)-1].offset
	})
}

// until waits for something that is to be so of every partition.
func (c *client) until(ctx context.Context, most time.Duration, what string, so func(seen) bool) error {
	deadline := time.Now().Add(most)
	for {
		missing := c.first(func(s seen) bool { return !so(s) })
		switch {
		case missing == "":
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%s: did not come about on %s within %s: %w", what, missing, most, c.lastFault())
		}
		time.Sleep(pause)
	}
}

func (c *client) first(is func(seen) bool) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.mu.seen {
		if is(s) {
			return s.tp.String()
		}
	}
	return ""
}

// errNoFault stands where a client was told of no fault.
var errNoFault = errors.New("the client was told of no fault")

func (c *client) lastFault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.fault == nil {
		return errNoFault
	}
	return c.mu.fault
}

// saw is what the client was told so far.
func (c *client) saw() []seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]seen, len(c.mu.seen))
	for i, s := range c.mu.seen {
		all[i] = seen{s.tp, s.acked[:len(s.acked):len(s.acked)], s.read[:len(s.read):len(s.read)]}
	}
	return all
}

// stop has the producers send nothing more.
func (c *client) stop() { c.endOnce.Do(func() { close(c.ended) }) }

// close ends readers and producers, within closeMax. Records that are not answered are not
// waited for: they end with an error, since their connections are closed.
func (c *client) close() error {
	c.stop()
	for _, r := range c.readers {
		r.AsyncClose()
	}
	closed := make(chan error, 1)
	go func() {
		c.reading.Wait()
		var faults []error
		if c.producer != nil {
			select {
			case <-c.idle:
				faults = append(faults, c.producer.Close())
			default:
			}
		}
		for _, k := range []sarama.Client{c.writing, c.fetching} {
			if k != nil {
				faults = append(faults, k.Close())
			}
		}
		closed <- errors.Join(faults...)
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeMax):
		return fmt.Errorf("the client's connections did not end within %s", closeMax)
	}
}
