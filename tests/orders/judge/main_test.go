package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// A run from files: clean as it was, and bad once a line of the history says
// that something was acknowledged that is not there.
func TestJudgeFromFiles(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, orders.Topics...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	told := filepath.Join(dir, "history.jsonl")
	f, err := os.Create(told)
	if err != nil {
		t.Fatal(err)
	}
	w, err := orders.Start(ctx, orders.Config{Bootstrap: c.ListenAddrs(), Partitions: 2, Slots: 10, Producers: []orders.Producer{{Name: "shop"}}}, history.NewRecorder(f))
	if err != nil {
		t.Fatal(err)
	}
	w.Wait(ctx)
	if _, err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	f.Close()

	site := "--site=east=" + strings.Join(c.ListenAddrs(), ",")
	var out, complaint bytes.Buffer
	if code := run(ctx, []string{"--home=east", site, told}, &out, &complaint); code != exitClean || !strings.Contains(out.String(), "0 lost") {
		t.Errorf("exit %d: %s%s", code, &out, &complaint)
	}
	more := filepath.Join(dir, "java.jsonl")
	lines := `{"t":1,"e":"start","client":"java","role":"producer","idempotent":true}
{"t":2,"e":"invoke","client":"java","payload":"java/orders/0/0"}
{"t":3,"e":"ack","client":"java","payload":"java/orders/0/0","offset":77}
`
	if err := os.WriteFile(more, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := run(ctx, []string{"--home=east", "-o=json", site, told, more}, &out, &complaint); code != exitAnomaly {
		t.Errorf("exit %d: %s%s", code, &out, &complaint)
	}
	var report check.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || report.Counts[check.Lost] != 1 || report.Findings[0].Payload != "java/orders/0/0" {
		t.Errorf("%v: %s", err, &out)
	}
	// Announced, it is no anomaly.
	expect := filepath.Join(dir, "expect.json")
	text := fmt.Sprintf(`{"home":"east","losses":[{"topic":"orders","partition":0,"from":%d,"to":%d}]}`, 70, 80)
	if err := os.WriteFile(expect, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := run(ctx, []string{"--expect", expect, site, told, more}, &out, &complaint); code != exitClean || !strings.Contains(out.String(), "1 acknowledged records are missing within") {
		t.Errorf("exit %d: %s%s", code, &out, &complaint)
	}
	for _, bad := range [][]string{{"--home=east"}, {"--home=west", site, told}, {"--home=east", "--site=east", told}, {"--home=east", site, dir + "/none"}} {
		if code := run(ctx, bad, &out, &complaint); code != exitUnknown {
			t.Errorf("%v: exit %d", bad, code)
		}
	}
}
