//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/app"
	"spillway/federation/coordination"
	"spillway/federation/policies"
)

// consulTap stands between all processes and Consul, and notes whose token asked for what,
// and what Consul refused or left out.
type consulTap struct {
	address string

	mu sync.Mutex
	// by token
	holders map[string]tapHolder
	refused []string
	ignore  bool // what is refused
}

type tapHolder struct {
	role   policies.Role
	holder policies.Holder
	asked  map[asking]bool
}

// asking is one thing that was asked for: a key, or all below a prefix.
type asking struct {
	path   string
	prefix bool
	write  bool
}

func tapConsul(t *testing.T, address string) *consulTap {
	tap := &consulTap{holders: map[string]tapHolder{}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 200, DisableCompression: true}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) } // callers go away
	proxy.ModifyResponse = tap.answer
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		tap.note(r)
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	tap.address = strings.TrimPrefix(srv.URL, "http://")
	return tap
}

func (c *consulTap) know(token string, role policies.Role, h policies.Holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders[token] = tapHolder{role: role, holder: h, asked: map[asking]bool{}}
}

// used lists what a token was used for, but to ask for its rights.
func (c *consulTap) used(token string) []asking {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.holders[token].asked))
}

// forget drops what was noted.
func (c *consulTap) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = nil
	clear(c.holders)
}

// tolerate notes no refusals from here on.
func (c *consulTap) tolerate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ignore = true
}

type txnOp struct {
	KV struct {
		Verb, Key string
		Index     uint64
	}
}

func (c *consulTap) note(r *http.Request) {
	var all []asking
	switch key, isKey := strings.CutPrefix(r.URL.Path, "/v1/kv/"); {
	case isKey:
		_, recurse := r.URL.Query()["recurse"]
		all = append(all, asking{path: key, prefix: recurse, write: r.Method != http.MethodGet})
	case r.URL.Path == "/v1/txn":
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var ops []txnOp
		if err != nil || json.Unmarshal(body, &ops) != nil {
			break
		}
		for _, op := range ops {
			if op.KV.Index > 1<<62 {
				return // only asked for its rights
			}
			// Consul lets only who may write a key ask that it is absent.
			all = append(all, asking{path: op.KV.Key, write: op.KV.Verb != "check-index" && op.KV.Verb != "get"})
		}
	default:
		all = append(all, asking{path: r.URL.Path})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range all {
		if h, ok := c.holders[r.Header.Get("X-Consul-Token")]; ok {
			h.asked[a] = true
		}
	}
}

func (c *consulTap) answer(res *http.Response) error {
	why := ""
	switch {
	case res.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true":
		why = "left out what the token may not read"
	case res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusConflict:
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		if res.StatusCode == http.StatusForbidden || bytes.Contains(body, []byte("Permission denied")) {
			why = string(body)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if why != "" && !c.ignore {
		c.refused = append(c.refused, fmt.Sprintf("%s: %s %s: %s", c.holders[res.Request.Header.Get("X-Consul-Token")].role, res.Request.Method, res.Request.URL, why))
	}
	return nil
}

// everyRuleServed fails where Consul refused something, and where a rule could go or allow
// less: nothing that was asked for is decided by it.
func (c *consulTap) everyRuleServed(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // mirrors and loops do some of it in their own time, and try again only after a while
	for {
		refused, idle := c.judge()
		if len(refused) == 0 && len(idle) > 0 && time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for i, r := range refused {
			if i < 20 {
				t.Errorf("refused: %s", r)
			}
		}
		for _, r := range idle {
			t.Errorf("nobody needs it: %s", r)
		}
		return
	}
}

func (c *consulTap) judge() (refused, idle []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	served := map[policies.Role]map[string]bool{}
	for _, h := range c.holders {
		if served[h.role] == nil {
			served[h.role] = map[string]bool{}
		}
		rules := policies.Of(h.role, h.holder)
		for a := range h.asked {
			for _, r := range deciding(rules, a) {
				if r.Write == a.write {
					served[h.role][r.Why] = true
				}
			}
		}
	}
	for _, role := range policies.Roles() {
		for _, r := range policies.Of(role, policies.ForExample) {
			if !served[role][r.Why] {
				idle = append(idle, fmt.Sprintf("%s: %s (%s)", role, policies.Stanza(r), r.Why))
			}
		}
	}
	return slices.Clone(c.refused), idle
}

// deciding are the rules on which it depends whether something is allowed, and shown whole.
func deciding(rules []coordination.Rule, a asking) []coordination.Rule {
	var longest coordination.Rule
	var all []coordination.Rule
	for _, r := range rules {
		if a.prefix && strings.HasPrefix(r.Path, a.path) {
			all = append(all, r) // keys that the listing shows
		}
		if (r.Path == a.path || r.Prefix && strings.HasPrefix(a.path, r.Path)) && len(r.Path) > len(longest.Path) {
			longest = r
		}
	}
	if longest.Path != "" && !slices.Contains(all, longest) {
		all = append(all, longest)
	}
	return all
}

// logText is what a process logs.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// has wants all words in one line.
func (l *logText) has(words ...string) error {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return nil
		}
	}
	return fmt.Errorf("no line with %q in\n%s", words, l)
}

func readyz(t *testing.T, a *app.App) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr("telemetry").(*net.TCPAddr).String()+"/readyz", nil)
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }() // read only
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return string(body)
}

func (w *policyWorld) wait(what string, ok func() error) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load writes records one after the other, until it is checked.
type load struct {
	t      *testing.T
	client *kgo.Client
	stop   context.CancelFunc
	ended  chan struct{}
	acked  atomic.Int64
}

func startLoad(t *testing.T, address string) *load {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("orders"), kgo.MetadataMinAge(100*time.Millisecond))
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	l := &load{t: t, client: client, stop: stop, ended: make(chan struct{})}
	t.Cleanup(func() { stop(); client.Close(); <-l.ended })
	go func() {
		defer close(l.ended)
		for i := 0; ctx.Err() == nil; i++ {
			// Records that were given to the client are written to the end.
			if err := client.ProduceSync(context.Background(), kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
				if ctx.Err() == nil {
					t.Errorf("record %d: %v", i, err)
				}
				return
			}
			l.acked.Store(int64(i + 1))
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return l
}

func (l *load) acknowledged() int64 { return l.acked.Load() }

// more waits for so many acknowledgements.
func (l *load) more(n int64) {
	l.t.Helper()
	goal, deadline := l.acked.Load()+n, time.Now().Add(30*time.Second)
	for l.acked.Load() < goal {
		if time.Now().After(deadline) {
			l.t.Fatalf("%d records were acknowledged, want %d", l.acked.Load(), goal)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// check ends the load and reads every record once.
func (l *load) check(address string) {
	l.t.Helper()
	l.stop()
	<-l.ended
	n := l.acked.Load()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	must(l.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	seen := map[string]int{}
	for int64(len(seen)) < n && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
	}
	if int64(len(seen)) != n {
		l.t.Errorf("%d of %d acknowledged records are there", len(seen), n)
	}
	for value, times := range seen {
		if times > 1 {
			l.t.Errorf("record %s is there %d times", value, times)
		}
	}
}
