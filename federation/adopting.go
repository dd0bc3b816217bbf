package federation

// transactional are the transactional producers of shares that are adopting; nil: none.
func (g *Gateway) transactional() map[string][]int64 {
	var told map[string][]int64
	for id, s := range g.shares {
		if !s.Group.Adopting && s.Record().Adoption == nil {
			continue
		}
		if ids := g.router.TransactionalProducers(s); len(ids) > 0 {
			if told == nil {
				told = make(map[string][]int64)
			}
			told[id.String()] = ids
		}
	}
	return told
}
