package clients

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spillway/tests/cluster/process"
	"spillway/tests/orders/history"
)

// speaker runs kcats and writes their histories. A producing kcat says nothing
// about single records: that all are there is known when it ends with status
// 0, and their offsets never are. So each partition that is written gets one
// kcat, fed line by line.
type speaker struct {
	spec     Spec
	base     []string
	recorder *history.Recorder
	cancel   context.CancelFunc
	feeding  sync.WaitGroup
	reading  sync.WaitGroup
	writers  []*process.Process
	readers  []*process.Process
	feeds    []io.WriteCloser
	sent     []history.ID // owned by feed until feeding is over
	lastRead atomic.Int64 // nanoseconds since 1970
}

// quiet is how long a reader must have got nothing, after all writers ended.
const quiet = 5 * time.Second

// flushEvery is after how many records the history is written out, so that who
// waits for a client sees what it does.
const flushEvery = 50

const kcatFormat = "%t %p %o %s\n"

func (c *Client) startKcat() error {
	ctx, cancel := context.WithCancel(context.Background())
	s := &speaker{spec: c.spec, recorder: history.NewRecorder(c.output), cancel: cancel}
	c.speaker = s
	s.base = []string{"-b", strings.Join(c.spec.Bootstrap, ","), "-X", "client.id=" + c.spec.Name}
	for k, v := range c.spec.Conf {
		s.base = append(s.base, "-X", k+"="+v)
	}
	for _, role := range c.spec.Roles {
		if err := s.start(ctx, role); err != nil {
			return fmt.Errorf("%w; kcat is Debian's package kcat", err)
		}
	}
	c.processes = append(append(c.processes, s.writers...), s.readers...)
	return nil
}

func (s *speaker) client(role string) string { return s.spec.Name + "-" + role }

// start runs one process per partition that is written, one for all that is
// read in a group, one per partition that is read by assignment.
func (s *speaker) start(ctx context.Context, role string) error {
	event := history.Event{Kind: history.Start, Client: s.client(role), Role: role}
	switch role {
	case history.Producer:
		event.Acks, event.Idempotent = s.spec.Acks, !s.spec.Plain
		s.recorder.Record(event)
		return s.write(ctx)
	case history.Member:
		event.Group = s.spec.Group
		s.recorder.Record(event)
		args := []string{"-X", "auto.offset.reset=earliest", "-u", "-f", kcatFormat, "-G", s.spec.Group}
		return s.read(role, append(args, s.spec.Topics...))
	default:
		s.recorder.Record(event)
		for _, topic := range s.spec.Topics {
			for p := range s.spec.Partitions {
				if err := s.read(role, []string{"-C", "-t", topic, "-p", strconv.Itoa(p), "-o", "beginning", "-u", "-f", kcatFormat}); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func (s *speaker) process(spec process.Spec) (*process.Process, error) {
	spec.Name, spec.Path, spec.Log, spec.Network, spec.Nice = s.spec.Name, "kcat", s.spec.log(), s.spec.Network, clientNice
	spec.Args = append(append([]string{}, s.base...), spec.Args...)
	return process.Start(spec)
}

// write starts the writing processes and the loop that feeds them.
func (s *speaker) write(ctx context.Context) error {
	var next []history.ID // what each process gets next
	for _, topic := range s.spec.Topics {
		for p := range s.spec.Partitions {
			r, w, err := os.Pipe()
			if err != nil {
				return fmt.Errorf("start client %s: %w", s.spec.Name, err)
			}
			child, err := s.process(process.Spec{Stdin: r, Args: []string{"-P", "-t", topic, "-p", strconv.Itoa(p), "-K", "\t",
				"-X", "enable.idempotence=" + strconv.FormatBool(!s.spec.Plain), "-X", "acks=" + s.spec.Acks, "-X", "linger.ms=5"}})
			if err := errors.Join(err, r.Close()); err != nil {
				return errors.Join(err, w.Close())
			}
			s.writers, s.feeds = append(s.writers, child), append(s.feeds, w)
			next = append(next, history.ID{Producer: s.client(history.Producer), Topic: topic, Partition: int32(p)})
		}
	}
	s.feeding.Go(func() { s.feed(ctx, next) })
	return nil
}

// feed hands records out in turn at the given rate, and ends the processes'
// input when ctx ends.
func (s *speaker) feed(ctx context.Context, next []history.ID) {
	defer func() {
		for _, w := range s.feeds {
			_ = w.Close() // the process sees the end of its input either way
		}
	}()
	tick := time.NewTicker(time.Duration(float64(time.Second) / s.spec.Rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		i := n % len(next)
		id := next[i]
		next[i].Counter++
		order := fmt.Sprintf("sale-%s-%d", s.spec.Name, n/len(next))
		s.recorder.Record(history.Event{Kind: history.Invoke, Client: id.Producer, Payload: id})
		s.sent = append(s.sent, id)
		if n%flushEvery == 0 {
			_ = s.recorder.Flush() // stop reports what is wrong with the file
		}
		if _, err := fmt.Fprintf(s.feeds[i], "%s\t%s\n", order, history.Payload{ID: id, Order: order}.Encode()); err != nil {
			return // kcat is gone; stop reports its status
		}
	}
}

// read starts one reading process.
func (s *speaker) read(role string, args []string) error {
	r, w := io.Pipe()
	child, err := s.process(process.Spec{Stdout: w, Args: args})
	if err != nil {
		return err
	}
	s.readers = append(s.readers, child)
	s.reading.Go(func() { s.listen(s.client(role), r) })
	s.reading.Go(func() {
		<-child.Done()
		_ = w.Close() // ends listen
	})
	return nil
}

// listen turns what kcat prints into events.
func (s *speaker) listen(client string, r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := bytes.SplitN(lines.Bytes(), []byte(" "), 4)
		if len(fields) < 4 {
			continue // a message of kcat's own
		}
		partition, err1 := strconv.ParseInt(string(fields[1]), 10, 32)
		offset, err2 := strconv.ParseInt(string(fields[2]), 10, 64)
		id, _, _ := bytes.Cut(fields[3], []byte(" "))
		payload, err3 := history.ParseID(string(id))
		if errors.Join(err1, err2, err3) != nil {
			continue
		}
		s.lastRead.Store(time.Now().UnixNano())
		s.recorder.Record(history.Event{Kind: history.Consume, Client: client, Topic: string(fields[0]),
			Partition: int32(partition), Offset: offset, Payload: payload})
	}
}

// stop ends the feeding, lets the writers write out what they have, and ends
// the readers, which know no end of input, when nothing comes any more.
func (s *speaker) stop(patience time.Duration) error {
	s.cancel()
	s.feeding.Wait()
	deadline := time.Now().Add(patience)
	var errs []error
	for _, p := range s.writers {
		errs = append(errs, end(p, s.spec.Name, time.After(time.Until(deadline))))
	}
	// Every writer ended with status 0, so every record that was fed is there.
	if errors.Join(errs...) == nil {
		for _, id := range s.sent {
			s.recorder.Record(history.Event{Kind: history.Ack, Client: id.Producer, Payload: id, Offset: history.NoOffset})
		}
	}
	s.lastRead.Store(time.Now().UnixNano())
	for time.Since(time.Unix(0, s.lastRead.Load())) < quiet && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	for _, p := range s.readers {
		errs = append(errs, p.Stop(patience))
	}
	s.reading.Wait()
	for _, role := range s.spec.Roles {
		s.recorder.Record(history.Event{Kind: history.Stop, Client: s.client(role), Drained: role != history.Producer})
	}
	return errors.Join(append(errs, s.recorder.Flush())...)
}
