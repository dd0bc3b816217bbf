package telemetry

import (
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/quota"
	"spillway/federation/router"
	"spillway/federation/session"
)

// SessionEvents counts what client connections do.
func (t *Telemetry) SessionEvents() session.Events {
	open := t.gauge(gatewayConnections)
	opened := t.counter(gatewayOpened)
	held := t.gauge(gatewayBytesHeld)
	return session.Events{
		ConnectionOpened: func() { open.Inc(); opened.Inc() },
		ConnectionClosed: func(r session.Reason) {
			open.Dec()
			t.counter(gatewayClosed, string(r)).Inc()
		},
		BytesHeld: func(more int64) { held.Add(float64(more)) },
		RequestServed: func(key, _ int16, took time.Duration) {
			api := kmsg.NameForKey(key) // a fixed set: unknown keys are refused before
			t.counter(gatewayRequests, api).Inc()
			t.histogram(gatewayRequestTime, api).Observe(took.Seconds())
		},
	}
}

// RouterEvents counts what becomes of requests.
func (t *Telemetry) RouterEvents() router.Events {
	return router.Events{
		Held: func(id spillway.ShareID) {
			t.gauge(gatewayHeldNow, id.Group).Inc()
			t.counter(gatewayHeld, id.Group).Inc()
		},
		Released: func(id spillway.ShareID, waited time.Duration) {
			t.gauge(gatewayHeldNow, id.Group).Dec()
			t.histogram(gatewayHoldTime, id.Group).Observe(waited.Seconds())
		},
		Refused: func(reason string) { t.counter(gatewayRefusals, reason).Inc() },
		Produced: func(id spillway.ShareID, records int32, bytes int, local, took time.Duration) {
			t.counter(gatewayRecords, id.Group).Add(float64(records))
			t.counter(gatewayBytes, id.Group).Add(float64(bytes))
			t.histogram(gatewayProduceLocal, id.Group).Observe(local.Seconds())
			t.histogram(gatewayProduceTime, id.Group).Observe(took.Seconds())
		},
		Throttled: func(id spillway.ShareID, took time.Duration) {
			t.histogram(gatewayThrottle, id.Group).Observe(took.Seconds())
		},
		Blocked: func(id spillway.ShareID) { t.gauge(gatewayBlockedNow, id.Group).Inc() },
		Unblocked: func(id spillway.ShareID, waited time.Duration) {
			t.gauge(gatewayBlockedNow, id.Group).Dec()
			t.histogram(gatewayBlockTime, id.Group).Observe(waited.Seconds())
		},
		FirstContact: func(outcome string) { t.counter(gatewayContacts, outcome).Inc() },
		Picked:       func(id spillway.ShareID, reason string) { t.counter(gatewayPicks, id.Group, reason).Inc() },
		Ejected:      func(id spillway.ShareID, _ time.Duration, _ string) { t.counter(gatewayEjections, id.Group).Inc() },
		Denied: func(d router.Denial) {
			t.counter(gatewayDenials, strings.ToLower(string(d.Kind)), strings.ToLower(string(d.Operation))).Inc()
		},
		Read: func(id spillway.ShareID, info router.ReadInfo) {
			from := readFrom(info)
			t.counter(gatewayNearReads, id.Group, from).Inc()
			t.counter(gatewayNearRecords, id.Group, from).Add(float64(info.Records))
			t.counter(gatewayNearBytes, id.Group, from).Add(float64(info.Bytes))
		},
		Sent: func(id spillway.ShareID, way string) { t.counter(gatewayReadsSent, id.Group, way).Inc() },
		OverQuota: func(kind quota.Kind, pause time.Duration) {
			t.histogram(gatewayOverQuota, kind.String()).Observe(pause.Seconds())
		},
		FetchLimited: func() { t.counter(gatewayFetchLimited).Inc() },
	}
}

// readFrom says where a consumer near a site read.
func readFrom(info router.ReadInfo) string {
	switch {
	case !info.Local && !info.Ready:
		return "unready"
	case !info.Local:
		return "far"
	case info.Standby:
		return "standby"
	}
	return "active"
}

// standbyGauges are the series that end when nobody reads at a standby any more.
var standbyGauges = []Metric{gatewayBehind, gatewayBehindTime, gatewayStale}

// standbyRead shows how old a standby is that consumers read.
func (t *Telemetry) standbyRead(id spillway.ShareID, site spillway.SiteID, info federation.Standby) {
	if info.Partitions == 0 {
		for _, m := range standbyGauges {
			t.gauges[m.Name].DeleteLabelValues(id.Group, string(site))
		}
		return
	}
	t.gauge(gatewayBehind, id.Group, string(site)).Set(float64(info.Records))
	t.gauge(gatewayBehindTime, id.Group, string(site)).Set(info.Age.Seconds())
	t.gauge(gatewayStale, id.Group, string(site)).Set(float64(info.Stale))
}

// RightsAged shows how old the list is by which it is decided what clients may do.
func (t *Telemetry) RightsAged(site spillway.SiteID, age time.Duration) {
	t.gauge(gatewayRightsAge, string(site)).Set(age.Seconds())
}

// GatewayEvents counts what the gateway does.
func (t *Telemetry) GatewayEvents() federation.Events {
	s := t.newServed()
	problems := t.counter(gatewayProblems)
	return federation.Events{
		Session:           t.SessionEvents(),
		Router:            t.RouterEvents(),
		ConnectionRefused: func(reason string) { t.counter(gatewayNotAccepted, reason).Inc() },
		Authenticated:     func(mechanism, outcome string) { t.counter(gatewayLogins, mechanism, outcome).Inc() },
		LeaseState:        func(err error) { s.lease(err == nil) },
		ShareState: func(id spillway.ShareID, epoch spillway.Epoch, _ failover.State, serving bool) {
			t.gauge(gatewayEpoch, id.Group).Set(float64(epoch))
			s.share(id.Group, serving)
		},
		Lag: func(id spillway.ShareID, info router.LagInfo) {
			t.gauge(gatewayLagRecords, id.Group).Set(float64(info.Records))
			t.gauge(gatewayLagTime, id.Group).Set(info.Age.Seconds())
			t.gauge(gatewayLagging, id.Group).Set(float64(info.Beyond))
		},
		Standby: t.standbyRead,
		Problem: func(string, error) { problems.Inc() },
	}
}

// served says which groups a gateway serves: those that are open here, while
// it holds its lease. The router learns of a lost lease with each request, the
// gauges have to be told.
type served struct {
	tel *Telemetry
	mu  struct {
		sync.Mutex
		held bool
		open map[string]bool
	}
}

func (t *Telemetry) newServed() *served {
	s := &served{tel: t}
	s.mu.open = make(map[string]bool)
	return s
}

func (s *served) lease(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.held = held
	s.tel.gauge(gatewayLease).Set(number(held))
	for group, open := range s.mu.open {
		s.tel.gauge(gatewayServing, group).Set(number(held && open))
	}
}

func (s *served) share(group string, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.open[group] = open
	s.tel.gauge(gatewayServing, group).Set(number(s.mu.held && open))
}
