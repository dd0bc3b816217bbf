package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/preflight"
)

// asking puts several questions to a site at once, and notes those that it did not answer.
type asking struct {
	sync.WaitGroup
	mu struct {
		sync.Mutex
		unread []preflight.Unread
	}
}

// failed notes a question without an answer. nil is none.
func (a *asking) failed(about string, err error) {
	if err == nil {
		return
	}
	first, rest, more := strings.Cut(err.Error(), "\n") // one for each broker
	if more {
		first += fmt.Sprintf(" (and %d more)", 1+strings.Count(rest, "\n"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.unread = append(a.mu.unread, preflight.Unread{About: about, Why: clip(first)})
}

// told are the questions without an answer, in an order of their own.
func (a *asking) told() []preflight.Unread {
	slices.SortFunc(a.mu.unread, func(x, y preflight.Unread) int {
		return cmp.Or(strings.Compare(x.About, y.About), strings.Compare(x.Why, y.Why))
	})
	return a.mu.unread
}

// brokersOf counts the brokers, and finds those that have replicas and are not there.
func brokersOf(md broker.Metadata, topics map[string]preflight.Topic) preflight.Brokers {
	seen := preflight.Brokers{Alive: len(md.Nodes)}
	for name := range topics {
		for _, p := range md.Topics[name].Partitions {
			for _, id := range p.Replicas {
				there := slices.ContainsFunc(md.Nodes, func(n broker.Node) bool { return n.ID == id })
				if !there && !slices.Contains(seen.Absent, id) {
					seen.Absent = append(seen.Absent, id)
				}
			}
		}
	}
	slices.Sort(seen.Absent)
	return seen
}

// sizesMax is of how many partitions the sizes are asked for.
const sizesMax = 10_000

// partitionsOf are those of the topics that have leaders, the first sizesMax of them, and how
// many more there are.
func partitionsOf(md broker.Metadata, topics map[string]preflight.Topic) (tps []spillway.TopicPartition, more int) {
	for name := range topics {
		for _, p := range md.Topics[name].Partitions {
			if p.Leader >= 0 {
				tps = append(tps, spillway.TopicPartition{Topic: name, Partition: p.Partition})
			}
		}
	}
	slices.SortFunc(tps, func(a, b spillway.TopicPartition) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	few := tps[:min(len(tps), sizesMax)]
	return few, len(tps) - len(few)
}

// room asks how much room the disks have, and with room > 0 how much the group writes.
func (a *asking) room(ctx context.Context, admin broker.Admin, seen *preflight.Site, tps []spillway.TopicPartition, room time.Duration) {
	a.Go(func() {
		var logs logsOf
		var errLogs error
		var asked sync.WaitGroup
		if room > 0 {
			asked.Go(func() { logs, errLogs = readLogs(ctx, admin, tps, time.Now(), room) })
		}
		dirs, err := admin.LogDirs(ctx, tps)
		asked.Wait()
		a.failed(preflight.AboutDisks, err)
		seen.Disks = disksOf(dirs)
		if len(dirs) == 0 || room <= 0 {
			return
		}
		a.failed(preflight.AboutDisks, errLogs)
		if errLogs == nil {
			seen.Arrivals, seen.Unsure = arrivals(tps, dirs, logs, room)
		}
	})
}

// disksOf puts directories in order. A broker that tells of none has one of which nothing
// is known.
func disksOf(dirs map[int32][]broker.LogDir) []preflight.Disk {
	var disks []preflight.Disk
	for id, of := range dirs {
		if len(of) == 0 {
			of = []broker.LogDir{{Path: "unknown", TotalBytes: -1, UsableBytes: -1}}
		}
		for _, d := range of {
			disk := preflight.Disk{Broker: id, Path: d.Path, Offline: d.Offline, TotalBytes: d.TotalBytes, UsableBytes: d.UsableBytes}
			for tp := range d.Sizes {
				disk.Has = append(disk.Has, tp)
			}
			disks = append(disks, disk)
		}
	}
	slices.SortFunc(disks, func(x, y preflight.Disk) int {
		return cmp.Or(cmp.Compare(x.Broker, y.Broker), strings.Compare(x.Path, y.Path))
	})
	return disks
}

// logsOf are offsets of logs: where they begin and end, and which were the first of the last
// hour, and of the time before that, as long as there has to be room for.
type logsOf struct {
	starts, before, since, ends map[spillway.TopicPartition]spillway.LocalOffset
}

// readLogs asks for all of them at once: between sites that are far from each other there is
// little time for one after the other.
func readLogs(ctx context.Context, admin broker.Admin, tps []spillway.TopicPartition, now time.Time, room time.Duration) (l logsOf, err error) {
	var asked sync.WaitGroup
	errs := make([]error, 4)
	hour := now.Add(-preflight.ArrivalsIn)
	asked.Go(func() { l.starts, errs[0] = admin.LogStarts(ctx, tps) })
	asked.Go(func() { l.before, errs[1] = admin.OffsetsForTime(ctx, tps, hour.Add(-room).UnixMilli()) })
	asked.Go(func() { l.since, errs[2] = admin.OffsetsForTime(ctx, tps, hour.UnixMilli()) })
	asked.Go(func() { l.ends, errs[3] = admin.HighWatermarks(ctx, tps) })
	asked.Wait()
	return l, cmp.Or(errs...) // one says it
}

// arrivals reckons how much was written in the last hour: from the sizes of logs, how many
// offsets they have, and how many of them are of that hour.
func arrivals(tps []spillway.TopicPartition, dirs map[int32][]broker.LogDir, l logsOf, room time.Duration) (found preflight.Arrivals, unsure []spillway.TopicPartition) {
	size := map[spillway.TopicPartition]int64{}
	for _, of := range dirs {
		for _, d := range of {
			for tp, bytes := range d.Sizes {
				size[tp] = max(size[tp], bytes) // of the replica that has most
			}
		}
	}
	found = preflight.Arrivals{}
	for _, tp := range tps {
		start, before, since, end := int64(l.starts[tp]), int64(l.before[tp]), int64(l.since[tp]), int64(l.ends[tp])
		if since < 0 { // nothing is so young
			continue
		}
		found[tp] = preflight.Arrived(size[tp], end-start, end-since)
		if !preflight.Sure(start, before, since, end, room) {
			unsure = append(unsure, tp)
		}
	}
	return found, unsure
}

// features asks what the site can do for clients.
func (a *asking) features(ctx context.Context, admin broker.Admin, seen *preflight.Site) {
	a.Go(func() {
		levels, err := admin.Features(ctx)
		a.failed(preflight.AboutFeatures, err)
		seen.Protocol.Features = levels
	})
}

// groups asks which consumer groups of the failover group there are, and what they speak.
func (a *asking) groups(ctx context.Context, admin broker.Admin, topology *spillway.Topology, g spillway.FailoverGroup, seen *preflight.Site) {
	a.Go(func() {
		groups, err := admin.ListGroups(ctx)
		a.failed(preflight.AboutGroups, err)
		for _, one := range groups {
			if of, ok := topology.GroupOfConsumerGroup(one.ID); !ok || of.Name != g.Name {
				continue
			}
			seen.Rights.ConsumerGroups = append(seen.Rights.ConsumerGroups, one.ID)
			if one.Type == "consumer" && one.State != "Empty" && one.State != "Dead" {
				seen.Protocol.NextGroupsActive = append(seen.Protocol.NextGroupsActive, one.ID)
			}
		}
	})
}

// rights asks who may do what.
func (a *asking) rights(ctx context.Context, admin broker.Admin, seen *preflight.Site) {
	a.Go(func() {
		entries, err := admin.AllACLs(ctx)
		if errors.Is(err, broker.ErrNotSupported) {
			seen.Rights.Read, seen.Rights.None = true, true
			return
		}
		a.failed(preflight.AboutRights, err)
		seen.Rights.Read, seen.Rights.Entries = err == nil, entries
	})
}

// quotas asks for those of clients.
func (a *asking) quotas(ctx context.Context, admin broker.Admin, seen *preflight.Site) {
	a.Go(func() {
		all, err := admin.Quotas(ctx)
		if err != nil {
			a.failed(preflight.AboutQuotas, err)
			return
		}
		seen.Quotas = make(preflight.Quotas, len(all))
		for entity, values := range all {
			seen.Quotas[string(entity)] = values
		}
	})
}

// scopeOf is what entries of access control lists may be about, for a failover group.
func scopeOf(topology *spillway.Topology, g spillway.FailoverGroup, notClients []string) preflight.Scope {
	s := preflight.Scope{
		Topic: func(name string) bool { return topology.HasTopic(g, name) },
		ConsumerGroup: func(name string) bool {
			of, ok := topology.GroupOfConsumerGroup(name)
			return ok && of.Name == g.Name
		},
		TransactionalID: func(name string) bool {
			of, ok := topology.GroupOfTransactionalID(name)
			return ok && of.Name == g.Name
		},
		TransactionalIDs: g.TransactionalIDs,
		Own:              slices.Clone(notClients),
		Gateways:         map[spillway.SiteID]string{},
	}
	for _, site := range topology.Sites() {
		s.Gateways[site.ID] = site.GatewayPrincipal
		for _, principal := range []string{site.GatewayPrincipal, site.MirrorPrincipal} {
			if principal != "" && !slices.Contains(s.Own, principal) {
				s.Own = append(s.Own, principal)
			}
		}
	}
	return s
}
