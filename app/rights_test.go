package app

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/authorization"
	"spillway/federation/router"
	"spillway/telemetry"
)

// Clients cannot fill the log by asking for what they may not do.
func TestDenialsAreTold(t *testing.T) {
	var b bytes.Buffer
	d := newDenials(slog.New(slog.NewTextHandler(&b, nil)))
	one := router.Denial{
		Client: authorization.Client{Principal: "User:alice", Host: "10.0.0.1"}, Operation: authorization.Read, Kind: authorization.Topic, Name: "orders", Site: "east",
		Decision: authorization.NewRules(authorization.Policy{}, nil).Decide(authorization.Client{}, authorization.Read, authorization.Topic, "orders"),
	}
	for range 10_000 {
		d.tell(one)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) < denialsBurst || len(lines) > 2*denialsBurst {
		t.Errorf("%d lines", len(lines))
	}
	for _, want := range []string{"principal=User:alice", "host=10.0.0.1", "operation=READ", "resource=TOPIC", "name=orders", "site=east", `why="denied: no entry allows it"`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%s is not in %s", want, lines[0])
		}
	}
	if n := d.untold.Load(); n == 0 {
		t.Error("nothing is untold")
	}
}

// What a client has chosen does not fill the log either, nor break its lines.
func TestNamesInTheLogAreCut(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"short":           {"orders", "orders"},
		"long":            {strings.Repeat("x", 300), strings.Repeat("x", 256)},
		"of two bytes":    {strings.Repeat("ä", 128), strings.Repeat("ä", 128)},
		"cut in a letter": {"x" + strings.Repeat("ä", 200), "x" + strings.Repeat("ä", 127)},
		"of four bytes":   {"xxx" + strings.Repeat("😀", 100), "xxx" + strings.Repeat("😀", 63)},
		"no letters":      {"a\xff\xfeb", "a?b"},
		"never a letter":  {strings.Repeat("\x80", 300), "?"},
	} {
		if got := denialWord(c.in); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	var b bytes.Buffer
	newDenials(slog.New(slog.NewTextHandler(&b, nil))).tell(router.Denial{Client: authorization.Client{Principal: strings.Repeat("p", 10_000)}, Name: strings.Repeat("n", 32_000)})
	if n := b.Len(); n > 1000 {
		t.Errorf("a line of %d bytes", n)
	}
}

// A gateway is not ready while no list of any site was read, and does not become red because
// one site is away.
func TestReadinessOfRights(t *testing.T) {
	tel := telemetry.New("test")
	a := &App{tel: tel, log: slog.New(slog.DiscardHandler), asGateway: map[spillway.SiteID]broker.Cluster{"east": nil, "west": nil}}
	if a.authorization(configs.Authorization{Rules: "none"}) != nil {
		t.Error("none is no rule")
	}
	if ok, text := tel.Health.Ready(); !ok {
		t.Error(text)
	}
	c := a.authorization(configs.Authorization{Rules: "acls", SuperUsers: []string{"User:admin"}, AllowUnlisted: true})
	if fmt.Sprint(c.SuperUsers, c.AllowUnlisted) != "[User:admin] true" {
		t.Errorf("%+v", c.Policy)
	}
	away := errors.New("the site is away")
	for _, s := range []struct {
		err    error
		unread []spillway.SiteID
		ready  bool
	}{
		{away, []spillway.SiteID{"east", "west"}, false}, {nil, []spillway.SiteID{"west"}, true}, {away, []spillway.SiteID{"west"}, true}, {away, nil, true},
	} {
		c.Looked("west", s.err, s.unread)
		if ok, text := tel.Health.Ready(); ok != s.ready || !ok && !strings.Contains(text, "nobody but super users may do anything until one is read: the site is away") {
			t.Errorf("%v, unread %v: %s", s.err, s.unread, text)
		}
	}
}
