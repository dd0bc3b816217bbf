package federation

// cameBy are the clients of shares that are adopting of which brokers do not show that they
// came by this gateway: transactional producers, by share, and members with an instance id.
func (g *Gateway) cameBy() (transactional map[string][]int64, static []uint64) {
	for id, s := range g.shares {
		if !s.Group.Adopting && s.Record().Adoption == nil {
			continue
		}
		if ids := g.router.TransactionalProducers(s); len(ids) > 0 {
			if transactional == nil {
				transactional = make(map[string][]int64)
			}
			transactional[id.String()] = ids
		}
		static = append(static, g.router.StaticMembers(s)...)
	}
	return transactional, static
}
