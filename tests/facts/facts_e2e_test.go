//go:build e2e

package facts

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"spillway/tests/cluster/kafka"
)

// fact is one thing that the design takes for granted. The probe says in a few
// words what a broker did.
type fact struct {
	name  string
	probe func(t *testing.T, s *site) string
	want  string // of every real Kafka
	kfake string // of the embedded cluster; empty if it cannot show it
	// Where a version differs from the rest.
	want392 string
}

func (f fact) wanted(name string) string {
	switch {
	case name == "kfake":
		return f.kfake
	case name == "3.9.2" && f.want392 != "":
		return f.want392
	}
	return f.want
}

// tag is an id that no cluster allocates; see spillway.ProducerID.
const tag = 1<<61 + 7

func allFacts() []fact {
	var all []fact
	all = append(all, sequenceFacts...)
	all = append(all, headerFacts...)
	all = append(all, memoryFacts...) // last: they restart the broker
	return all
}

// TestBrokers runs every fact on every version. Versions run one after the
// other, each on one broker.
func TestBrokers(t *testing.T) {
	for _, version := range kafka.Versions {
		t.Run(version, func(t *testing.T) {
			// Producers are forgotten by the age of their records, when the broker
			// looks; 10 minutes between two looks are too long for a test.
			runFacts(t, realSite(t, version, map[string]string{"producer.id.expiration.check.interval.ms": "1000"}))
		})
	}
	t.Run("kfake", func(t *testing.T) { runFacts(t, embeddedSite(t)) })
}

func runFacts(t *testing.T, s *site) {
	for _, f := range allFacts() {
		want := f.wanted(s.name)
		if want == "" {
			table.add(f.name, s.name, "cannot show it")
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			got := f.probe(t, s)
			table.add(f.name, s.name, got)
			if got != want {
				t.Errorf("%s on %s: %s\nthe design was made for: %s", f.name, s.name, got, want)
			}
		})
	}
}

// table remembers what was seen, in the order in which it was seen first.
var table observations

type observations struct {
	sync.Mutex
	facts []string
	cells map[string]map[string]string // fact → column → what was seen
}

func (o *observations) add(fact, column, seen string) {
	o.Lock()
	defer o.Unlock()
	if o.cells == nil {
		o.cells = map[string]map[string]string{}
	}
	if o.cells[fact] == nil {
		o.cells[fact] = map[string]string{}
		o.facts = append(o.facts, fact)
	}
	o.cells[fact][column] = seen
}

func (o *observations) print() {
	o.Lock()
	defer o.Unlock()
	if len(o.facts) == 0 {
		return
	}
	for _, fact := range o.facts {
		// Columns with the same answer share a line.
		var order []string
		columns := map[string][]string{}
		for _, column := range append(append([]string{}, kafka.Versions...), "kfake", "kcat", "sarama", "franz-go", "Java 3.9.2", "Java 4.3.1", "Java 4.4.0") {
			seen, ok := o.cells[fact][column]
			if !ok {
				continue
			}
			if columns[seen] == nil {
				order = append(order, seen)
			}
			columns[seen] = append(columns[seen], column)
		}
		for _, seen := range order {
			fmt.Printf("| %s | %s | %s |\n", fact, strings.Join(columns[seen], ", "), seen)
		}
	}
}

// TestMain is also the writer of the competition, which must be a process of
// its own to be killed.
func TestMain(m *testing.M) {
	if task := os.Getenv(writerTask); task != "" {
		if err := write(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	table.print()
	os.Exit(code)
}
