package app

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"spillway"
	"spillway/configs"
	"spillway/federation/authorization"
	"spillway/federation/router"
)

// authorizationCheck is in /readyz where clients are authorized by access control lists.
const authorizationCheck = "access control lists"

// authorization is what clients may do; nil: everything.
func (a *App) authorization(c configs.Authorization) *authorization.Config {
	if c.Rules != "acls" {
		return nil
	}
	a.tel.Health.Expect(authorizationCheck)
	return &authorization.Config{
		Policy: authorization.Policy{SuperUsers: c.SuperUsers, AllowUnlisted: c.AllowUnlisted},
		// One site that is away from the beginning does not matter to the others' clients.
		Looked: func(_ spillway.SiteID, err error, unread []spillway.SiteID) {
			if err == nil || len(unread) < len(a.asGateway) {
				err = nil
			} else {
				err = fmt.Errorf("nobody but super users may do anything until one is read: %w", err)
			}
			a.health(authorizationCheck, "access control lists of sites", err)
		},
		Aged: a.tel.RightsAged,
		Changed: func(site spillway.SiteID, entries int) {
			a.log.Info("an access control list is in force", "site", site, "entries", entries)
		},
	}
}

// Bounds for what the log is told of denials: clients may ask as often as they like.
const (
	denialsPerSecond = 5
	denialsBurst     = 100
)

// denialWordMax bounds what a line has of a name that a client has chosen: a topic that
// nobody has may be called 32 KiB.
const denialWordMax = 256 // bytes

// denialWord is a name as the log has it, in UTF-8 whatever the client sent.
func denialWord(name string) string {
	cut := min(len(name), denialWordMax)
	for back := 1; cut < len(name) && back < utf8.UTFMax && !utf8.RuneStart(name[cut]); back++ {
		cut--
	}
	return strings.ToValidUTF8(name[:cut], "?") // no longer than it was
}

// denials logs what clients were not let do, as brokers do (kafka.authorizer.logger).
type denials struct {
	log    *slog.Logger
	limit  *rate.Limiter
	untold atomic.Int64
}

func newDenials(log *slog.Logger) *denials {
	return &denials{log: log, limit: rate.NewLimiter(denialsPerSecond, denialsBurst)}
}

func (d *denials) tell(one router.Denial) {
	if !d.limit.Allow() {
		d.untold.Add(1)
		return
	}
	d.log.Info("a client may not do what it asked for", "principal", denialWord(one.Client.Principal), "host", one.Client.Host, "operation", string(one.Operation),
		"resource", string(one.Kind), "name", denialWord(one.Name), "site", string(one.Site), "why", one.Decision.String(), "untold", d.untold.Swap(0))
}

// rightsOf says by what it is decided what clients may do, as one reads it in the log.
func rightsOf(c configs.Gateway) string {
	if c.Authorization.Rules == "acls" {
		return "what the access control list of the site that serves allows"
	}
	return "everything"
}
