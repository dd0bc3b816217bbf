//go:build e2e

package mirrors

import (
	"flag"

	"spillway/tests/bench/report"
)

var out = flag.String("out", "", "folder for mirrors.json and mirrors.md, besides what is printed")

// Names of the contenders.
const (
	plainCopy = "plain copy"
	ours      = "spillway"
	theirs    = "MirrorMaker 2"
)

// told are the figures of all tests of one run.
var told = report.Report{Name: "mirrors", Contenders: []string{plainCopy, ours, theirs}, Ours: ours}

// none is the goal of a count that has to be 0.
var none = report.Below(0)
