package federation

import (
	"spillway"
	"spillway/federation/layout"
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
	room := toldBytesMax
	for id, s := range g.shares {
		if !s.Adopting() {
			continue
		}
		ids := within(&room, g.router.TransactionalProducers(s), func(layout.Through) int { return 48 })
		if len(ids) > 0 {
			if lease.Transactional == nil {
				lease.Transactional = make(map[string][]layout.Through)
			}
			lease.Transactional[id.String()] = ids
		}
		lease.Static = append(lease.Static, within(&room, g.router.StaticMembers(s), func(uint64) int { return 24 })...)
		for _, tp := range within(&room, g.router.PlainPartitions(s), func(tp spillway.TopicPartition) int { return 32 + len(tp.Topic) }) {
			if lease.Plain == nil {
				lease.Plain = make(map[string][]int32)
			}
			lease.Plain[tp.Topic] = append(lease.Plain[tp.Topic], tp.Partition)
		}
	}
	return lease
}
