// Command ci runs the stages of tests/stages and counts what ran.
//
//	go run ./tests/ci              all stages
//	go run ./tests/ci unit facts   some
//	go run ./tests/ci --packages   prints the Debian packages that the stages need
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	text, err := os.ReadFile("tests/stages")
	if err != nil {
		fatal(fmt.Errorf("%w; run this from the top of the repository", err))
	}
	stages, err := parseStages(string(text))
	if err != nil {
		fatal(err)
	}
	if slices.Contains(os.Args[1:], "--packages") {
		fmt.Println(strings.Join(packages(stages), " "))
		return
	}
	if stages, err = choose(stages, os.Args[1:]); err != nil {
		fatal(err)
	}
	var results []result
	for _, s := range stages {
		fmt.Printf("== %s: %s\n", s.name, strings.Join(s.command, " "))
		r := run(ctx, s)
		for _, fault := range r.faults {
			fmt.Printf("FAULT in %s: %s\n", s.name, fault)
		}
		results = append(results, r)
	}
	if failed := report(results); failed > 0 {
		os.Exit(1)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "ci:", err)
	os.Exit(2)
}

// report prints one row for each stage (busy: of all processors' time, how many in a hundred), why tests failed and, last, the sum alone on its line.
func report(results []result) (failed int) {
	var passed int
	var total, used time.Duration
	fmt.Printf("\n%-12s %8s %8s %8s %8s %8s\n", "stage", "seconds", "busy", "passed", "failed", "at least")
	for _, r := range results {
		least := "-"
		if r.stage.testsMin > 0 {
			least = fmt.Sprint(r.stage.testsMin)
		}
		fmt.Printf("%-12s %8.0f %7.0f%% %8d %8d %8s\n", r.stage.name, r.took.Seconds(), busy(r.used, r.took), r.passed, r.failed(), least)
		passed += r.passed
		failed += r.failed()
		total, used = total+r.took, used+r.used
	}
	fmt.Printf("%-12s %8.0f %7.0f%%\n\n", "all", total.Seconds(), busy(used, total))
	for _, r := range results {
		for _, line := range slices.Concat(r.faults, r.said) {
			fmt.Printf("%s: %s\n", r.stage.name, line)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	return failed
}

func busy(used, took time.Duration) float64 {
	return 100 * used.Seconds() / (took.Seconds() * float64(runtime.NumCPU()))
}
