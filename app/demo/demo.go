// Package demo shows what Spillway promises on one host: embedded sites, each a
// pair of child processes, serve an order workload through their gateways; the
// group is moved as planned, then moved while the gateway that serves clients
// hangs, then the active site is killed under load. The workload's independent
// checker judges what clients were told against what the sites' logs hold.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"spillway/console/status"
)

// Options of a run.
type Options struct {
	Sites   int           // 2 to 5
	For     time.Duration // of load
	Orders  int           // under way at once
	Stay    bool          // keep everything up afterwards
	Port    int           // of the first gateway, with Stay
	Program string        // this program, to start the children with
	Say     io.Writer     // progress, for people
}

// Bounds of what may be asked for.
const (
	sitesMin = 2
	forMin   = 10 * time.Second
)

// Validate reports all faults.
func (o Options) Validate() error {
	var faults []error
	if o.Sites < sitesMin || o.Sites > len(siteNames) {
		faults = append(faults, fmt.Errorf("--sites %d: a demo has %d to %d", o.Sites, sitesMin, len(siteNames)))
	}
	if o.For < forMin {
		faults = append(faults, fmt.Errorf("--for %s: at least %s, or there is no time to lose a site", o.For, forMin))
	}
	if o.Orders < 1 {
		faults = append(faults, fmt.Errorf("--orders %d: at least one", o.Orders))
	}
	return errors.Join(faults...)
}

// ackSites: with three sites producers wait for two of them, so losing one
// loses nothing; with two sites that would stop writes while one is down.
func (o Options) ackSites() int {
	if o.Sites >= 3 {
		return 2
	}
	return 1
}

// hangs: the group must move between two other sites than that of the gateway
// that hangs, so there must be three.
func (o Options) hangs() bool { return o.Sites >= 3 }

// movesWanted is how many moves a good run makes.
func (o Options) movesWanted() int {
	if o.hangs() {
		return 3
	}
	return 2
}

// Run plays the story and returns what it showed. With Stay it returns when ctx
// ends, everything up until then; ready is told the report first.
func Run(ctx context.Context, o Options, ready func(Result)) (result Result, err error) {
	if err := o.Validate(); err != nil {
		return Result{}, err
	}
	dir, err := os.MkdirTemp("", "spillway-demo-")
	if err != nil {
		return Result{}, fmt.Errorf("folder of the demo: %w", err)
	}
	started := time.Now()
	w, err := build(ctx, o, o.Program, dir)
	if err != nil {
		return Result{}, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		// The story may have been cut off, its end must not be.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*stopMax)
		defer cancel()
		err = errors.Join(err, w.close(stopping))
		if result.OK {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			o.say("logs, records and history are kept in %s", dir)
		}
	}()
	s := &story{Options: o, world: w, history: filepath.Join(dir, "history.jsonl")}
	result = s.play(ctx)
	result.Took = Seconds(time.Since(started))
	if o.Stay && ctx.Err() == nil {
		ready(result)
		<-ctx.Done()
	}
	return result, nil
}

func (o Options) say(format string, args ...any) {
	fmt.Fprintf(o.Say, format+"\n", args...)
}

// groupOf finds the demo's only group.
func groupOf(s status.Status) status.Group {
	if len(s.Groups) == 0 {
		return status.Group{State: "UNKNOWN"}
	}
	return s.Groups[0]
}
