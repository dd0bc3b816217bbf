package main

import (
	"strings"
	"testing"

	"spillway/mirror"
	"spillway/mirror/audit"
)

// What another mirror has copied is taken over on the command line; what a person has to
// decide is refused, and reported all the same.
func TestMirrorAdopt(t *testing.T) {
	from, to := site(t, "a", map[string]int32{"orders": 1, "new": 1}), site(t, "b", map[string]int32{"a.orders": 1})
	flags := []string{"--from", from, "--to", to, "--topics", ".*", "--rename", "(.*)=a.$1"}
	produce(t, from, "orders", 0, 100)
	produce(t, from, "new", 0, 10)
	produce(t, to, "a.orders", 0, 60) // as a mirror would have: the same contents
	produce(t, to, "a.orders", 9000, 2)

	var report mirror.AdoptReport
	err := told(t, &report, append([]string{"mirror", "adopt"}, flags...)...)
	if err == nil || !strings.Contains(err.Error(), "2 records at the target are not the source's") || report.Unknown != 2 || report.Records != 60 || report.Written {
		t.Fatalf("%+v, %v", report, err)
	}
	accepted := append([]string{"mirror", "adopt", "--accept-unknown", "2"}, flags...)
	if err := told(t, &report, append(accepted, "--dry-run")...); err != nil || report.Written || len(report.Absent) != 1 || report.Absent[0] != "a.new" {
		t.Errorf("%+v, %v", report, err)
	}
	if err := told(t, &report, accepted...); err != nil || !report.Written {
		t.Fatalf("%+v, %v", report, err)
	}
	t.Log(strings.Join(adoptRows(report), "\n"))
	var run mirror.RunReport
	if err := told(t, &run, append([]string{"mirror", "run", "--until-caught-up"}, flags...)...); err != nil || run.Records != 50 {
		t.Errorf("%+v, %v", run, err)
	}
	var audited audit.Report
	if err := told(t, &audited, append([]string{"audit"}, flags...)...); err != nil || !audited.Equal || audited.Records != 110 {
		t.Errorf("%+v, %v", audited, err)
	}
	var back mirror.HandBackReport
	if err := told(t, &back, append([]string{"mirror", "hand-back", "--alias", "a"}, flags...)...); err == nil || !strings.Contains(err.Error(), "mm2-offsets.a.internal") {
		t.Errorf("%+v, %v", back, err)
	}
}
