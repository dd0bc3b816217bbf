package mirror

import "spillway/mirror/workers"

// instant reads the clocks by which workers count the times of each other.
func (m *Mirror) instant() workers.Instant {
	now := m.config.Now()
	return workers.Instant{Wall: now.Round(0), Mono: now.Sub(m.began), Boot: m.config.Boot()}
}
