package telemetry

import (
	"spillway"
	"spillway/federation/control"
	"spillway/federation/failover"
)

// ControlEvents counts what a control loop and a mirror's follower do.
func (t *Telemetry) ControlEvents() control.Events {
	return control.Events{
		StateChanged: func(i control.StateInfo) {
			t.counter(moveTransitions, i.Share.Group, string(i.Kind), string(i.To)).Inc()
			if i.To == failover.Open && i.HeldMillis > 0 {
				t.histogram(moveHeld, i.Share.Group, string(i.Kind)).Observe(float64(i.HeldMillis) / 1000)
			}
		},
		Waiting: func(w control.WaitInfo) {
			if w.Ask {
				t.counter(moveAsks, w.Share.Group).Inc()
			}
		},
		ActionFailed: func(id spillway.ShareID, what string, _ error) {
			t.counter(actionFailures, id.Group, what).Inc()
		},
		VoteChanged: func(v failover.Vote) { t.gauge(votes, string(v.About)).Set(number(v.Verdict == failover.Down)) },
		FollowFailed: func(id spillway.ShareID, state failover.State, _ error) {
			t.counter(followFailures, id.Group, string(state)).Inc()
		},
		LeaseLost: func(err error) { t.gauge(mirrorLeaseHeld).Set(number(err == nil)) },
	}
}
