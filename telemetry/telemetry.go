package telemetry

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Telemetry holds the metrics of one process.
type Telemetry struct {
	registry   *prometheus.Registry
	counters   map[string]*prometheus.CounterVec
	gauges     map[string]*prometheus.GaugeVec
	histograms map[string]*prometheus.HistogramVec
	Health     *Health

	mu struct {
		sync.Mutex
		sources map[string]string // of the flow that runs, by group and target
	}
}

// New builds a registry of its own, so that tests can have many. Metrics of
// the catalogue that come from the status are collected when it is set.
func New(version string) *Telemetry {
	t := &Telemetry{
		registry:   prometheus.NewRegistry(),
		counters:   map[string]*prometheus.CounterVec{},
		gauges:     map[string]*prometheus.GaugeVec{},
		histograms: map[string]*prometheus.HistogramVec{},
		Health:     NewHealth(),
	}
	t.mu.sources = map[string]string{}
	for _, m := range catalogue {
		if fromStatus[m.Name] || fromHealth[m.Name] {
			continue
		}
		t.register(m)
	}
	t.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		healthCollector{t.Health},
	)
	t.gauge(buildInfo, version, runtime.Version()).Set(1)
	return t
}

func (t *Telemetry) register(m Metric) {
	switch m.Kind {
	case Counter:
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Labels)
		t.counters[m.Name] = v
		t.registry.MustRegister(v)
	case Gauge:
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.Name, Help: m.Help}, m.Labels)
		t.gauges[m.Name] = v
		t.registry.MustRegister(v)
	case Histogram:
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.buckets}, m.Labels)
		t.histograms[m.Name] = v
		t.registry.MustRegister(v)
	default:
		panic(fmt.Sprintf("metric %s is of kind %q", m.Name, m.Kind)) // a test reads the catalogue
	}
}

func (t *Telemetry) counter(m Metric, labels ...string) prometheus.Counter {
	return t.counters[m.Name].WithLabelValues(labels...)
}

func (t *Telemetry) gauge(m Metric, labels ...string) prometheus.Gauge {
	return t.gauges[m.Name].WithLabelValues(labels...)
}

func (t *Telemetry) histogram(m Metric, labels ...string) prometheus.Observer {
	return t.histograms[m.Name].WithLabelValues(labels...)
}

// Register serves /metrics, /livez and /readyz.
func (t *Telemetry) Register(mux *http.ServeMux) {
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", t.Health.live)
	mux.HandleFunc("GET /readyz", t.Health.ready)
}
