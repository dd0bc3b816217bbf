package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

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
//	B  ends never fall
type reserve struct {
	gateway *Gateway
	kick    chan struct{}

	mu     sync.Mutex
	shares map[spillway.ShareID]*reserved
}

type reserved struct {
	share   *router.Share
	version uint64
	record  failover.Reserved
	epoch   spillway.Epoch // in which want is asked for
	want    map[spillway.TopicPartition]spillway.Offset
	changed chan struct{} // closed when record changes or a write failed
	failed  error         // of the last write, nil if it succeeded
}

func newReserve(g *Gateway) *reserve {
	r := &reserve{gateway: g, kick: make(chan struct{}, 1), shares: make(map[spillway.ShareID]*reserved)}
	for id, s := range g.shares {
		r.shares[id] = &reserved{share: s, want: make(map[spillway.TopicPartition]spillway.Offset), changed: make(chan struct{})}
	}
	return r
}

func (s *reserved) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *reserved) block() spillway.Offset {
	if b := s.share.Group.ReservedBlock; b > 0 {
		return spillway.Offset(b)
	}
	return reservedBlockDefault
}

// see takes what a watch shows.
func (r *reserve) see(entries []coordination.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		for id, s := range r.shares {
			if strings.HasSuffix(e.Key, "/reserved/"+id.String()) && e.Version > s.version {
				r.take(s, e)
			}
		}
	}
}

// take a newer record. The caller holds mu.
func (r *reserve) take(s *reserved, e coordination.Entry) {
	var record failover.Reserved
	if err := json.Unmarshal(e.Value, &record); err != nil {
		r.gateway.problem("read "+e.Key, err)
		return
	}
	s.version, s.record = e.Version, record
	s.signal()
}

// load reads the record of a share before the share opens.
func (r *reserve) load(ctx context.Context, share *router.Share) error {
	e, err := r.gateway.config.Store.Get(ctx, r.gateway.keys.Reserved(share.ID))
	if errors.Is(err, coordination.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(r.shares[share.ID], e)
	return nil
}

// End implements router.Reserve.
func (r *reserve) End(share *router.Share, t router.Term, tp spillway.TopicPartition) spillway.Offset {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.shares[share.ID]; s.record.Epoch == t.Epoch {
		return s.record.Ends.Get(tp)
	}
	return -1
}

// Extend implements router.Reserve.
func (r *reserve) Extend(ctx context.Context, share *router.Share, t router.Term, tp spillway.TopicPartition, end spillway.Offset) error {
	first := true
	for {
		r.mu.Lock()
		s := r.shares[share.ID]
		have := spillway.Offset(-1)
		if s.record.Epoch == t.Epoch {
			have = s.record.Ends.Get(tp)
		}
		if s.record.Epoch > t.Epoch {
			r.mu.Unlock()
			return fmt.Errorf("share %s is in epoch %d, not %d", share.ID, s.record.Epoch, t.Epoch)
		}
		if have < end+s.block()/2 {
			r.ask(s, t.Epoch, tp, end+s.block())
		}
		changed, failed := s.changed, s.failed
		r.mu.Unlock()
		if have >= end {
			return nil
		}
		if failed != nil && !first {
			return failed
		}
		first = false
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask wants an end; the writer fulfils it. The caller holds mu.
func (r *reserve) ask(s *reserved, epoch spillway.Epoch, tp spillway.TopicPartition, end spillway.Offset) {
	if epoch != s.epoch {
		clear(s.want)
		s.epoch = epoch
	}
	s.want[tp] = max(s.want[tp], end)
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run writes what is wanted, all partitions of a share at once.
func (r *reserve) run(ctx context.Context) {
	for {
		select {
		case <-r.kick:
		case <-ctx.Done():
			return
		}
		for id := range r.shares {
			if err := r.raise(ctx, id); err != nil && ctx.Err() == nil {
				r.gateway.problem("raise the reserved ends of share "+id.String(), err)
			}
		}
	}
}

func (r *reserve) raise(ctx context.Context, id spillway.ShareID) error {
	ctx, cancel := context.WithTimeout(ctx, coordination.LeaseTTL/2)
	defer cancel()
	for {
		r.mu.Lock()
		s := r.shares[id]
		want, epoch, version, record := maps.Clone(s.want), s.epoch, s.version, s.record
		clear(s.want)
		r.mu.Unlock()
		if len(want) == 0 {
			return nil
		}
		if record.Epoch > epoch {
			return fmt.Errorf("epoch %d is over, the store has %d", epoch, record.Epoch)
		}
		next := failover.Reserved{Epoch: epoch, Ends: make(failover.PartitionOffsets)}
		for topic, ends := range record.Ends {
			next.Ends[topic] = slices.Clone(ends)
		}
		for tp, end := range want {
			next.Ends.Set(tp, max(end, next.Ends.Get(tp)))
		}
		key, value := r.gateway.keys.Reserved(id), encode(next)
		newer, err := r.gateway.config.Store.Put(ctx, key, value, version)
		if errors.Is(err, coordination.ErrConflict) || errors.Is(err, coordination.ErrUnavailable) {
			// Another gateway was faster, or nobody knows: what is there counts.
			if e, getErr := r.gateway.config.Store.Get(ctx, key); getErr == nil && r.again(s, e, epoch, want) && errors.Is(err, coordination.ErrConflict) {
				continue
			}
		}
		r.mu.Lock()
		if s.failed = err; err == nil {
			s.version, s.record = newer, next
		}
		s.signal()
		r.mu.Unlock()
		return err
	}
}

// again takes what the store has and wants the same as before; false if the
// epoch is over.
func (r *reserve) again(s *reserved, e coordination.Entry, epoch spillway.Epoch, want map[spillway.TopicPartition]spillway.Offset) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(s, e)
	if s.epoch == epoch {
		for tp, end := range want {
			s.want[tp] = max(s.want[tp], end)
		}
	}
	return s.record.Epoch <= epoch
}
