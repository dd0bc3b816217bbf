package router

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
)

// fetchOthers is how long the answers of further brokers are waited for once one has
// answered, at first; see patient.
const fetchOthers = time.Second

// errFetchLate: it has not, by then.
var errFetchLate = errors.New("other brokers have answered")

// leaders groups parts by the connections to the brokers that lead them. Those that cannot
// be reached are left for the next try.
func (f *fetch) leaders(ctx context.Context, changes changes, parts []*fetchPart) map[*Lane][]*fetchPart {
	r, whole := f.client.router, ctx
	ctx, cancel := untilChanged(ctx, changes, parts)
	defer cancel()
	ctx, enough := context.WithTimeout(ctx, max(time.Until(f.deadline), reachOthers))
	defer enough()
	goals := make([]*goal, len(parts))
	for i, p := range parts {
		goals[i] = &goal{site: p.site, find: func(ctx context.Context) (int32, error) { return r.sites[p.site].Leader(ctx, p.tp) }}
	}
	f.client.lanes.reach(ctx, FetchLane, goals)
	f.missing = false
	byLane := make(map[*Lane][]*fetchPart)
	for i, g := range goals {
		p := parts[i]
		if g.err != nil && whole.Err() == nil {
			p.left = p.standing
		}
		switch {
		case g.err == nil:
			byLane[g.lane] = append(byLane[g.lane], p)
		case errors.Is(g.err, broker.ErrUnknownTopic) && !p.standing:
			p.fail(kerr.UnknownTopicOrPartition.Code)
		default:
			f.missing = true
			r.relearn(p.site, p.tp.Topic)
		}
	}
	return byLane
}

// ask sends one request to each broker, if there is room, and serves what they answer.
// It returns false if something could not be reached or has another leader by now.
func (f *fetch) ask(ctx context.Context, changes changes, byLane map[*Lane][]*fetchPart, wait time.Duration) bool {
	defer func() { f.sreq.Hold(f.got.Load()) }()
	if len(byLane) == 0 || f.room <= 0 {
		return true
	}
	room := max(f.room/int64(len(byLane)), 1)
	if len(byLane) > 1 || f.missing {
		// Answers of several nodes are waited for together, so each waits
		// only a moment, and the round is repeated.
		wait = min(wait, fetchSeveral)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	well := !f.missing
	answered := make(chan struct{}) // closed once one has
	var first sync.Once
	for lane, parts := range byLane {
		wg.Go(func() {
			ctx, end := untilChanged(ctx, changes, parts)
			defer end()
			if len(byLane) > 1 {
				var done func()
				ctx, done = f.client.lanes.patient(ctx, lane, answered)
				defer done()
			}
			ok := f.askNode(ctx, lane, parts, wait, room)
			first.Do(func() { close(answered) })
			mu.Lock()
			defer mu.Unlock()
			well = well && ok
		})
	}
	wg.Wait()
	return well
}

// patient returns a context that ends when an answer has been waited for long enough, since
// another one came: fetchOthers, and twice as long each time that it was not enough, so that a
// site that is only slow gets through. One that is dark is not reached the next time.
func (ls *lanes) patient(ctx context.Context, l *Lane, other <-chan struct{}) (context.Context, func()) {
	k := laneKey{l.Kind, l.Site, l.Node}
	ls.mu.Lock()
	patience := max(ls.mu.patience[k], fetchOthers)
	ls.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-other:
		case <-ctx.Done():
			return
		}
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-late.C:
			cancel(errFetchLate)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		if errors.Is(context.Cause(ctx), errFetchLate) {
			ls.mu.Lock()
			if ls.mu.patience == nil {
				ls.mu.patience = make(map[laneKey]time.Duration)
			}
			ls.mu.patience[k] = min(2*patience, ls.router.config.ProduceMax)
			ls.mu.Unlock()
		}
		cancel(nil)
	}
}

func (f *fetch) askNode(ctx context.Context, lane *Lane, parts []*fetchPart, wait time.Duration, room int64) bool {
	r := f.client.router
	asking := ctx
	failed := func() {
		if asking.Err() == nil || errors.Is(context.Cause(asking), errFetchLate) { // else the share moves, or the client is gone
			for _, p := range parts {
				p.left = p.standing
			}
		}
	}
	req := f.upstream(parts, wait, room, min(lane.conn.MaxVersion(f.req.Key()), fetchUpstreamMax))
	ctx, cancel := context.WithTimeout(ctx, wait+r.config.ProduceMax)
	defer cancel()
	body, err := lane.conn.Send(ctx, req.Key(), req.Version, true, req.AppendTo(nil)).Wait(ctx)
	if err != nil {
		failed()
		if ctx.Err() != nil {
			f.client.lanes.giveUp(lane, nil)
			return true
		}
		return false
	}
	f.got.Add(int64(len(body)))
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	if err := conn.Decode(resp, body); err != nil {
		failed()
		_ = lane.conn.Close()
		return false
	}
	return f.take(lane.Site, parts, resp)
}

// take serves the partitions of one node's answer.
func (f *fetch) take(site spillway.SiteID, parts []*fetchPart, resp *kmsg.FetchResponse) bool {
	byName := make(map[spillway.TopicPartition]*fetchPart, len(parts))
	for _, p := range parts {
		byName[p.tp] = p
	}
	well := resp.ErrorCode == 0
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			in := &t.Partitions[j]
			p := byName[spillway.TopicPartition{Topic: t.Topic, Partition: in.Partition}]
			if p == nil {
				continue
			}
			f.found.Add(int64(len(in.RecordBatches)))
			switch in.ErrorCode {
			case kerr.NotLeaderForPartition.Code, kerr.LeaderNotAvailable.Code, kerr.ReplicaNotAvailable.Code, kerr.KafkaStorageError.Code:
				well = false
				f.client.router.relearn(site, t.Topic)
			}
			p.serve(f, in)
		}
	}
	return well
}

// upstream is the request for one node of a site: in the site's offsets,
// without a session, without leader epochs.
func (f *fetch) upstream(parts []*fetchPart, wait time.Duration, room int64, version int16) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.SessionEpoch = version, -1, -1
	req.MaxWaitMillis = int32(wait.Milliseconds())
	req.MinBytes = min(max(f.req.MinBytes, 0), int32(room))
	req.MaxBytes = int32(room)
	req.IsolationLevel = f.req.IsolationLevel
	at := make(map[string]int)
	for _, p := range parts {
		i, ok := at[p.tp.Topic]
		if !ok {
			i = len(req.Topics)
			at[p.tp.Topic] = i
			t := kmsg.NewFetchRequestTopic()
			t.Topic = p.tp.Topic
			req.Topics = append(req.Topics, t)
		}
		in := kmsg.NewFetchRequestTopicPartition()
		in.Partition, in.FetchOffset = p.tp.Partition, int64(p.local)
		in.CurrentLeaderEpoch, in.LastFetchedEpoch, in.LogStartOffset = -1, -1, -1
		in.PartitionMaxBytes = min(max(p.in.PartitionMaxBytes, 1), req.MaxBytes)
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, in)
	}
	return req
}
