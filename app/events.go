package app

import (
	"log/slog"
	"sync"
	"time"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/router"
)

// sayAgain is how long a problem that goes on is kept quiet after it was told.
const sayAgain = 30 * time.Second

// problems tells a repeated problem once in a while and not each time it is
// tried again.
type problems struct {
	log *slog.Logger
	mu  struct {
		sync.Mutex
		told map[string]time.Time
	}
}

func newProblems(log *slog.Logger) *problems {
	p := &problems{log: log}
	p.mu.told = map[string]time.Time{}
	return p
}

func (p *problems) tell(what string, err error) {
	p.mu.Lock()
	last, known := p.mu.told[what]
	now := time.Now()
	if known && now.Sub(last) < sayAgain {
		p.mu.Unlock()
		return
	}
	p.mu.told[what] = now
	p.mu.Unlock()
	p.log.Warn(what, "error", err)
}

func (a *App) gatewayEvents() federation.Events {
	e := a.tel.GatewayEvents()
	said := newProblems(a.log)
	count := e.Problem
	e.Problem = func(what string, err error) {
		count(what, err)
		said.tell("gateway: "+what, err)
	}
	lease := e.LeaseState
	e.LeaseState = func(err error) {
		lease(err)
		a.health("gateway lease", "lease of the gateway", err)
	}
	e.Lag = a.tellLag(e.Lag)
	share := e.ShareState
	e.ShareState = func(id spillway.ShareID, epoch spillway.Epoch, state failover.State, serving bool) {
		share(id, epoch, state, serving)
		a.log.Info("gateway took notice", "share", id.String(), "epoch", epoch, "state", state, "serving", serving)
	}
	ejected := e.Router.Ejected
	e.Router.Ejected = func(id spillway.ShareID, length time.Duration, why string) {
		ejected(id, length, why)
		a.log.Warn("batches go elsewhere for a time", "share", id.String(), "for", length.Round(time.Millisecond), "why", why)
	}
	denied, told := e.Router.Denied, newDenials(a.log)
	e.Router.Denied = func(d router.Denial) {
		denied(d)
		told.tell(d)
	}
	return e
}

// Near enough again is what is clearly below what a lag was told for, so that one which
// stays near its limit is told once.
const (
	nearOfLimit  = 0.8
	nearOfSlowed = 0.4
)

// tellLag logs when ack.onLag begins to count for a share, and when it ceases to.
func (a *App) tellLag(count func(spillway.ShareID, router.LagInfo)) func(spillway.ShareID, router.LagInfo) {
	acting := map[spillway.ShareID]bool{} // events about lags come one after the other
	return func(id spillway.ShareID, info router.LagInfo) {
		count(id, info)
		near := nearOfLimit
		if info.Limits.OnLag == spillway.OnLagThrottle {
			near = nearOfSlowed
		}
		acts := info.Beyond > 0 || info.Slowed > 0
		switch {
		case acts && !acting[id]:
			acting[id] = true
			a.log.Warn("other sites are behind", "share", id.String(), "onLag", info.Limits.OnLag, "beyond", info.Beyond, "slowed", info.Slowed,
				"worst", info.Worst.String(), "records", info.Records, "age", info.Age.Round(time.Millisecond), "lagMax", info.Limits.Age, "lagRecordsMax", info.Limits.Records)
		case !acts && acting[id] && info.Limits.Pressure(info.Lag) < near:
			acting[id] = false
			a.log.Info("other sites are near enough again", "share", id.String())
		}
	}
}
