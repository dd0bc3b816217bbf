package telemetry

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Health collects the named checks behind /readyz. A check that was never set
// does not exist; one that is expected is red.
type Health struct {
	mu struct {
		sync.Mutex
		checks map[string]check
	}
}

type check struct {
	ok      bool
	text    string
	pending bool // nobody has looked yet
}

// NewHealth starts with no checks, which is ready.
func NewHealth() *Health {
	h := &Health{}
	h.mu.checks = map[string]check{}
	return h
}

// Expect makes a check red until it is set for the first time.
func (h *Health) Expect(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.checks[name] = check{text: "not reached yet", pending: true}
}

// Set tells how a part is: nil is good. It returns whether that changed, so
// that callers log changes and not repetitions.
func (h *Health) Set(name string, err error) (changed bool) {
	c := check{ok: err == nil}
	if err != nil {
		c.text = err.Error()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old, known := h.mu.checks[name]
	h.mu.checks[name] = c
	return !known || old.pending || old.ok != c.ok
}

// Ready tells whether all checks pass, with one line per check.
func (h *Health) Ready() (bool, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready := true
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h.mu.checks)) {
		c := h.mu.checks[name]
		if c.ok {
			fmt.Fprintf(&b, "[+] %s\n", name)
			continue
		}
		ready = false
		fmt.Fprintf(&b, "[-] %s: %s\n", name, c.text)
	}
	return ready, b.String()
}

// live answers as long as the process can answer at all. Restarting it would
// not bring back a site or a store, so it knows of neither.
func (h *Health) live(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "alive")
}

func (h *Health) ready(w http.ResponseWriter, _ *http.Request) {
	ok, text := h.Ready()
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprint(w, text)
}

// fromHealth names the metrics that healthCollector emits.
var fromHealth = map[string]bool{ready.Name: true}

type healthCollector struct{ health *Health }

func (c healthCollector) Describe(ch chan<- *prometheus.Desc) { ch <- ready.desc() }

func (c healthCollector) Collect(ch chan<- prometheus.Metric) {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	for name, check := range c.health.mu.checks {
		ch <- prometheus.MustNewConstMetric(ready.desc(), prometheus.GaugeValue, number(check.ok), name)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
