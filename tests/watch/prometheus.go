package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
)

// faster is how many times faster than in dashboards/rules.yml alerts come and
// go in the test: each `for`, range and offset is divided by it, nothing else
// is changed. Thresholds in seconds (FlowLagging's 30) are kept.
const faster = 60

var durations = regexp.MustCompile(`(\bfor: |\[|\boffset )([0-9]+)(s|m|h)\b`)

// hasten makes the test's copy of the rules.
func hasten(rules []byte) []byte {
	return durations.ReplaceAllFunc(rules, func(found []byte) []byte {
		m := durations.FindSubmatch(found)
		d, err := time.ParseDuration(string(m[2]) + string(m[3]))
		if err != nil {
			panic(err) // the expression lets only durations through
		}
		return fmt.Appendf(nil, "%s%dms", m[1], (d / faster).Milliseconds())
	})
}

// prometheus is a running server.
type prometheus struct {
	url     string
	process *process.Process
}

// startPrometheus scrapes the targets once a second as job spillway.
func startPrometheus(dir string, rules []byte, targets []string) (*prometheus, error) {
	free, err := port.Reserve(1)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(targets)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: spillway
    static_configs: [{targets: %s}]
`, list)
	for name, text := range map[string]string{"prometheus.yml": config, "rules.yml": string(rules)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", free[0])
	p, err := process.Start(process.Spec{
		Name: "prometheus", Path: "prometheus", Log: filepath.Join(dir, "prometheus.log"),
		Args: []string{
			"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address, "--log.level=warn",
		},
	})
	if err != nil {
		return nil, err
	}
	server := &prometheus{url: "http://" + address, process: p}
	return server, p.Await(30*time.Second, func() error {
		_, err := server.instant(context.Background(), "vector(1)", time.Now())
		return err
	})
}

// sample is one value of one series.
type sample struct {
	labels map[string]string
	value  float64
}

func (s sample) String() string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(s.labels)) {
		labels = append(labels, name+"="+s.labels[name])
	}
	return fmt.Sprintf("{%s} %g", strings.Join(labels, " "), s.value)
}

// get asks the HTTP API.
func (p *prometheus) get(ctx context.Context, path string, query url.Values, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

type point [2]any // seconds since 1970, and the value as text

func (p point) value() (float64, error) {
	text, ok := p[1].(string)
	if !ok {
		return 0, fmt.Errorf("value %v is no text", p[1])
	}
	return strconv.ParseFloat(text, 64)
}

type series struct {
	Metric map[string]string
	Value  point   // of an instant query
	Values []point // of a range query
}

func (p *prometheus) query(ctx context.Context, path string, query url.Values) ([]sample, error) {
	var data struct{ Result []series }
	if err := p.get(ctx, path, query, &data); err != nil {
		return nil, err
	}
	var all []sample
	for _, s := range data.Result {
		points := s.Values
		if len(points) == 0 {
			points = []point{s.Value}
		}
		for _, at := range points {
			v, err := at.value()
			if err != nil {
				return nil, err
			}
			if !math.IsNaN(v) { // a quantile of nothing; Grafana shows no point either
				all = append(all, sample{s.Metric, v})
			}
		}
	}
	return all, nil
}

// instant evaluates an expression at one time.
func (p *prometheus) instant(ctx context.Context, expr string, at time.Time) ([]sample, error) {
	return p.query(ctx, "/api/v1/query", url.Values{"query": {expr}, "time": {seconds(at)}})
}

// between evaluates an expression each second of a time range.
func (p *prometheus) between(ctx context.Context, expr string, from, to time.Time) ([]sample, error) {
	return p.query(ctx, "/api/v1/query_range", url.Values{"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {"1"}})
}

func seconds(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64)
}

// alert is the state of one rule: inactive, pending or firing.
type alert struct {
	Name, State string
	Health      string
	LastError   string
	Alerts      []struct {
		State       string
		Labels      map[string]string
		Annotations map[string]string
	}
}

// alerts are all rules by name.
func (p *prometheus) alerts(ctx context.Context) (map[string]alert, error) {
	var data struct {
		Groups []struct{ Rules []alert }
	}
	if err := p.get(ctx, "/api/v1/rules", nil, &data); err != nil {
		return nil, err
	}
	all := map[string]alert{}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.LastError != "" {
				return nil, fmt.Errorf("rule %s: %s", r.Name, r.LastError)
			}
			all[r.Name] = r
		}
	}
	return all, nil
}
