package federation

// ForgetStandbys has a gateway forget what it has measured of standbys, as it does when
// nobody has read there for freshKept.
func (g *Gateway) ForgetStandbys() {
	g.standby.mu.Lock()
	defer g.standby.mu.Unlock()
	clear(g.standby.mu.tracks)
}
