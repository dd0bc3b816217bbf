package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"spillway/configs"
	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	"spillway/federation/coordination/embedded"
	"spillway/federation/failover"
)

// OpenStore opens the coordinator store for a command: Consul, or the embedded
// store over its socket, or its file where nobody serves a socket. Consul is
// not contacted yet; a store that is away is told by the first call.
func OpenStore(ctx context.Context, cfg *configs.Config) (coordination.Store, error) {
	store, err := openStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	guarded, err := identified(cfg, store, false)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return guarded, nil
}

func openStore(ctx context.Context, cfg *configs.Config) (coordination.Store, error) {
	if k := cfg.Coordinator.Consul; k != nil {
		return openConsul(*k)
	}
	e := cfg.Coordinator.Embedded
	if e.Socket != "" {
		if e.File == "" || served(ctx, e.Socket) {
			return embedded.Dial("unix:" + e.Socket), nil
		}
	}
	s, err := embedded.Open(e.File)
	if err != nil {
		return nil, fmt.Errorf("%w; a running process owns it: give coordinator.embedded.socket, so that commands can reach it", err)
	}
	return s, nil
}

// identified guards a store against processes and commands whose configuration is that of
// another virtual cluster of the same name: they would take names and offsets at the sites for
// others than they are.
func identified(cfg *configs.Config, store coordination.Store, create bool) (*coordination.IdentifiedStore, error) {
	v := cfg.VirtualCluster
	text, err := json.Marshal(identity{v.ClusterID, v.Namespace})
	if err != nil {
		return nil, err
	}
	return coordination.Identified(store, failover.Keys(v.Name).Identity(), text, create), nil
}

// identity is what can never change of a virtual cluster, as it stands in the store.
type identity struct {
	ClusterID string `json:"clusterID"`
	Namespace string `json:"namespace"`
}

// identify has the process use a store, if that does not say at once that it is another
// virtual cluster's. One that is away is asked later, before it is told or asked anything else.
func (a *App) identify(ctx context.Context, store coordination.Store) error {
	guarded, err := identified(a.cfg, store, a.cfg.HasRole(configs.RoleControl))
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, identityMax)
	defer cancel()
	if err := guarded.Check(asking); errors.Is(err, coordination.ErrOther) {
		return fmt.Errorf("virtualCluster: %w: clusterID and namespace can never change, and are the same for all processes", err)
	}
	a.store = coordination.ShareWatches(guarded)
	return nil
}

// identityMax is how long a process waits for that at its start.
const identityMax = 2 * time.Second

// openConsul opens the store for a command, with the token as it is now.
func openConsul(k configs.Consul) (coordination.Store, error) {
	token, err := readToken(k)
	if err != nil {
		return nil, err
	}
	return dialConsul(k, func() string { return token }, nil)
}

func dialConsul(k configs.Consul, token func() string, denied func()) (*consul.Store, error) {
	return consul.New(consul.Config{
		Address: k.Address, Token: token, Denied: denied, Datacenter: k.Datacenter,
		CAFile: k.CAFile, CertFile: k.CertFile, KeyFile: k.KeyFile,
	})
}

// serveConsul opens the store for a serving process. A token that may not do what the
// process does fails here: it would get no better by waiting. While Consul does not
// answer nobody knows, and it is asked again later.
func (a *App) serveConsul(ctx context.Context, k configs.Consul) (coordination.Store, error) {
	var store *consul.Store
	rules := rulesOf(a.cfg)
	token, err := newStoreToken(k, func(ctx context.Context, token string) error {
		lacking, err := store.Lacking(ctx, token, rules)
		return errors.Join(err, lackingError(lacking))
	})
	if err != nil {
		return nil, err
	}
	if store, err = dialConsul(k, token.get, token.doubt); err != nil {
		return nil, err
	}
	_, _, err = token.look(ctx)
	if errors.Is(err, coordination.ErrDenied) {
		return nil, errors.Join(err, store.Close())
	}
	a.tokenHealth(err)
	a.teardown.push("coordinator store", func(context.Context) error { return store.Close() })
	a.teardown.background("token of the coordinator", func(ctx context.Context) { a.watchToken(ctx, token) })
	return store, nil
}

// served tells whether some process answers at the socket.
func served(ctx context.Context, socket string) bool {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = c.Close() // only asked
	return true
}

// ServeStore opens the embedded store's file and serves it over its socket, for
// processes that own it. Where another process owns it, its socket is used.
// The stop function ends serving and releases the file.
func ServeStore(ctx context.Context, e configs.EmbeddedCoordinator) (coordination.Store, func() error, error) {
	if e.File == "" || e.Socket != "" && served(ctx, e.Socket) {
		c := embedded.Dial("unix:" + e.Socket)
		return c, c.Close, nil
	}
	if err := os.MkdirAll(filepath.Dir(e.File), 0o700); err != nil {
		return nil, nil, fmt.Errorf("folder of the embedded store: %w", err)
	}
	s, err := embedded.Open(e.File)
	if err != nil {
		return nil, nil, err
	}
	if e.Socket == "" {
		return s, s.Close, nil
	}
	if err := os.Remove(e.Socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that was killed
		return nil, nil, errors.Join(fmt.Errorf("old socket of the embedded store: %w", err), s.Close())
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", e.Socket)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket of the embedded store: %w", err), s.Close())
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Serve(serving, l) }()
	return s, func() error {
		cancel()
		return errors.Join(<-done, s.Close())
	}, nil
}
