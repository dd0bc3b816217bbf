package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/mirror"
	"spillway/telemetry"
)

// The log names a consumer group that is not carried, once and not with each look, and
// says nothing of one that fails for a moment.
func TestTheLogNamesAGroupThatIsNotCarried(t *testing.T) {
	var out bytes.Buffer
	a := &App{log: slog.New(slog.NewTextHandler(&out, nil)), tel: telemetry.New("test")}
	e := a.mirrorEvents()
	for _, age := range []time.Duration{0, 2 * time.Second, 11 * time.Second, 12 * time.Second, 13 * time.Second} {
		e.FlowState(mirror.FlowInfo{Share: spillway.ShareID{Group: "shop"}, Source: "east", Target: "west", GroupAge: age, GroupBehind: "group app: not authorized"})
	}
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "flow east→west of failover group shop does not carry a consumer group") || !strings.Contains(text, "group app: not authorized") {
		t.Errorf("%q", text)
	}
}
