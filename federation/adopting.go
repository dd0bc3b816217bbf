package federation

import (
	"slices"
	"strings"

	"spillway"
	"spillway/federation/layout"
	"spillway/federation/router"
)

// toldBytesMax bounds what a lease tells of clients, over all shares, in bytes: stores refuse
// values of more than 512 KB, and the gateway would lose its lease. Who is not told of looks
// like one that goes past the gateways.
const toldBytesMax = 200_000

// within are as many of what there is to be told as there is room for.
func within[T any](room *int, all []T, size func(T) int) []T {
	for i, one := range all {
		if *room -= size(one); *room < 0 {
			*room = 0
			return all[:i]
		}
	}
	return all
}

// cameBy adds to a lease what brokers do not show of the clients of shares that are adopting:
// which transactional producers, members with an instance id, and producers without an id came
// by this gateway.
func (g *Gateway) cameBy(lease layout.GatewayLease) layout.GatewayLease {
	var adopting []*router.Share
	for _, s := range g.shares {
		if s.Adopting() {
			adopting = append(adopting, s)
		}
	}
	if len(adopting) == 0 {
		return lease
	}
	slices.SortFunc(adopting, func(a, b *router.Share) int { return strings.Compare(a.Group.Name, b.Group.Name) }) // the same ones find room each time
	room, producers, members, partitions := toldBytesMax, g.router.TransactionalProducers(), g.router.StaticMembers(), g.router.PlainPartitions()
	for _, s := range adopting {
		ids := within(&room, producers[s], func(layout.Through) int { return 48 })
		if len(ids) > 0 {
			if lease.Transactional == nil {
				lease.Transactional = make(map[string][]layout.Through)
			}
			lease.Transactional[s.ID.String()] = ids
		}
		lease.Static = append(lease.Static, within(&room, members[s], func(uint64) int { return 24 })...)
		for _, tp := range within(&room, partitions[s], func(tp spillway.TopicPartition) int { return 32 + len(tp.Topic) }) {
			if lease.Plain == nil {
				lease.Plain = make(map[string][]int32)
			}
			lease.Plain[tp.Topic] = append(lease.Plain[tp.Topic], tp.Partition)
		}
	}
	return lease
}
