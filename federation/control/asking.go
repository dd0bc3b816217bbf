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

// partitionsOf are those of the topics that have leaders, the first sizesMax of them.
func partitionsOf(md broker.Metadata, topics map[string]preflight.Topic) []spillway.TopicPartition {
	var tps []spillway.TopicPartition
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
	return tps[:min(len(tps), sizesMax)]
}

// room asks how much room the disks have, and how much the group writes.
func (a *asking) room(ctx context.Context, admin broker.Admin, seen *preflight.Site, tps []spillway.TopicPartition) {
	a.Go(func() {
		dirs, err := admin.LogDirs(ctx, tps)
		a.failed(preflight.AboutDisks, err)
		seen.Disks = disksOf(dirs)
		if len(dirs) == 0 {
			return
		}
		seen.Arrivals, err = arrivals(ctx, admin, tps, dirs, time.Now())
		a.failed(preflight.AboutDisks, err)
		if len(tps) == sizesMax {
			a.failed(preflight.AboutDisks, fmt.Errorf("the sizes of the first %d partitions were read", sizesMax))
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

// arrivals reckons how much was written in the last hour: from the sizes of logs, how many
// offsets they have, and how many of them are of that hour.
func arrivals(ctx context.Context, admin broker.Admin, tps []spillway.TopicPartition, dirs map[int32][]broker.LogDir, now time.Time) (preflight.Arrivals, error) {
	size := map[spillway.TopicPartition]int64{}
	for _, of := range dirs {
		for _, d := range of {
			for tp, bytes := range d.Sizes {
				size[tp] = max(size[tp], bytes) // of the replica that has most
			}
		}
	}
	starts, err := admin.LogStarts(ctx, tps)
	if err != nil {
		return nil, err
	}
	since, err := admin.OffsetsForTime(ctx, tps, now.Add(-preflight.ArrivalsIn).UnixMilli())
	if err != nil {
		return nil, err
	}
	ends, err := admin.HighWatermarks(ctx, tps)
	if err != nil {
		return nil, err
	}
	found := preflight.Arrivals{}
	for _, tp := range tps {
		if since[tp] >= 0 { // else nothing is so young
			found[tp] = preflight.Arrived(size[tp], int64(ends[tp]-starts[tp]), int64(ends[tp]-since[tp]))
		}
	}
	return found, nil
}

// features asks what the site can do for clients.
func (a *asking) features(ctx context.Context, cluster broker.Cluster, seen *preflight.Site) {
	a.Go(func() {
		levels, err := cluster.Admin().Features(ctx)
		a.failed(preflight.AboutFeatures, err)
		seen.Protocol.Features, seen.Protocol.NextGroups = levels, cluster.Capabilities().ConsumerGroupV2
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
func scopeOf(topology *spillway.Topology, g spillway.FailoverGroup) preflight.Scope {
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
	}
	for _, site := range topology.Sites() {
		for _, principal := range []string{site.GatewayPrincipal, site.MirrorPrincipal} {
			if principal != "" && !slices.Contains(s.Own, principal) {
				s.Own = append(s.Own, principal)
			}
		}
	}
	return s
}
