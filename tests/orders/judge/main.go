// Command judge checks a run of the order workload from outside: histories that
// clients in any language wrote, against the logs of the sites.
//
//	go run ./tests/orders/judge --home east --site east=127.0.0.1:9092 --site west=127.0.0.1:9192 history.jsonl java.jsonl
//
// It prints one page (or JSON with -o json) and exits with 1 if it found an
// anomaly, with 2 if it could not judge. With --user it logs in by
// SCRAM-SHA-512; the password is in SPILLWAY_JUDGE_PASSWORD.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

// Exit codes.
const (
	exitClean   = 0
	exitAnomaly = 1
	exitUnknown = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// request is what the flags say.
type request struct {
	home, output, user, expect string
	sites, topics              list
	histories                  []string
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var r request
	flags := flag.NewFlagSet("judge", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&r.home, "home", "", "the site that serves at the end")
	flags.Var(&r.sites, "site", "NAME=ADDRESS,ADDRESS of a site's brokers; once per site")
	flags.Var(&r.topics, "topic", "a topic; all of the order system if none is given")
	flags.StringVar(&r.expect, "expect", "", "file with announced losses, hidden ranges and sites that are behind (check.Expect as JSON)")
	flags.StringVar(&r.output, "o", "text", "text or json")
	flags.StringVar(&r.user, "user", "", "user at the brokers, by SCRAM-SHA-512")
	if err := flags.Parse(args); err != nil {
		return exitUnknown
	}
	r.histories = flags.Args()
	report, err := judge(ctx, r)
	if err != nil {
		fmt.Fprintf(stderr, "judge: %v\n", err)
		return exitUnknown
	}
	if r.output == "json" {
		err = report.JSON(stdout)
	} else {
		_, err = io.WriteString(stdout, report.Text())
	}
	switch {
	case err != nil:
		return exitUnknown
	case !report.OK:
		return exitAnomaly
	}
	return exitClean
}

func judge(ctx context.Context, r request) (*check.Report, error) {
	var expect check.Expect
	if r.expect != "" {
		text, err := os.ReadFile(r.expect)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &expect); err != nil {
			return nil, fmt.Errorf("%s: %w", r.expect, err)
		}
	}
	if r.home != "" {
		expect.Home = r.home
	}
	topics := []string(r.topics)
	if len(topics) == 0 {
		topics = orders.Topics
		expect.Rules = []check.Rule{orders.FirstFive}
	}
	if len(r.sites) == 0 || len(r.histories) == 0 {
		return nil, errors.New("give at least one --site and one history")
	}
	var options []kgo.Opt
	if r.user != "" {
		auth := scram.Auth{User: r.user, Pass: os.Getenv("SPILLWAY_JUDGE_PASSWORD")}
		options = append(options, kgo.SASL(auth.AsSha512Mechanism()))
	}
	var sites []*check.Site
	for _, s := range r.sites {
		name, addresses, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("--site %q: want NAME=ADDRESS,ADDRESS", s)
		}
		site, err := sitelog.Read(ctx, sitelog.Site{Name: name, Bootstrap: strings.Split(addresses, ","), Options: options}, topics...)
		if err != nil {
			return nil, err
		}
		sites = append(sites, site)
	}
	var histories []iter.Seq2[history.Event, error]
	for _, path := range r.histories {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // only read
		histories = append(histories, history.Read(f))
	}
	return check.Run(history.Merge(histories...), sites, expect)
}
