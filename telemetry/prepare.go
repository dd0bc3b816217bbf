package telemetry

import (
	"spillway/federation/failover"
	"spillway/federation/quota"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// gapKinds are the kinds of the gap log that mirrors write. The one missing,
// discarded, is written by a command.
var gapKinds = []string{
	maptopic.GapForeign, maptopic.GapStaleWorker, maptopic.GapRetention, maptopic.GapUnreplicated, maptopic.GapOverhang, maptopic.GapTruncated,
	maptopic.GapSource, maptopic.GapRefused, maptopic.GapCorrupt, maptopic.GapStart, maptopic.GapDivergence, maptopic.GapExisting, maptopic.GapDuplicate, maptopic.GapAborted, maptopic.GapMissing, maptopic.GapLate, maptopic.GapTransaction, maptopic.GapRecreated, maptopic.GapDegrade,
}

// Prepare makes the series of rare events begin at 0. A series that begins
// with its first event hides that event from rate and increase, and the first
// failover of a process is the one to be seen. Of is the site that the process
// mirrors to, empty if it has no mirror.
func (t *Telemetry) Prepare(groups []string, of string) {
	for _, g := range groups {
		t.counter(gatewayRecords, g)
		t.counter(gatewayBytes, g)
		t.counter(gatewayHeld, g)
		t.gauge(gatewayHeldNow, g)
		t.histogram(gatewayHoldTime, g)
		t.gauge(gatewayBlockedNow, g)
		t.histogram(gatewayThrottle, g)
		t.histogram(gatewayBlockTime, g)
		t.counter(moveAsks, g)
		for _, kind := range []failover.Kind{failover.Switchover, failover.Failover} {
			t.histogram(moveHeld, g, string(kind))
			for _, state := range states {
				t.counter(moveTransitions, g, string(kind), string(state))
			}
		}
		for _, state := range states {
			t.counter(followFailures, g, string(state))
		}
	}
	for _, kind := range []quota.Kind{quota.Produce, quota.Fetch, quota.Request} {
		t.histogram(gatewayOverQuota, kind.String())
	}
	if of == "" {
		return
	}
	t.counter(mirrorResyncs, of)
	t.counter(mirrorSessions, of)
	t.counter(mirrorThrottle, of, "target")
	for _, kind := range gapKinds {
		t.counter(mirrorGaps, of, kind)
	}
	for _, kind := range mirror.Kinds {
		for _, outcome := range []string{"changed", "kept", "failed"} {
			t.counter(mirrorMetadata, of, kind, outcome)
		}
	}
}
