package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"

	"spillway/federation/coordination"
)

// The API is for processes of the same host: JSON over HTTP, one path per
// method of coordination.Store.
const (
	pathGet   = "/v1/get"
	pathList  = "/v1/list"
	pathApply = "/v1/apply"
	pathWatch = "/v1/watch"

	// requestBytesMax bounds a request: a transaction of 64 full values, in base64.
	requestBytesMax = 64 << 20
	headerBytesMax  = 16 << 10
	pollWaitMax     = time.Minute
)

type request struct {
	Key    string            `json:"key,omitempty"` // or prefix
	Ops    []coordination.Op `json:"ops,omitempty"`
	After  uint64            `json:"after,omitempty"`
	WaitMS int64             `json:"waitMs,omitempty"`
}

type answer struct {
	Entries []coordination.Entry `json:"entries,omitempty"`
	Version uint64               `json:"version,omitempty"`
	Error   string               `json:"error,omitempty"`
}

// Serve answers local processes until ctx ends. The listener must be a unix
// socket or on loopback: there is no authentication beyond that.
func (s *Store) Serve(ctx context.Context, l net.Listener) error {
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		return fmt.Errorf("serve embedded store on %s: only loopback and unix sockets are allowed", a)
	}
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    headerBytesMax,
		BaseContext:       func(net.Listener) context.Context { return serving },
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-serving.Done()
		_ = srv.Close() // polls end with their context
	}()
	err := srv.Serve(l)
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve embedded store: %w", err)
}

func (s *Store) handler() http.Handler {
	mux := http.NewServeMux()
	for path, fn := range map[string]func(context.Context, request) (answer, error){
		pathGet: func(ctx context.Context, r request) (answer, error) {
			e, err := s.Get(ctx, r.Key)
			return answer{Entries: []coordination.Entry{e}}, err
		},
		pathList: func(ctx context.Context, r request) (answer, error) {
			entries, err := s.List(ctx, r.Key)
			return answer{Entries: entries}, err
		},
		pathApply: func(ctx context.Context, r request) (answer, error) {
			v, err := s.apply(ctx, r.Ops)
			return answer{Version: v}, err
		},
		pathWatch: func(ctx context.Context, r request) (answer, error) {
			wait := min(max(time.Duration(r.WaitMS)*time.Millisecond, 0), pollWaitMax)
			entries, at, err := s.poll(ctx, r.Key, r.After, wait)
			return answer{Entries: entries, Version: at}, err
		},
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, hr *http.Request) {
			// The type keeps web pages of a local browser out: they cannot send it
			// without asking first.
			if t, _, err := mime.ParseMediaType(hr.Header.Get("Content-Type")); err != nil || t != "application/json" {
				http.Error(w, "application/json is expected", http.StatusUnsupportedMediaType)
				return
			}
			var r request
			if err := json.NewDecoder(http.MaxBytesReader(w, hr.Body, requestBytesMax)).Decode(&r); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			a, err := fn(hr.Context(), r)
			if err != nil {
				a = answer{Error: err.Error()}
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status(err))
			_ = json.NewEncoder(w).Encode(a) // the peer is gone if this fails
		})
	}
	return mux
}

func status(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, coordination.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, coordination.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, coordination.ErrUnavailable):
		return http.StatusServiceUnavailable
	default:
		return http.StatusUnprocessableEntity
	}
}

// Client is the store as seen from another process of the host.
type Client struct {
	base string
	http *http.Client
}

// callMax bounds one call whose context has no nearer deadline.
const callMax = 5 * time.Second

// Dial prepares a client for "host:port" or "unix:/path". It does not connect.
func Dial(addr string) *Client {
	dialer := &net.Dialer{Timeout: callMax}
	network, target := "tcp", addr
	if len(addr) > 5 && addr[:5] == "unix:" {
		network, target = "unix", addr[5:]
	}
	return &Client{base: "http://embedded", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, target)
		},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	}}}
}

func (c *Client) call(ctx context.Context, path string, r request, bound time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	body, err := json.Marshal(r)
	if err != nil {
		return answer{}, fmt.Errorf("embedded store: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, newBody(body))
	if err != nil {
		return answer{}, fmt.Errorf("embedded store: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.ContentLength = int64(len(body))
	resp, err := c.http.Do(hr)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", coordination.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("%w: answer of the embedded store: %w", coordination.ErrUnavailable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return a, nil
	case http.StatusConflict:
		return answer{}, remoteError{a.Error, coordination.ErrConflict}
	case http.StatusNotFound:
		return answer{}, remoteError{a.Error, coordination.ErrNotFound}
	case http.StatusServiceUnavailable:
		return answer{}, remoteError{a.Error, coordination.ErrUnavailable}
	default:
		return answer{}, errors.New(a.Error)
	}
}

// remoteError is the owner's sentence with the sentinel that it stood for.
type remoteError struct {
	text string
	kind error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.kind }

// body is a request body that http may not rewind: an unsure write is told to
// the caller and never sent twice behind its back.
type body struct {
	io.Reader
}

func (body) Close() error { return nil }

func newBody(b []byte) io.ReadCloser {
	pr := &sliceReader{b}
	return body{pr}
}

type sliceReader struct{ rest []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Get reads one key.
func (c *Client) Get(ctx context.Context, key string) (coordination.Entry, error) {
	a, err := c.call(ctx, pathGet, request{Key: key}, callMax)
	if err == nil && len(a.Entries) != 1 {
		err = fmt.Errorf("%w: embedded store: %d entries in the answer about %s, where there must be one", coordination.ErrUnavailable, len(a.Entries), key)
	}
	if err != nil {
		return coordination.Entry{}, err
	}
	return a.Entries[0], nil
}

// List reads all keys under a prefix.
func (c *Client) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	a, err := c.call(ctx, pathList, request{Key: prefix}, callMax)
	return a.Entries, err
}

// Put writes value if version is the current one.
func (c *Client) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	return c.apply(ctx, []coordination.Op{{Key: key, Value: value, Version: version}})
}

// Delete removes the key if version is the current one.
func (c *Client) Delete(ctx context.Context, key string, version uint64) error {
	_, err := c.apply(ctx, []coordination.Op{{Key: key, Version: version, Delete: true}})
	return err
}

// Txn applies all changes or none.
func (c *Client) Txn(ctx context.Context, ops []coordination.Op) error {
	_, err := c.apply(ctx, ops)
	return err
}

func (c *Client) apply(ctx context.Context, ops []coordination.Op) (uint64, error) {
	if err := coordination.CheckOps(ops); err != nil {
		return 0, err
	}
	a, err := c.call(ctx, pathApply, request{Ops: ops}, callMax)
	return a.Version, err
}

// Watch calls fn with the content under prefix now and after each change.
func (c *Client) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	return coordination.WatchLoop(ctx, func(ctx context.Context, prefix string, after uint64, wait time.Duration) ([]coordination.Entry, uint64, error) {
		a, err := c.call(ctx, pathWatch, request{Key: prefix, After: after, WaitMS: wait.Milliseconds()}, wait+callMax)
		return a.Entries, a.Version, err
	}, prefix, fn)
}

// Close drops idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
