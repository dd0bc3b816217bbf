package failover

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"spillway"
)

// A failover group that is adopting (spillway.FailoverGroup.Adopting) may have clients that
// connect to the brokers of its active site, past the gateways. They would not come along if
// it moved: they would write where nobody reads. So nothing moves as long as its record has an
// Adoption, which outlives the key of the configuration until nobody is found any more.

// Adoption is the part of a share record that says so.
type Adoption struct {
	Since time.Time `json:"since"`
	// Direct says which clients were found past the gateways when their number changed last,
	// or why that is not known. "": nobody has looked yet.
	Direct string `json:"direct,omitempty"`
	// Clients is how many those were.
	Clients int `json:"clients"`
	// None: everything could be looked at, and there were none.
	None bool `json:"none,omitempty"`
	// Unread: the last look could not see everything, so Clients are those of an earlier one.
	Unread bool `json:"unread,omitempty"`
}

// DirectView is what a look for clients past the gateways has found, at the site that serves.
type DirectView struct {
	Clients int
	None    bool // all could be looked at, and there are none
	What    string
	// Unread is what the last look could not see; "": it saw everything, or somebody. The rest
	// is of an earlier look then; What is "" where there was none.
	Unread string
}

func (v DirectView) String() string {
	switch {
	case v.Unread == "":
		return v.What
	case v.What == "":
		return v.Unread
	}
	return v.Unread + "; before that: " + v.What
}

// directBytesMax bounds what a record says of them.
const directBytesMax = 1000

// adoption decides what becomes of the adoption of a share that stands still: what the record
// says next of it, and why. "": nothing changes.
//
//	the configuration says adopting, the record does not    it begins
//	both do                                                 what was found is noted when it changes
//	only the record does                                    it ends if a look has found nobody, and no other loop
//	                                                        has the key, which would begin it again; else it goes on
func adoption(share Share, view View, limits Limits) (Share, string) {
	wanted, had, found := limits.Group.Adopting, share.Adoption, view.Direct
	next := share
	switch {
	case wanted && had == nil:
		next.Adoption = &Adoption{Since: view.Now}
		return next, fmt.Sprintf("failover group %s is adopting: nothing moves while clients may go past the gateways", share.Group)
	case had == nil || found == nil:
		return share, ""
	case !wanted && found.None && !view.Adopting:
		next.Adoption = nil
		return next, fmt.Sprintf("failover group %s is adopted: %s", share.Group, found.What)
	}
	if had.Direct != "" && had.Clients == found.Clients && had.None == found.None && had.Unread == (found.Unread != "") {
		return share, ""
	}
	what := found.String()
	if len(what) > directBytesMax {
		what = strings.ToValidUTF8(what[:directBytesMax], "") + " …"
	}
	next.Adoption = &Adoption{Since: had.Since, Direct: what, Clients: found.Clients, None: found.None, Unread: found.Unread != ""}
	return next, fmt.Sprintf("failover group %s is adopting: %s", share.Group, what)
}

// Stranding says why no move of a share may be begun, since clients past the gateways would
// not come along. "": none is known to be there.
func Stranding(share Share, group spillway.FailoverGroup) string {
	switch had := share.Adoption; {
	case group.Adopting:
		return fmt.Sprintf("failover group %s is adopting (its key in the configuration), so that clients may go past the gateways to %s and would not come along: %s; spillway failover-group clients %s lists them",
			group.Name, share.Active, had.found(), group.Name)
	case had != nil:
		return fmt.Sprintf("failover group %s was adopting, and it has not been found yet that no client goes past the gateways to %s any more, which would not come along: %s; spillway failover-group clients %s lists them, and spillway failover-group end-adoption %s ends it",
			group.Name, share.Active, had.found(), group.Name, group.Name)
	}
	return ""
}

func (a *Adoption) found() string {
	if a == nil {
		return "nobody has looked yet"
	}
	return cmp.Or(a.Direct, "nobody has looked yet")
}

// Stranded says why a move is refused that would leave clients behind. "": it is not. A
// failover from a site that is down leaves nobody behind who is served there, and is for a
// person to decide.
func Stranded(share Share, r Request, view View, limits Limits) string {
	if r.Kind == Failover && !r.Automatic && view.Sites[share.Active].Judgement.Down {
		return ""
	}
	return Stranding(share, limits.Group)
}

// EndAdoption is what a person says: it ends although clients may be left. The configuration
// must not say adopting any more, or it would begin again.
func EndAdoption(share Share, group spillway.FailoverGroup) (Share, error) {
	switch {
	case group.Adopting:
		return share, refuse("the configuration says that failover group %s is adopting: take the key away at all processes first", group.Name)
	case share.Adoption == nil:
		return share, refuse("failover group %s is not adopting", group.Name)
	case share.State != Stable:
		return share, refuse("share %s is in %s: wait for the move, or abort it", share.ID(), share.State)
	}
	share.Adoption = nil
	return share, nil
}
