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
