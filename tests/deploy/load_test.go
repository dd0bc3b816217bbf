//go:build e2e

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

const (
	partitions       = 4
	recordsPerSecond = 300
	loadPatience     = 3 * time.Minute
	metricPatience   = 45 * time.Second
	finishPatience   = time.Minute
	standbyPatience  = 30 * time.Second
)

// switchUnderLoad moves the group to west and home again while orders run
// through the deployed gateways, and judges what clients were told by what the
// deployed brokers hold: nothing is lost, and nobody reads anything twice, the
// members of a consumer group included.
func switchUnderLoad(t *testing.T, booted hosts, inventory string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), loadPatience)
	defer cancel()
	credentials := []kgo.Opt{kgo.SASL(plain.Auth{User: "spillway", Pass: secret(t, inventory, "kafka-spillway")}.AsMechanism())}
	brokers := func(site string) []string { return []string{net.JoinHostPort(addresses[site+"-1"], "9093")} }
	// Only at home: the mirrors make them elsewhere.
	must(t, orders.CreateTopics(ctx, brokers("east"), partitions, 1, credentials...))
	awaitMetric(t, `sum(spillway_share_active{failover_group="shop",site="east"})`, atLeastOne)
	awaitMetric(t, `min(spillway_flow_up{failover_group="shop",target="west"})`, atLeastOne)

	var told bytes.Buffer
	load, err := orders.Start(ctx, orders.Config{
		Bootstrap:  []string{net.JoinHostPort(addresses["east-1"], "9092"), net.JoinHostPort(addresses["west-1"], "9092")},
		Partitions: partitions, Seed: 7, RecordsPerSecond: recordsPerSecond, InFlight: 32,
		Producers: []orders.Producer{{Name: "shop-1"}, {Name: "shop-2", Library: orders.Sarama}},
		Readers: []orders.Reader{
			{Name: "desk", Group: "shop-desk", Members: 2, CommitEvery: 200 * time.Millisecond},
			{Name: "ledger", RestartEvery: 5 * time.Second}, {Name: "audit", Library: orders.Sarama},
		},
	}, history.NewRecorder(&told))
	must(t, err)
	goOn := func(records int64) {
		t.Helper()
		before := load.Progress().Acked
		until(t, fmt.Sprintf("%d more records", records), loadPatience, func() error {
			if p := load.Progress(); p.Acked < before+records {
				return fmt.Errorf("%+v", p)
			}
			return ctx.Err()
		})
	}
	home := "east"
	for _, to := range []string{"west", "east"} {
		goOn(2 * recordsPerSecond)
		load.Mark(history.Event{Name: "move-start", Move: "switchover", From: home, To: to})
		// From the witness, which has neither gateway nor mirror: anyone may drive.
		said := booted["north-1"].run(t, "spillway --config /etc/spillway/spillway.yaml switchover shop --why 'tests/deploy' --to "+to)
		load.Mark(history.Event{Name: "move-end", Move: "switchover", From: home, To: to})
		t.Logf("switchover from %s to %s:\n%s", home, to, said)
		awaitMetric(t, `sum by (site) (spillway_share_active{failover_group="shop"})`, served(to))
		home = to
	}
	goOn(2 * recordsPerSecond)
	finishing, stop := context.WithTimeout(ctx, finishPatience)
	defer stop()
	progress, err := load.Finish(finishing)
	must(t, err)
	t.Logf("%+v", progress)
	awaitMetric(t, `max(spillway_share_epoch{failover_group="shop"})`, func(s []sample) bool { return len(s) == 1 && s[0].value == "3" })

	// The mirrors are given time to bring the standby up; a record that never comes is found.
	var report *check.Report
	until(t, "the checker to find nothing", standbyPatience, func() error {
		var sites []*check.Site
		for _, name := range []string{"east", "west"} {
			site, err := sitelog.Read(t.Context(), sitelog.Site{Name: name, Bootstrap: brokers(name), Options: credentials}, orders.Topics...)
			if err != nil {
				return err
			}
			sites = append(sites, site)
		}
		var err error
		report, err = check.Run(history.Read(bytes.NewReader(told.Bytes())), sites, check.Expect{Home: home, Rules: []check.Rule{orders.FirstFive}})
		if err != nil {
			return err
		}
		if !report.OK {
			return errors.New(report.Text())
		}
		return nil
	})
	t.Logf("judged by what the brokers hold:\n%s", report.Text())
	fmt.Printf("measured: two switchovers on deployed hosts under load: %d sent, %d acknowledged, %d read by a group of two and two assigned readers; %d lost, %d duplicated, %d reordered, %d re-read, %d skipped\n",
		report.Figures.Sent, report.Figures.Acked, report.Figures.Read, report.Counts[check.Lost], report.Counts[check.Duplicated], report.Counts[check.Reordered],
		report.Counts[check.ReRead], report.Counts[check.Skipped])
	if !progress.Drained || progress.Failed > 0 || report.Figures.Acked != report.Figures.Sent {
		t.Errorf("not all that was sent was acknowledged and read: %+v\n%s", progress, report.Text())
	}
}

// sample is one element of an instant vector.
type sample struct {
	labels map[string]string
	value  string
}

func atLeastOne(s []sample) bool { return len(s) == 1 && s[0].value != "0" }

// served is true when all processes agree that exactly this site serves.
func served(site string) func([]sample) bool {
	return func(samples []sample) bool {
		at := slices.IndexFunc(samples, func(s sample) bool { return s.labels["site"] == site && s.value != "0" })
		others := slices.ContainsFunc(samples, func(s sample) bool { return s.labels["site"] != site && s.value != "0" })
		return at >= 0 && !others
	}
}

// awaitMetric asks the deployed Prometheus until it sees what is wanted.
func awaitMetric(t *testing.T, query string, wanted func([]sample) bool) {
	t.Helper()
	until(t, "Prometheus to see it: "+query, metricPatience, func() error {
		samples, err := askPrometheus(query)
		if err != nil {
			return err
		}
		if !wanted(samples) {
			return fmt.Errorf("it sees %v", samples)
		}
		return nil
	})
}

func askPrometheus(query string) ([]sample, error) {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]json.RawMessage // time, and the value as text
			}
		}
	}
	if err := getJSON("http://"+addresses["north-1"]+":9090/api/v1/query?query="+url.QueryEscape(query), &answer); err != nil {
		return nil, err
	}
	var samples []sample
	for _, r := range answer.Data.Result {
		var value string
		if err := json.Unmarshal(r.Value[1], &value); err != nil {
			return nil, err
		}
		samples = append(samples, sample{r.Metric, value})
	}
	return samples, nil
}

// until polls for a condition and tells what it saw last when the time is over.
func until(t *testing.T, what string, patience time.Duration, met func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := met()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		time.Sleep(250 * time.Millisecond) // between two polls
	}
}
