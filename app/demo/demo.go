// Package demo shows what Spillway promises on one host: embedded sites, each a
// pair of child processes, serve an order workload through their gateways; the
// group is moved as planned, then the active site is killed under load. The
// workload's independent checker judges what clients were told against what the
// sites' logs hold.
package demo

import (
	"time"
)

// Options of a run.
type Options struct {
	Sites  int           // 2 to 5
	For    time.Duration // of load
	Orders int           // under way at once
	Stay   bool          // keep everything up afterwards
	Port   int           // of the first gateway, with Stay
}

// ackSites: with three sites producers wait for two of them, so losing one
// loses nothing; with two sites that would stop writes while one is down.
func (o Options) ackSites() int {
	if o.Sites >= 3 {
		return 2
	}
	return 1
}
