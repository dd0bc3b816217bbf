package federation

import "spillway/federation/layout"

// cameBy adds to a lease what brokers do not show of the clients of shares that are adopting:
// which transactional producers, members with an instance id, and producers without an id came
// by this gateway.
func (g *Gateway) cameBy(lease layout.GatewayLease) layout.GatewayLease {
	for id, s := range g.shares {
		if !s.Adopting() {
			continue
		}
		if ids := g.router.TransactionalProducers(s); len(ids) > 0 {
			if lease.Transactional == nil {
				lease.Transactional = make(map[string][]layout.Through)
			}
			lease.Transactional[id.String()] = ids
		}
		lease.Static = append(lease.Static, g.router.StaticMembers(s)...)
		for _, tp := range g.router.PlainPartitions(s) {
			if lease.Plain == nil {
				lease.Plain = make(map[string][]int32)
			}
			lease.Plain[tp.Topic] = append(lease.Plain[tp.Topic], tp.Partition)
		}
	}
	return lease
}
