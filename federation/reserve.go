package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/router"
)

// reservedBlockDefault is how far a reserved end is raised ahead of use where
// the failover group does not say: few writes to the store against few burnt
// offsets after a failover.
const reservedBlockDefault = 10_000

// reserve keeps the reserved ends of all shares (C5): what was read of the
// store, and what is wanted beyond it. It implements router.Reserve.
//
//	A  an offset is granted only below an end that was read from or written to
//	   the store in the term's epoch
//	B  ends never fall: what a store has forgotten that was restored is wanted
//	   again
//	C  what is wanted stays wanted until the store has it or the epoch is over,
//	   so a store that was away is asked again without a client
type reserve struct {
	gateway *Gateway

	mu     sync.Mutex
	shares map[spillway.ShareID]*reserved
}

type reserved struct {
	share   *router.Share
	version uint64
	record  failover.Reserved
	epoch   spillway.Epoch // in which want is asked for
	want    map[spillway.TopicPartition]spillway.Offset
	changed chan struct{} // closed when record changes
	kick    chan struct{} // something is wanted, or in doubt
	doubt   bool          // a watch showed an older record, or none
}

func newReserve(g *Gateway) *reserve {
	r := &reserve{gateway: g, shares: make(map[spillway.ShareID]*reserved)}
	for id, s := range g.shares {
		r.shares[id] = &reserved{
			share: s, want: make(map[spillway.TopicPartition]spillway.Offset), changed: make(chan struct{}), kick: make(chan struct{}, 1),
		}
	}
	return r
}

func (s *reserved) block() spillway.Offset {
	if b := s.share.Group.ReservedBlock; b > 0 {
		return spillway.Offset(b)
	}
	return reservedBlockDefault
}

// see takes what a watch shows. What is older than what is known, or missing, is
// either late or the store was put back: a read tells.
func (r *reserve) see(entries []coordination.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.shares {
		i := slices.IndexFunc(entries, func(e coordination.Entry) bool { return strings.HasSuffix(e.Key, "/reserved/"+id.String()) })
		switch {
		case i >= 0 && entries[i].Version > s.version:
			r.take(s, entries[i])
		case s.version > 0 && (i < 0 || entries[i].Version < s.version):
			s.doubt = true
			s.wake()
		}
	}
}

// wake makes the writer look.
func (s *reserved) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// take what the store has. The caller holds mu.
func (r *reserve) take(s *reserved, e coordination.Entry) {
	var record failover.Reserved
	if len(e.Value) > 0 {
		if err := json.Unmarshal(e.Value, &record); err != nil {
			r.gateway.problem("read "+e.Key, err)
			return
		}
	}
	s.hold(e.Version, record)
}

// hold replaces the record and forgets what is not wanted any more.
func (s *reserved) hold(version uint64, record failover.Reserved) {
	if record.Epoch > s.epoch {
		s.epoch = record.Epoch
		clear(s.want)
	}
	if s.record.Epoch == s.epoch { // invariant B
		s.record.Ends.All(func(tp spillway.TopicPartition, end spillway.Offset) {
			s.want[tp] = max(s.want[tp], end)
		})
	}
	s.version, s.record = version, record
	for tp, end := range s.want {
		if s.reserved(s.epoch, tp) >= end {
			delete(s.want, tp)
		}
	}
	if len(s.want) > 0 { // what was granted must be in the store, whether anybody asks or not
		s.wake()
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// reserved is the end of a partition in an epoch, −1 if there is none.
func (s *reserved) reserved(epoch spillway.Epoch, tp spillway.TopicPartition) spillway.Offset {
	if s.record.Epoch != epoch {
		return -1
	}
	return s.record.Ends.Get(tp)
}

// load reads the record of a share before the share opens.
func (r *reserve) load(ctx context.Context, share *router.Share) error {
	e, err := r.read(ctx, share.ID)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(r.shares[share.ID], e)
	return nil
}

// read what the store has; a record that nobody wrote yet has version 0.
func (r *reserve) read(ctx context.Context, id spillway.ShareID) (coordination.Entry, error) {
	key := r.gateway.keys.Reserved(id)
	e, err := r.gateway.config.Store.Get(ctx, key)
	if errors.Is(err, coordination.ErrNotFound) {
		return coordination.Entry{Key: key}, nil
	}
	return e, err
}

// Ask implements router.Reserve.
func (r *reserve) Ask(share *router.Share, t router.Term, tp spillway.TopicPartition, end spillway.Offset) spillway.Offset {
	have, _, _ := r.ask(share, t, tp, end)
	return have
}

// Knows implements router.Reserve.
func (r *reserve) Knows(share *router.Share, topic string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.shares[share.ID].record.Ends[topic]) > 0
}

// Extend implements router.Reserve.
func (r *reserve) Extend(ctx context.Context, share *router.Share, t router.Term, tp spillway.TopicPartition, end spillway.Offset) error {
	for {
		have, changed, err := r.ask(share, t, tp, end)
		if err != nil || have >= end {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s is reserved up to %d, not %d: %w", tp, have, end, ctx.Err())
		}
	}
}

// ask tells what is reserved now and has it raised if that is not enough, or
// will not be soon.
func (r *reserve) ask(share *router.Share, t router.Term, tp spillway.TopicPartition, end spillway.Offset) (have spillway.Offset, changed <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shares[share.ID]
	switch {
	case t.Epoch < s.epoch:
		return -1, nil, fmt.Errorf("share %s is in epoch %d, not %d", share.ID, s.epoch, t.Epoch)
	case t.Epoch > s.epoch:
		s.epoch = t.Epoch
		clear(s.want)
	}
	have = s.reserved(t.Epoch, tp)
	if have < end+s.block()/2 {
		s.want[tp] = max(s.want[tp], end+s.block())
		s.wake()
	}
	return have, s.changed, nil
}

// ahead has the ends of a planned move's new epoch raised while its clients are held,
// so that the first acknowledgement does not wait for it. No gateway serves any
// more, so nobody asks for the older epoch; should the move be given up, its ends
// are as high as any raise would have made them.
func (r *reserve) ahead(id spillway.ShareID, epoch spillway.Epoch, start failover.PartitionOffsets) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shares[id]
	if epoch < s.epoch {
		return
	}
	if epoch > s.epoch {
		s.epoch = epoch
		clear(s.want)
	}
	start.All(func(tp spillway.TopicPartition, at spillway.Offset) {
		if at >= 0 && s.reserved(epoch, tp) < at+s.block() {
			s.want[tp] = max(s.want[tp], at+s.block())
		}
	})
	if len(s.want) > 0 {
		s.wake()
	}
}

// run writes what is wanted until ctx ends. A share whose write hangs holds up
// no other one.
func (r *reserve) run(ctx context.Context) {
	var wg sync.WaitGroup
	for id, s := range r.shares {
		wg.Go(func() { r.write(ctx, id, s) })
	}
	wg.Wait()
}

func (r *reserve) write(ctx context.Context, id spillway.ShareID, s *reserved) {
	for {
		select {
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			err := r.raise(ctx, id, s)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				r.gateway.problem("raise the reserved ends of share "+id.String(), err)
			}
			select {
			case <-time.After(retryEvery):
			case <-ctx.Done():
			}
		}
	}
}

// raise writes until the store has what is wanted, all partitions at once. An
// error: it has not, and should be asked again later.
func (r *reserve) raise(ctx context.Context, id spillway.ShareID, s *reserved) error {
	ctx, cancel := context.WithTimeout(ctx, coordination.LeaseTTL/2)
	defer cancel()
	if err := r.confirm(ctx, id, s); err != nil {
		return err
	}
	for {
		next, version, wanted := r.next(s)
		if !wanted {
			return nil
		}
		key, value := r.gateway.keys.Reserved(id), encode(next)
		newer, err := r.gateway.config.Store.Put(ctx, key, value, version)
		e := coordination.Entry{Key: key, Value: value, Version: newer}
		if err != nil {
			// Another gateway was faster, or nobody knows: what is there counts.
			var readErr error
			if e, readErr = r.read(ctx, id); readErr != nil {
				return errors.Join(err, readErr)
			}
		}
		r.mu.Lock()
		r.take(s, e)
		r.mu.Unlock()
		if err != nil {
			_, newer, wanted := r.next(s)
			if wanted && (newer == version || !errors.Is(err, coordination.ErrConflict)) {
				return err
			}
		}
	}
}

// confirm reads the record if a watch gave reason to doubt it.
func (r *reserve) confirm(ctx context.Context, id spillway.ShareID, s *reserved) error {
	r.mu.Lock()
	doubt := s.doubt
	s.doubt = false
	r.mu.Unlock()
	if !doubt {
		return nil
	}
	e, err := r.read(ctx, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		s.doubt = true
		return err
	}
	r.take(s, e)
	return nil
}

// next is the record to write, and the version that it follows.
func (r *reserve) next(s *reserved) (next failover.Reserved, version uint64, wanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = failover.Reserved{Epoch: s.epoch, Ends: s.record.Ends.Clone()}
	if next.Ends == nil {
		next.Ends = make(failover.PartitionOffsets)
	}
	for tp, end := range s.want {
		next.Ends.Set(tp, max(end, next.Ends.Get(tp)))
	}
	return next, s.version, len(s.want) > 0
}
