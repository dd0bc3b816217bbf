package consul_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
)

// fake answers like Consul where a real server cannot be made to misbehave.
func fake(t *testing.T, h http.HandlerFunc) *consul.Store {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s, err := consul.New(consul.Config{Address: strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func pair(key, value string, index uint64) string {
	return fmt.Sprintf(`{"Key":%q,"Value":%q,"ModifyIndex":%d}`, key, base64.StdEncoding.EncodeToString([]byte(value)), index)
}

// A server that takes the connection and answers nothing must not hold a caller
// for longer than its deadline.
func TestHungServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := consul.New(consul.Config{Address: l.Addr().String()}) // the kernel accepts, nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, call := range map[string]func(context.Context) error{
		"get":  func(ctx context.Context) error { _, err := s.Get(ctx, "k"); return err },
		"list": func(ctx context.Context) error { _, err := s.List(ctx, "k"); return err },
		"put":  func(ctx context.Context) error { _, err := s.Put(ctx, "k", nil, 0); return err },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		cancel()
		if took := time.Since(began); !errors.Is(err, coordination.ErrUnavailable) || took > 5*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
}

// The index of blocking queries goes back when Consul is restored from a
// snapshot: a watch that went on waiting for the old one would sleep for long.
func TestWatchSurvivesARestoredStore(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	waits := make(chan struct{}) // closed by the first question that has no answer here
	answers := []struct {
		index uint64
		body  string
	}{
		{900, "[" + pair("w/a", "new", 900) + "]"},
		{40, "[" + pair("w/a", "old", 40) + "]"}, // restored
		{40, "[" + pair("w/a", "old", 40) + "]"},
	}
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := len(asked)
		asked = append(asked, r.URL.Query().Get("index"))
		mu.Unlock()
		if n == len(answers) {
			close(waits)
		}
		if n >= len(answers) {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", fmt.Sprint(answers[n].index))
		_, _ = w.Write([]byte(answers[n].body))
	})
	told := make(chan string, 10)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Watch(ctx, "w/", func(entries []coordination.Entry, err error) { // ends with ctx
			if err == nil {
				told <- string(entries[0].Value)
			}
		})
	}()
	if got := <-told; got != "new" {
		t.Fatal(got)
	}
	if got := <-told; got != "old" {
		t.Fatal(got)
	}
	<-waits // the questions come behind what is told
	cancel()
	<-ended
	mu.Lock()
	defer mu.Unlock()
	if len(asked) < 3 || asked[0] != "" || asked[1] != "900" || asked[2] != "" {
		t.Errorf("asked with the indexes %q", asked)
	}
}

// A server that passed a watch's question on to a leader in a black hole does not
// answer it, though it would answer the next one. Nothing may rest on the first:
// a failover once waited half a minute for it.
func TestWatchSurvivesAQuestionWithoutAnswer(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		if n == 2 {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", fmt.Sprint(n))
		_, _ = w.Write([]byte("[" + pair("w/a", fmt.Sprint(n), uint64(n)) + "]"))
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	told := ""
	_ = s.Watch(ctx, "w/", func(entries []coordination.Entry, err error) { // ends with ctx
		if err == nil {
			if told = string(entries[0].Value); told != "1" {
				cancel()
			}
		}
	})
	if told != "3" {
		t.Errorf("after a question without an answer the watch told %q for 10 s", told)
	}
}

func TestIndexZeroIsNoAnswer(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "0")
		_, _ = w.Write([]byte("[]"))
	})
	if _, err := s.List(context.Background(), "w/"); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// Reads that decide ask for consistency, and writes compare.
func TestRequests(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength+1)
		n, _ := r.Body.Read(body)
		_, consistent := r.URL.Query()["consistent"]
		mu.Lock()
		seen = append(seen, fmt.Sprintf("%s %s consistent=%v %s", r.Method, r.URL.Path, consistent, body[:n]))
		mu.Unlock()
		w.Header().Set("X-Consul-Index", "7")
		if r.Method == http.MethodPut {
			_, _ = w.Write([]byte(`{"Results":[{"KV":` + pair("k", "", 8) + `}]}`))
			return
		}
		_, _ = w.Write([]byte("[" + pair("k", "v", 7) + "]"))
	})
	ctx := context.Background()
	if e, err := s.Get(ctx, "k"); err != nil || e.Version != 7 || string(e.Value) != "v" {
		t.Fatalf("%+v, %v", e, err)
	}
	if v, err := s.Put(ctx, "k", []byte("x"), 7); err != nil || v != 8 {
		t.Fatalf("%d, %v", v, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 2 || !strings.HasPrefix(seen[0], "GET /v1/kv/k consistent=true") || !strings.Contains(seen[1], `"Verb":"cas"`) || !strings.Contains(seen[1], `"Index":7`) {
		t.Errorf("%q", seen)
	}
}

// A token that may not write is no conflict: trying again would never help.
func TestDeniedWriteIsNoConflict(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write([]byte(`{"Errors":[{"OpIndex":0,"What":"Permission denied: token lacks permission 'key:write'"}]}`))
	})
	_, err := s.Put(context.Background(), "k", nil, 0)
	if err == nil || errors.Is(err, coordination.ErrConflict) || !strings.Contains(err.Error(), "check the token's policy") {
		t.Errorf("%v", err)
	}
}

// Consul shows who may not read everything what he may, and says aside that there is more.
// To take that for all would be to wait for no gateway.
func TestAFilteredListIsNoList(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		_, _ = w.Write([]byte("[" + pair("w/a", "v", 7) + "]"))
	})
	if entries, err := s.List(context.Background(), "w/"); !errors.Is(err, coordination.ErrDenied) || !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("%v, %v", entries, err)
	}
}

// The token is asked for at each call, and refusals are told to who looks after it.
func TestTokensChange(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Method+" "+r.Header.Get("X-Consul-Token"))
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte("rpc error making call: ACL not found"))
	}))
	t.Cleanup(srv.Close)
	token, denied := "one", 0
	s, err := consul.New(consul.Config{Address: strings.TrimPrefix(srv.URL, "http://"), Token: func() string { return token }, Denied: func() { denied++ }})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	large := make([]byte, 400<<10)
	for i, call := range []func() error{
		func() error { _, err := s.Get(ctx, "k"); return err },
		func() error { _, err := s.List(ctx, "k"); return err },
		func() error { _, err := s.Put(ctx, "k", nil, 0); return err },
		func() error { _, err := s.Put(ctx, "k", large, 0); return err },
	} {
		if token = fmt.Sprint(i); !errors.Is(call(), coordination.ErrDenied) || denied != i+1 {
			t.Errorf("call %d: told of %d refusals", i, denied)
		}
	}
	if _, err := s.Lacking(ctx, "another", []coordination.Rule{{Path: "k"}}); !errors.Is(err, coordination.ErrDenied) || denied != 4 {
		t.Errorf("of another token: %v, told of %d refusals", err, denied)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"GET 0", "GET 1", "PUT 2", "PUT 3", "PUT another"}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
}

// Who has a token does not need the one that a shell's environment names.
func TestTheEnvironmentsTokenFileIsNotRead(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", t.TempDir()+"/absent")
	s, err := consul.New(consul.Config{Address: "127.0.0.1:1", Token: func() string { return "one" }})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// Rights are asked for without writing: nothing in the transaction can come true.
func TestLackingNamesRules(t *testing.T) {
	var body string
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write([]byte(`{"Errors":[{"OpIndex":1,"What":"Permission denied: lacks"},{"OpIndex":0,"What":"index is stale"}]}`))
	})
	rules := []coordination.Rule{{Path: "a"}, {Path: "b/", Prefix: true, Write: true}}
	lacking, err := s.Lacking(context.Background(), "t", rules)
	if err != nil || !slices.Equal(lacking, rules[1:]) {
		t.Errorf("%v, %v", lacking, err)
	}
	for _, want := range []string{`"Verb":"check-index","Key":"a"`, `"Verb":"cas","Key":"b/?"`} {
		if !strings.Contains(body, want) || strings.Count(body, `"Index":9223372036854775807`) != 2 {
			t.Errorf("%s lacks %s", body, want)
		}
	}
}
