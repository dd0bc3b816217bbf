package router

import (
	"time"

	"spillway"
	"spillway/federation/quota"
)

// Events tell what happened. A nil func is skipped; a slow one slows the data
// path, so listeners only count or enqueue.
type Events struct {
	// Held: a request begins to wait because its share is not served.
	Held func(spillway.ShareID)
	// Released: a held request goes on or is given up, after waited.
	Released func(share spillway.ShareID, waited time.Duration)
	// Refused: a partition of a request, or a request, was refused by the
	// gateway itself. The reasons are a fixed set.
	Refused func(reason string)
	// TransactionUnknown: a site did not tell about a transaction; err names what was asked.
	// Clients ask again, and so does the gateway.
	TransactionUnknown func(site spillway.SiteID, err error)
	// Produced: a batch was acknowledged; local tells the site's part of took,
	// the rest is reserved end and durable mark.
	Produced func(share spillway.ShareID, records int32, bytes int, local, took time.Duration)
	// FirstContact: what became of a producer's first batch in a term.
	// outcome: forwarded, duplicate, waited, refused.
	FirstContact func(outcome string)
	// Throttled: an answer to a producer was late by took, because the other sites are
	// behind.
	Throttled func(share spillway.ShareID, took time.Duration)
	// Blocked: an acknowledgement begins to wait until the other sites are near enough.
	Blocked func(spillway.ShareID)
	// Unblocked: it goes on or is given up, after waited.
	Unblocked func(share spillway.ShareID, waited time.Duration)
	// Picked: a batch of an unordered group is written to a share, and why there.
	// The reasons are those of package lb, and HomeFirst's.
	Picked func(share spillway.ShareID, reason string)
	// Ejected: batches of an unordered group are written to other shares for a time.
	Ejected func(share spillway.ShareID, length time.Duration, why string)
	// Denied: a client may not do what it asked for by name.
	Denied func(Denial)
	// ChangeFailed: what a client asked to change about topics was not done, or not yet.
	ChangeFailed func(err error)
	// Read: a consumer that stands at a site of a group whose standbys are read got records.
	Read func(share spillway.ShareID, info ReadInfo)
	// Sent: such a consumer was told to read elsewhere: near, at its own site, or back with
	// the leader, since its site is too old.
	Sent func(share spillway.ShareID, way string)
	// FetchLimited: sites were asked for less than a client would have got,
	// because the budget of the process is used up.
	FetchLimited func()
	// OverQuota: a principal has used more than its quota, and a connection of it pauses for
	// so much longer.
	OverQuota func(kind quota.Kind, longer time.Duration)
	// TooManyOfPrincipal: a connection is closed, for its principal has as many as it may.
	TooManyOfPrincipal func()
}

func (e *Events) held(id spillway.ShareID) {
	if e.Held != nil {
		e.Held(id)
	}
}

func (e *Events) released(id spillway.ShareID, waited time.Duration) {
	if e.Released != nil {
		e.Released(id, waited)
	}
}

func (e *Events) refused(reason string) {
	if e.Refused != nil {
		e.Refused(reason)
	}
}

func (e *Events) transactionUnknown(site spillway.SiteID, err error) {
	if e.TransactionUnknown != nil {
		e.TransactionUnknown(site, err)
	}
}

func (e *Events) produced(id spillway.ShareID, records int32, bytes int, local, took time.Duration) {
	if e.Produced != nil {
		e.Produced(id, records, bytes, local, took)
	}
}

func (e *Events) firstContact(outcome string) {
	if e.FirstContact != nil {
		e.FirstContact(outcome)
	}
}

func (e *Events) throttled(id spillway.ShareID, took time.Duration) {
	if e.Throttled != nil {
		e.Throttled(id, took)
	}
}

func (e *Events) blocked(id spillway.ShareID) {
	if e.Blocked != nil {
		e.Blocked(id)
	}
}

func (e *Events) unblocked(id spillway.ShareID, waited time.Duration) {
	if e.Unblocked != nil {
		e.Unblocked(id, waited)
	}
}

func (e *Events) picked(id spillway.ShareID, reason string) {
	if e.Picked != nil {
		e.Picked(id, reason)
	}
}

func (e *Events) ejected(id spillway.ShareID, length time.Duration, why string) {
	if e.Ejected != nil {
		e.Ejected(id, length, why)
	}
}

func (e *Events) denied(d Denial) {
	if e.Denied != nil {
		e.Denied(d)
	}
}

func (e *Events) changeFailed(err error) {
	if e.ChangeFailed != nil {
		e.ChangeFailed(err)
	}
}

func (e *Events) read(id spillway.ShareID, info ReadInfo) {
	if e.Read != nil {
		e.Read(id, info)
	}
}

func (e *Events) sent(id spillway.ShareID, way string) {
	if e.Sent != nil {
		e.Sent(id, way)
	}
}

func (e *Events) fetchLimited() {
	if e.FetchLimited != nil {
		e.FetchLimited()
	}
}

func (e *Events) overQuota(kind quota.Kind, longer time.Duration) {
	if e.OverQuota != nil {
		e.OverQuota(kind, longer)
	}
}

func (e *Events) tooManyOfPrincipal() {
	if e.TooManyOfPrincipal != nil {
		e.TooManyOfPrincipal()
	}
}
