package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/lag"
	"spillway/federation/router"
)

// A lag that stays near its limit is told once, and once when it is over.
func TestALagIsToldOnce(t *testing.T) {
	for onLag, ages := range map[string][]time.Duration{
		spillway.OnLagWarn:     {9 * time.Second, 11 * time.Second, 9 * time.Second, 11 * time.Second, 7 * time.Second, 9 * time.Second},
		spillway.OnLagThrottle: {4 * time.Second, 6 * time.Second, 5 * time.Second, 7 * time.Second, 3 * time.Second, 4 * time.Second},
	} {
		var log bytes.Buffer
		a := &App{log: slog.New(slog.NewTextHandler(&log, nil))}
		tell := a.tellLag(func(spillway.ShareID, router.LagInfo) {})
		limits := lag.Limits{OnLag: onLag, Age: 10 * time.Second}
		for _, age := range ages {
			info := router.LagInfo{Limits: limits, Lag: lag.Lag{Age: age, Drain: age}}
			if limits.Beyond(info.Lag) {
				info.Beyond = 1
			}
			if limits.Slows(info.Lag) {
				info.Slowed = 1
			}
			tell(spillway.ShareID{Group: "shop"}, info)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "other sites are behind") || !strings.Contains(lines[1], "near enough again") {
			t.Errorf("%s: %q", onLag, lines)
		}
	}
}
