package main

import (
	"strings"
	"testing"

	"spillway/mirror"
	"spillway/mirror/audit"
)

// A filter leaves out the same in a run and in its audit, and what is wrong with a flag is
// said with its name before anything is done.
func TestMirrorRunFilters(t *testing.T) {
	from, to := site(t, "a", map[string]int32{"orders": 1}), site(t, "b", nil)
	between := []string{"--from", from, "--to", to, "--topics", "orders"}
	produce(t, from, "orders", 0, 70) // keys 0 to 6
	rules := []string{"--filter", "orders/key=[0-2]", "--filter", "key!=1", "--provenance"}
	run := append(append([]string{"mirror", "run", "--until-caught-up", "--repack"}, between...), rules...)
	var report mirror.RunReport
	if err := told(t, &report, run...); err != nil || report.Records != 20 || report.LeftOut != 50 || len(report.Gaps) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if err := told(t, &report, run...); err != nil || report.Records != 0 || report.LeftOut != 0 {
		t.Errorf("again: %+v, %v", report, err)
	}
	var found audit.Report
	if err := told(t, &found, append(append([]string{"audit"}, between...), rules...)...); err != nil || !found.Equal || found.Records != 20 || found.Partitions[0].LeftOut != 50 {
		t.Errorf("audit: %+v, %v", found, err)
	}
	if err := told(t, &found, append([]string{"audit"}, between...)...); err == nil || !strings.Contains(err.Error(), "--filter 'key=[0-2]'") {
		t.Errorf("audit without the filters: %v", err)
	}
	var would mirror.Preview
	if err := told(t, &would, append([]string{"mirror", "run", "--dry-run"}, between...)...); err == nil || !strings.Contains(err.Error(), "give it what it had") {
		t.Errorf("dry run without the filters: %v", err)
	}
	if err := told(t, &would, append(append([]string{"mirror", "run", "--dry-run"}, between...), rules...)...); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ flag, value, want string }{
		{"--filter", "key=(", `--filter "key=(": error parsing regexp`},
		{"--filter", "value=x", `--filter "value=x": want [TOPICS/]key=REGEX`},
		{"--repack", "much", `--repack: "much": want bytes`},
		{"--repack", "1GiB", `--repack: "1GiB": want bytes, as in 1MiB, and at most 64 MiB`},
	} {
		err := told(t, &report, append([]string{"mirror", "run", c.flag + "=" + c.value}, between...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v", c.flag, c.value, err)
		}
	}
}
