package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
)

// newRights keeps the access control lists of all sites: after a move the new site's is there.
func (g *Gateway) newRights(c authorization.Config) *authorization.Keeper {
	for site := range g.config.Sites {
		c.Sites = append(c.Sites, site)
	}
	if c.Read == nil {
		c.Read = g.readACLs
	}
	read := c.Read
	c.Read = func(ctx context.Context, id spillway.SiteID) ([]spillway.ACL, error) {
		entries, err := read(ctx, id)
		site, _ := g.config.Topology.Site(id)
		return authorization.WithoutFence(entries, site.GatewayPrincipal), err
	}
	looked := c.Looked
	c.Looked = func(site spillway.SiteID, err error, unread []spillway.SiteID) {
		if err != nil {
			g.problem("know what clients may do at site "+string(site), err)
		}
		if looked != nil {
			looked(site, err, unread)
		}
	}
	return authorization.NewKeeper(c)
}

func (g *Gateway) readACLs(ctx context.Context, site spillway.SiteID) ([]spillway.ACL, error) {
	entries, err := g.config.Sites[site].Admin().AllACLs(ctx)
	if errors.Is(err, broker.ErrNotSupported) {
		return nil, fmt.Errorf("%w; give its brokers one, or set gateway.authorization.rules: none", err)
	}
	return entries, err
}

// awaitRights lets the first clients find the lists read of the sites that serve; one that
// serves nothing now holds nobody up. It comes before the lease: who has that is laid out, and
// clients would be sent to a gateway that does not take them yet. A site that is away holds
// nobody up for long; of what it serves clients are told to come again.
func (g *Gateway) awaitRights(ctx context.Context) {
	if g.rights == nil {
		return
	}
	most := cmp.Or(g.config.Authorization.FirstMax, authorization.FirstMax)
	waiting, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if unread := g.rights.Wait(waiting, g.servingSites(waiting)); len(unread) > 0 && ctx.Err() == nil {
		g.problem("know what clients may do before they come", fmt.Errorf(
			"within %s no access control list came from site %s; the gateway goes on, and tells clients of what these sites serve to come again", most, joined(unread)))
	}
}

// servingSites are those that serve shares, or will where a move is under way, as the store
// says; all, where it does not answer.
func (g *Gateway) servingSites(ctx context.Context) (sites []spillway.SiteID) {
	shares, err := g.config.Store.List(ctx, g.keys.Shares())
	if err != nil {
		return slices.Collect(maps.Keys(g.config.Sites))
	}
	g.takeShares(shares, true)
	for _, s := range g.shares {
		sites = append(sites, s.Record().Active, s.Record().Next())
	}
	slices.Sort(sites)
	return slices.Compact(sites)
}

func joined(sites []spillway.SiteID) string {
	words := make([]string, len(sites))
	for i, s := range sites {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}
