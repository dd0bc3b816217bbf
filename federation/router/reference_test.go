package router

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

var update = flag.Bool("update", false, "write docs/protocol.md anew")

func TestReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/protocol.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Error("docs/protocol.md is not what the router serves; run go test ./federation/router -update")
	}
}

// Every API of the newest Kafka is served and says how, or is refused and says why; none
// is both.
func TestEveryAPIHasATreatment(t *testing.T) {
	reasons := make(map[int16]int)
	for _, r := range refusals {
		for _, key := range r.keys {
			reasons[key]++
		}
	}
	all := make(map[int16]bool)
	kversion.Stable().EachMaxKeyVersion(func(key, _ int16) { all[key] = true })
	for key := range int16(kmsg.MaxKey + 1) {
		all[key] = all[key] || kmsg.RequestForKey(key) != nil
	}
	for key := range all {
		a, served := apis[key]
		switch {
		case served && (a.treatment == "" || a.treatment == refused):
			t.Errorf("key %d is served and has no treatment", key)
		case served && reasons[key] > 0:
			t.Errorf("key %d is served and has a reason why not", key)
		case !served && reasons[key] != 1:
			t.Errorf("key %d is refused for %d reasons", key, reasons[key])
		}
	}
	for key := range reasons {
		if !all[key] {
			t.Errorf("key %d is refused, and Kafka does not have it", key)
		}
	}
}
