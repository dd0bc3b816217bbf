package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/configs"
	"spillway/federation/coordination"
	"spillway/federation/policies"
)

const (
	// tokenEvery is how often the file of the token is looked at.
	tokenEvery = 2 * time.Second
	// tokenProve is how long a token counts as proved: rights are taken away, or Consul
	// begins to ask for them, without anything being refused until the day they are needed.
	tokenProve = 30 * time.Second
	// tokenCheck is in /readyz: whether the token may do what the roles of this process do.
	tokenCheck = "coordinator token"
)

// storeToken is the token of a serving process in Consul. A new one in the file comes
// into force once Consul has said that it may do what this process does. When Consul has
// refused something, and every now and then, it is asked anew.
type storeToken struct {
	// Set once.
	read    func() (string, error)
	lacking func(ctx context.Context, token string) error

	current atomic.Pointer[string]
	proved  atomic.Bool // of current
	// Owned by look.
	provedAt time.Time
}

func newStoreToken(k configs.Consul, lacking func(context.Context, string) error) (*storeToken, error) {
	t := &storeToken{read: func() (string, error) { return readToken(k) }, lacking: lacking}
	token, err := t.read()
	if err != nil {
		return nil, err
	}
	t.current.Store(&token)
	return t, nil
}

// readToken reads the token; one that is given and empty is a fault, since Consul would
// take this process for a stranger.
func readToken(k configs.Consul) (string, error) {
	token, err := k.Token()
	if err == nil && token == "" && (k.TokenFile != "" || k.TokenEnv != "") {
		err = errors.New("the token is empty")
	}
	if err != nil {
		return "", fmt.Errorf("coordinator.consul: %w", err)
	}
	return token, nil
}

func (t *storeToken) get() string { return *t.current.Load() }

// doubt is called when the store has refused something.
func (t *storeToken) doubt() { t.proved.Store(false) }

// look takes a new token if the store proves it, and otherwise has the one in force proved
// where there is doubt, or the last time is long ago. Nothing is taken that was not proved.
// refused: a new token is not taken; err: the one in force may not do what it must, or
// nobody knows yet.
func (t *storeToken) look(ctx context.Context) (changed bool, refused, err error) {
	token, refused := t.read()
	if refused == nil && token != t.get() {
		if refused = t.lacking(ctx, token); refused == nil {
			t.current.Store(&token)
			t.proved.Store(true)
			t.provedAt = time.Now()
			return true, nil, nil
		}
	}
	if t.proved.Load() && time.Since(t.provedAt) < tokenProve {
		return false, refused, nil
	}
	at := time.Now()
	switch err = t.lacking(ctx, t.get()); {
	case err == nil:
		t.proved.Store(true)
		t.provedAt = at
	case !errors.Is(err, coordination.ErrDenied) && t.proved.Load():
		err = nil // the store is away, which others tell; asked again at the next look
	default:
		t.proved.Store(false)
	}
	return false, refused, err
}

// rulesOf are what the roles of a process need in the store.
func rulesOf(cfg *configs.Config) []coordination.Rule {
	roles := []policies.Role{policies.Console}
	for _, r := range cfg.Roles() {
		roles = append(roles, policies.Role(r)) // one that needs nothing more adds nothing
	}
	return policies.Together(roles, policies.Holder{
		VirtualCluster: cfg.VirtualCluster.Name, Site: spillway.SiteID(cfg.Process.Site), Process: cfg.Process.ID, Drills: cfg.Topology().HasDrills(),
	})
}

// lackingError names the rules that the token's policies lack.
func lackingError(lacking []coordination.Rule) error {
	if len(lacking) == 0 {
		return nil
	}
	var rules []string
	for _, r := range lacking {
		rules = append(rules, fmt.Sprintf("%s (%s)", policies.Stanza(r), r.Why))
	}
	return fmt.Errorf("%w: the token of coordinator.consul lacks %s; spillway config consul-policy prints what each role needs",
		coordination.ErrDenied, strings.Join(rules, ", "))
}

// watchToken looks after the token until ctx ends.
func (a *App) watchToken(ctx context.Context, t *storeToken) {
	said := newProblems(a.log)
	tick := time.NewTicker(tokenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, refused, err := t.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if changed {
			a.log.Info("a new token of the coordinator is in force")
		}
		if refused != nil {
			said.tell("the new token of the coordinator is not taken, the one before stays", refused)
		}
		a.tokenHealth(err)
	}
}

// tokenHealth says when the store does not let this process do its work, each reason
// once, and when it does again. One goroutine at a time calls it.
func (a *App) tokenHealth(err error) {
	changed, why := a.tel.Health.Set(tokenCheck, err), ""
	switch {
	case errors.Is(err, coordination.ErrDenied):
		if why = err.Error(); changed || why != a.deniedWhy {
			a.log.Error("the coordinator store does not let this process do its work; nothing is lost, but its leases run out", "error", err)
		}
	case err != nil && changed:
		a.log.Warn("nobody knows yet whether the token of the coordinator may do what this process does, asking again", "error", err)
	case changed:
		a.log.Info("the token of the coordinator may do what this process does")
	}
	a.deniedWhy = why
}
