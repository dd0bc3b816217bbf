package failover

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"spillway"
)

// Keys names the entries of one virtual cluster in the coordinator store. Its
// value is the virtual cluster's name. A prefix ends with "/".
type Keys string

func (k Keys) root() string { return "spillway/" + string(k) + "/" }

// Shares is the prefix of all share records.
func (k Keys) Shares() string { return k.root() + "shares/" }

// Share is the record that decides.
func (k Keys) Share(id spillway.ShareID) string { return k.Shares() + id.String() }

// Gateways is the prefix of all gateway leases.
func (k Keys) Gateways() string { return k.root() + "gateways/" }

// Gateway is one gateway's lease.
func (k Keys) Gateway(id spillway.GatewayID) string { return k.Gateways() + string(id) }

// Mirrors is the prefix of all mirror leases.
func (k Keys) Mirrors() string { return k.root() + "mirrors/" }

// Mirror is the lease of one mirror worker at a site.
func (k Keys) Mirror(site spillway.SiteID, worker string) string {
	return k.Mirrors() + string(site) + "/" + worker
}

// Writer is the exclusive lease of the worker that writes into a site.
func (k Keys) Writer(site spillway.SiteID) string { return k.root() + "writers/" + string(site) }

// Layout is the layout record.
func (k Keys) Layout() string { return k.root() + "layout" }

// ReservedAll is the prefix of the reserved ends of all shares.
func (k Keys) ReservedAll() string { return k.root() + "reserved/" }

// Reserved holds the reserved ends of a share.
func (k Keys) Reserved(id spillway.ShareID) string { return k.ReservedAll() + id.String() }

// Moves is the prefix of all reports of gateways and sites.
func (k Keys) Moves() string { return k.root() + "moves/" }

// Move is the prefix of the reports about one epoch of a share.
func (k Keys) Move(id spillway.ShareID, e spillway.Epoch) string {
	return fmt.Sprintf("%s%s/%d/", k.Moves(), id, e)
}

// GatewayReport is one gateway's confirmation for one epoch.
func (k Keys) GatewayReport(id spillway.ShareID, e spillway.Epoch, g spillway.GatewayID) string {
	return k.Move(id, e) + "gateway/" + string(g)
}

// SiteReport is what a site's mirror says about one epoch.
func (k Keys) SiteReport(id spillway.ShareID, e spillway.Epoch, site spillway.SiteID) string {
	return k.Move(id, e) + "site/" + string(site)
}

// HistoryAll is the prefix of the finished and aborted moves of all shares.
func (k Keys) HistoryAll() string { return k.root() + "history/" }

// HistoryOf is the prefix of a share's finished and aborted moves.
func (k Keys) HistoryOf(id spillway.ShareID) string { return k.HistoryAll() + id.String() + "/" }

// History is the immutable record of one move. Epochs are padded so that
// listings come in their order.
func (k Keys) History(id spillway.ShareID, e spillway.Epoch) string {
	return fmt.Sprintf("%s%010d", k.HistoryOf(id), e)
}

// HistoryDegrade is the account of one time in which acknowledgements were weaker.
// It is listed after the move that opened the epoch.
func (k Keys) HistoryDegrade(id spillway.ShareID, e spillway.Epoch, count int) string {
	return fmt.Sprintf("%s-degrade-%04d", k.History(id, e), count)
}

// BesideAll is the prefix of what is kept of moves beside their records. It is none below
// HistoryAll: whoever counts moves there must not depend on it.
func (k Keys) BesideAll() string { return k.root() + "beside/" }

// BesideOf is that of one share.
func (k Keys) BesideOf(id spillway.ShareID) string { return k.BesideAll() + id.String() + "/" }

// HistoryKnown is what was known when a move began.
func (k Keys) HistoryKnown(id spillway.ShareID, e spillway.Epoch) string {
	return fmt.Sprintf("%s%010d/known", k.BesideOf(id), e)
}

// HistoryFound is what a site that was given up by a move alone had.
func (k Keys) HistoryFound(id spillway.ShareID, e spillway.Epoch, site spillway.SiteID) string {
	return fmt.Sprintf("%s%010d/found/%s", k.BesideOf(id), e, site)
}

// Ballots is the prefix of all observers' votes.
func (k Keys) Ballots() string { return k.root() + "ballots/" }

// Ballot is what the observer at one site says about all.
func (k Keys) Ballot(observer spillway.SiteID) string { return k.Ballots() + string(observer) }

// Identity is what all processes of the virtual cluster have to agree on.
func (k Keys) Identity() string { return k.root() + "identity" }

// Automation tells whether failovers may happen without a person.
func (k Keys) Automation() string { return k.root() + "automation" }

// DrainedAll is the prefix of the marks of sites that are drained.
func (k Keys) DrainedAll() string { return k.root() + "drained/" }

// Drained marks a site that is drained; absent if it is not.
func (k Keys) Drained(site spillway.SiteID) string { return k.DrainedAll() + string(site) }

// Offers is the prefix of what gateways heard that sites offer.
func (k Keys) Offers() string { return k.root() + "offers/" }

// Offer is what gateways heard that a site offers: versions by API key.
func (k Keys) Offer(site spillway.SiteID) string { return k.Offers() + string(site) }

// Topics is the prefix of the topics that are being created.
func (k Keys) Topics() string { return k.root() + "topics/" }

// Topic is the creation of one topic; absent if there is none.
func (k Keys) Topic(name string) string { return k.Topics() + name }

// ReplaysAll is the prefix of the claims of commands that write unreplicated records again.
func (k Keys) ReplaysAll() string { return k.root() + "replays/" }

// Replay is the claim of the command that writes a share's unreplicated records again;
// absent if there is none.
func (k Keys) Replay(id spillway.ShareID) string { return k.ReplaysAll() + id.String() }

// DrillsAll is the prefix of the accounts of drills.
func (k Keys) DrillsAll() string { return k.root() + "drills/" }

// Drills are the accounts of the last drills of a group, in one entry.
func (k Keys) Drills(group string) string { return k.DrillsAll() + group }

// Audits is the prefix of the audit log of people. It is not one of ClientAudits, so that
// nobody reads what is kept for ever to find what is to go.
func (k Keys) Audits() string { return k.root() + "audit/" }

// Audit is one entry: keys sort by time.
func (k Keys) Audit(at time.Time, random string) string {
	return k.Audits() + auditName(at, random)
}

// ClientAudits is the prefix of what clients of gateways are in the audit log with.
func (k Keys) ClientAudits() string { return k.root() + "client-audit/" }

// ClientAudit is one entry: keys sort by time.
func (k Keys) ClientAudit(at time.Time, random string) string {
	return k.ClientAudits() + auditName(at, random)
}

func auditName(at time.Time, random string) string {
	return at.UTC().Format("20060102T150405.000000") + "-" + random
}

// ParseMove takes a key under Moves apart: share, epoch, "gateway" or "site",
// and whose report it is.
func (k Keys) ParseMove(key string) (id spillway.ShareID, e spillway.Epoch, kind, who string, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(key, k.Moves()), "/", 5)
	if len(parts) != 5 || !strings.HasPrefix(key, k.Moves()) {
		return id, 0, "", "", false
	}
	index, errIndex := strconv.Atoi(parts[1])
	epoch, errEpoch := strconv.ParseInt(parts[2], 10, 32)
	if errIndex != nil || errEpoch != nil {
		return id, 0, "", "", false
	}
	return spillway.ShareID{Group: parts[0], Index: index}, spillway.Epoch(epoch), parts[3], parts[4], true
}

// Reserved is the record of a share's reserved ends: per partition the virtual
// offset below which the active site may acknowledge and hand out (C5). Raised
// ahead of use, by compare-and-set, only in the epoch in force.
type Reserved struct {
	Epoch spillway.Epoch   `json:"epoch"`
	Ends  PartitionOffsets `json:"ends"`
}
