package router

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
)

// ask sends one request to each node, if there is room, and serves what they answer.
// It returns false if something could not be reached or has another leader by now.
func (f *fetch) ask(ctx context.Context, byNode map[laneKey][]*fetchPart, wait time.Duration) bool {
	defer func() { f.sreq.Hold(f.got.Load()) }()
	if len(byNode) == 0 || f.room <= 0 {
		return true
	}
	room := max(f.room/int64(len(byNode)), 1)
	if len(byNode) > 1 {
		// Answers of several nodes are waited for together, so each waits
		// only a moment, and the round is repeated.
		wait = min(wait, fetchSeveral)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	well := true
	for k, parts := range byNode {
		wg.Go(func() {
			if !f.askNode(ctx, k, parts, wait, room) {
				mu.Lock()
				defer mu.Unlock()
				well = false
			}
		})
	}
	wg.Wait()
	return well
}

func (f *fetch) askNode(ctx context.Context, k laneKey, parts []*fetchPart, wait time.Duration, room int64) bool {
	r := f.client.router
	asking := ctx
	failed := func() {
		if asking.Err() == nil { // else the share moves, or the client is gone
			for _, p := range parts {
				p.leave()
			}
		}
	}
	lane, err := f.client.lanes.Lane(ctx, k.kind, k.site, k.node)
	if err != nil {
		failed()
		r.refresh(ctx, k.site)
		return false
	}
	req := f.upstream(parts, wait, room, min(lane.conn.MaxVersion(f.req.Key()), fetchUpstreamMax))
	ctx, cancel := context.WithTimeout(ctx, wait+r.config.ProduceMax)
	defer cancel()
	body, err := lane.conn.Send(ctx, req.Key(), req.Version, true, req.AppendTo(nil)).Wait(ctx)
	if err != nil {
		failed()
		if ctx.Err() != nil {
			// Its answer may come much later and would hold up the next fetch.
			f.client.lanes.forget(lane) // nor is the next one to find it half closed
			r.background.Go(func() { _ = lane.conn.Close() })
			return true
		}
		r.refresh(ctx, k.site)
		return false
	}
	f.got.Add(int64(len(body)))
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	if err := conn.Decode(resp, body); err != nil {
		failed()
		_ = lane.conn.Close()
		return false
	}
	return f.take(ctx, k.site, parts, resp)
}

// take serves the partitions of one node's answer.
func (f *fetch) take(ctx context.Context, site spillway.SiteID, parts []*fetchPart, resp *kmsg.FetchResponse) bool {
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
			}
			p.serve(f, in)
		}
	}
	if !well {
		f.client.router.refresh(ctx, site)
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

// refresh drops what is known of a site's leaders and coordinators.
func (r *Router) refresh(ctx context.Context, site spillway.SiteID) {
	_ = r.sites[site].Refresh(ctx) // the next look finds out whether it helped
}
