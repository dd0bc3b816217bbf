// Package consul is the coordinator store on Consul's KV. It uses compare-and-set
// and consistent reads for everything that decides, blocking queries as hints
// only, and neither sessions nor locks: their TTL is 10 s at least and the server
// may double it (C30). KV is not replicated between datacenters joined over WAN,
// so all processes must speak to one Consul datacenter. The package knows nothing
// of what the values mean.
package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"spillway/federation/coordination"
)

const (
	// callMax bounds one call: a connection that takes everything and answers
	// nothing must not hold up a lease.
	callMax = 3 * time.Second
	// watchMax bounds the wait of one blocking query, and watchLate how much
	// later its answer may come. A server passes the question on to the leader,
	// and if the leader's network becomes a black hole the question waits there
	// although another leader was elected a second later: nothing tells the
	// server, so the wait is short.
	watchMax  = 2 * time.Second
	watchLate = 2 * time.Second
	// txnValueMax is the largest value that goes through a transaction. Values
	// travel there in base64 and the whole request may have 512 KB.
	txnValueMax = 256 << 10
	connsMax    = 64
)

// Config says where Consul is.
type Config struct {
	Address string // "host:port", "https://host:port" or "unix:///path"; one agent or server
	// Token is asked at each call, since tokens are changed while processes run. Nil:
	// there is none.
	Token func() string
	// Denied hears of calls that the token, or the lack of one, did not allow. It must not
	// take long. May be nil.
	Denied     func()
	Datacenter string // empty: the agent's own
	CAFile     string
	CertFile   string
	KeyFile    string
	// Dial replaces the network, for tests. Nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is coordination.Store on Consul.
type Store struct {
	kv        *api.KV
	txn       *api.Txn
	token     func() string
	denied    func()
	transport *http.Transport
}

// New prepares a client; it does not connect.
func New(cfg Config) (*Store, error) {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: callMax, KeepAlive: 15 * time.Second}).DialContext
	}
	transport := &http.Transport{
		DialContext:           dial,
		MaxIdleConnsPerHost:   connsMax,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   callMax,
		ResponseHeaderTimeout: 0, // blocking queries; every call has a deadline of its own
	}
	token := cfg.Token
	if token == nil {
		token = func() string { return "" }
	}
	ac := &api.Config{
		Address:    cfg.Address,
		Token:      token(), // each call has its own; without one here the client reads the file that its environment names
		Scheme:     "http",
		Datacenter: cfg.Datacenter,
		Transport:  transport,
		TLSConfig:  api.TLSConfig{CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile},
	}
	if rest, ok := strings.CutPrefix(cfg.Address, "https://"); ok {
		ac.Scheme, ac.Address = "https", rest
	}
	client, err := api.NewClient(ac)
	if err != nil {
		return nil, fmt.Errorf("consul at %s: %w", cfg.Address, err)
	}
	denied := cfg.Denied
	if denied == nil {
		denied = func() {}
	}
	return &Store{kv: client.KV(), txn: client.Txn(), token: token, denied: denied, transport: transport}, nil
}

// Close drops idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *Store) consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true, Token: s.token()}).WithContext(ctx)
}

// unavailable is the error of a call that was not answered as it should be.
func (s *Store) unavailable(what, key string, err error) error {
	err = unavailable(what, key, err)
	if errors.Is(err, coordination.ErrDenied) {
		s.denied()
	}
	return err
}

func unavailable(what, key string, err error) error {
	return fmt.Errorf("consul: %s %s: %w: %w", what, key, coordination.ErrUnavailable, explain(err))
}

// Get reads one key with a consistent read.
func (s *Store) Get(ctx context.Context, key string) (coordination.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	p, _, err := s.kv.Get(key, s.consistent(ctx))
	if err != nil {
		return coordination.Entry{}, s.unavailable("read", key, err)
	}
	if p == nil {
		return coordination.Entry{}, fmt.Errorf("%s: %w", key, coordination.ErrNotFound)
	}
	return coordination.Entry{Key: p.Key, Value: p.Value, Version: p.ModifyIndex}, nil
}

// List reads all keys under a prefix with a consistent read.
func (s *Store) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	entries, _, err := s.list(prefix, s.consistent(ctx))
	if err == nil && len(entries) == 0 && strings.HasSuffix(prefix, "/") {
		err = s.mayBeEmpty(ctx, prefix)
	}
	return entries, err
}

// pairs asks for all below a prefix, or for the one key that it means.
func (s *Store) pairs(prefix string, q *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
	if strings.HasSuffix(prefix, "/") {
		return s.kv.List(prefix, q)
	}
	p, meta, err := s.kv.Get(prefix, q)
	if p == nil {
		return nil, meta, err
	}
	return api.KVPairs{p}, meta, err
}

func (s *Store) list(prefix string, q *api.QueryOptions) ([]coordination.Entry, uint64, error) {
	pairs, meta, err := s.pairs(prefix, q)
	if err != nil {
		return nil, 0, s.unavailable("list", prefix, err)
	}
	entries := make([]coordination.Entry, 0, len(pairs))
	for _, p := range pairs { // Consul answers sorted by key
		entries = append(entries, coordination.Entry{Key: p.Key, Value: p.Value, Version: p.ModifyIndex})
	}
	if meta.ResultsFilteredByACLs {
		// What is there and was left out must not be taken for absent: a control loop
		// that sees no gateways waits for none.
		return nil, 0, s.unavailable("list", prefix, fmt.Errorf("%w: the token may not read all keys there; check its policy", coordination.ErrDenied))
	}
	if meta.LastIndex == 0 {
		// Never given by a healthy server; to wait for it would be a busy loop.
		return nil, 0, s.unavailable("list", prefix, errors.New("answered with index 0"))
	}
	return entries, meta.LastIndex, nil
}

// Put writes value if version is the current one.
func (s *Store) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	op := coordination.Op{Key: key, Value: value, Version: version}
	if err := coordination.CheckOps([]coordination.Op{op}); err != nil {
		return 0, err
	}
	if len(value) > txnValueMax {
		return s.putLarge(ctx, op)
	}
	results, err := s.apply(ctx, []coordination.Op{op})
	if err != nil {
		return 0, err
	}
	if len(results) != 1 || results[0].KV == nil {
		return 0, s.unavailable("write", key, fmt.Errorf("%d results", len(results)))
	}
	return results[0].KV.ModifyIndex, nil
}

// putLarge writes a value that does not fit into a transaction. The plain call
// does not tell the new version, so it is read back; if somebody was faster the
// caller hears of a conflict, as it would have a moment later.
func (s *Store) putLarge(ctx context.Context, op coordination.Op) (uint64, error) {
	call, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	ok, _, err := s.kv.CAS(&api.KVPair{Key: op.Key, Value: op.Value, ModifyIndex: op.Version}, (&api.WriteOptions{Token: s.token()}).WithContext(call))
	if err != nil {
		return 0, s.unavailable("write", op.Key, err)
	}
	if !ok {
		return 0, fmt.Errorf("%s: not version %d: %w", op.Key, op.Version, coordination.ErrConflict)
	}
	e, err := s.Get(ctx, op.Key)
	switch {
	case errors.Is(err, coordination.ErrNotFound):
		return 0, fmt.Errorf("%s: deleted at once: %w", op.Key, coordination.ErrConflict)
	case err != nil:
		return 0, err
	case string(e.Value) != string(op.Value):
		return 0, fmt.Errorf("%s: overwritten at once: %w", op.Key, coordination.ErrConflict)
	}
	return e.Version, nil
}

// Delete removes the key if version is the current one.
func (s *Store) Delete(ctx context.Context, key string, version uint64) error {
	_, err := s.apply(ctx, []coordination.Op{{Key: key, Version: version, Delete: true}})
	return err
}

// Txn applies all changes or none.
func (s *Store) Txn(ctx context.Context, ops []coordination.Op) error {
	if len(ops) == 0 {
		return nil
	}
	_, err := s.apply(ctx, ops)
	return err
}

func (s *Store) apply(ctx context.Context, ops []coordination.Op) (api.TxnResults, error) {
	if err := coordination.CheckOps(ops); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	txn := make(api.TxnOps, 0, len(ops))
	for _, op := range ops {
		k := &api.KVTxnOp{Key: op.Key, Value: op.Value, Index: op.Version}
		switch {
		case op.Check && op.Version == 0:
			k.Verb = api.KVCheckNotExists
		case op.Check:
			k.Verb = api.KVCheckIndex
		case op.Delete && op.Version == 0:
			k.Verb = api.KVCheckNotExists // nothing to delete
		case op.Delete:
			k.Verb = api.KVDeleteCAS
		default:
			k.Verb = api.KVCAS
		}
		txn = append(txn, &api.TxnOp{KV: k})
	}
	ok, resp, _, err := s.txn.Txn(txn, (&api.QueryOptions{Token: s.token()}).WithContext(ctx))
	if err != nil {
		return nil, s.unavailable("write", ops[0].Key, err)
	}
	if !ok {
		return nil, s.refusal(ops, resp.Errors)
	}
	return resp.Results, nil
}

// refusal tells which key refused the transaction. Consul names the operation
// by its index and the reason only in words.
func (s *Store) refusal(ops []coordination.Op, errs api.TxnErrors) error {
	for _, e := range errs {
		if e.OpIndex < 0 || e.OpIndex >= len(ops) {
			continue
		}
		op := ops[e.OpIndex]
		if denies(e) {
			s.denied()
			return fmt.Errorf("consul: write %s: %w: %s; check the token's policy", op.Key, coordination.ErrDenied, e.What)
		}
		return fmt.Errorf("%s: not version %d (%s): %w", op.Key, op.Version, e.What, coordination.ErrConflict)
	}
	return fmt.Errorf("consul: transaction refused without a reason: %w", coordination.ErrUnavailable)
}

// Watch calls fn with the content under prefix now and after each change.
func (s *Store) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	return coordination.WatchLoop(ctx, s.poll, prefix, fn)
}

// poll is one blocking query. The server adds up to a sixteenth to the wait, and
// may never answer: the deadline is the client's.
func (s *Store) poll(ctx context.Context, prefix string, after uint64, wait time.Duration) ([]coordination.Entry, uint64, error) {
	wait = min(wait, watchMax)
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+watchLate)
	defer cancel()
	q := &api.QueryOptions{WaitIndex: after, WaitTime: wait, RequireConsistent: after == 0, Token: s.token()}
	entries, index, err := s.list(prefix, q.WithContext(ctx))
	if err == nil && after == 0 && len(entries) == 0 && strings.HasSuffix(prefix, "/") {
		err = s.mayBeEmpty(ctx, prefix)
	}
	return entries, index, err
}
