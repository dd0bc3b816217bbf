package federation

import (
	"context"
	"math"
	"time"

	"spillway"
	"spillway/federation/lag"
	"spillway/federation/layout"
	"spillway/federation/router"
)

// lagEvery is how often a gateway tells how far the other sites are behind.
const lagEvery = time.Second

// tellLags tells, until ctx ends, how far the other sites are behind, of each share that
// has limits, and what the lease is to say of it.
func (g *Gateway) tellLags(ctx context.Context) {
	told := make(map[spillway.ShareID]bool) // what is not known yet is not told as nothing
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		infos := g.router.Lags()
		lagging := make(map[string]layout.Lagging)
		for id, s := range g.shares {
			limits, ok := lag.Of(s.Group)
			if !ok {
				continue
			}
			info, known := infos[id]
			info.Limits = limits
			if told[id] = told[id] || known; told[id] && g.events.Lag != nil {
				g.events.Lag(id, info)
			}
			if info.Beyond > 0 || info.Slowed > 0 {
				lagging[id.String()] = laggingOf(info)
			}
		}
		g.mu.Lock()
		g.mu.lagging = lagging
		g.mu.Unlock()
	}
}

func laggingOf(info router.LagInfo) layout.Lagging {
	return layout.Lagging{
		Partitions: max(info.Beyond, info.Slowed), Worst: info.Worst.String(), Records: info.Records,
		Seconds: math.Round(info.Age.Seconds()*10) / 10,
	}
}
