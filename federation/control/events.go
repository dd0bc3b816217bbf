package control

import (
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/topicchange"
)

// Events is how control tells what happened. A nil func is skipped, a slow one
// slows control, so listeners only count or enqueue.
type Events struct {
	// StateChanged: this loop wrote the record. Why is the sentence for people.
	StateChanged func(StateInfo)
	// Acknowledging: producers wait for fewer sites than the policy says, or for
	// enough again.
	Acknowledging func(AckInfo)
	// Waiting: the share stands in the same state for another reason than before;
	// Ask is true where a person must decide.
	Waiting func(WaitInfo)
	// ActionFailed: it will be tried again.
	ActionFailed func(share spillway.ShareID, what string, err error)
	// ActionDone: a loop or a site's follower carried out what a state of a move asks
	// for, or tried to.
	ActionDone func(ActionInfo)
	// VoteChanged: the observer of this process changed its mind about a site.
	VoteChanged   func(failover.Vote)
	LayoutChanged func(version int64, why string)
	// FollowFailed: the site's mirror could not do what the share's state asks.
	FollowFailed func(share spillway.ShareID, state failover.State, err error)
	// LeaseLost: the mirror's lease in the store is over (nil: it is held again).
	LeaseLost func(err error)
	// StoreLost: a watch was interrupted.
	StoreLost func(err error)
	// TopicChange: this loop carried a change of a topic on: to its end, or err says
	// what it waits for.
	TopicChange func(c topicchange.Change, err error)
	// Refused: a share is not driven, because the store is older than the sites.
	Refused func(share spillway.ShareID, why string)
}

// StateInfo is one transition of a share.
type StateInfo struct {
	Share        spillway.ShareID
	From, To     failover.State
	Epoch        spillway.Epoch
	Kind         failover.Kind
	Active       spillway.SiteID
	Target       spillway.SiteID
	Why          string
	HeldMillis   int64 // since FENCING, once the share is OPEN
	PassageCount int
}

// AckInfo says how the producers of a share are answered. Restoring: they wait for
// enough sites again, which do not have everything yet.
type AckInfo struct {
	Share     spillway.ShareID
	Degraded  bool
	Restoring bool
	Why       string
}

// ActionInfo is one piece of work inside of a state of a move.
type ActionInfo struct {
	Share   spillway.ShareID
	Epoch   spillway.Epoch // of the move
	State   failover.State
	What    string
	Site    spillway.SiteID // at which
	Started time.Time
	Ended   time.Time
	Err     error
}

// WaitInfo says what a share waits for.
type WaitInfo struct {
	Share spillway.ShareID
	State failover.State
	Ask   bool
	Why   string
}

func (e *Events) stateChanged(i StateInfo) {
	if e.StateChanged != nil {
		e.StateChanged(i)
	}
}

func (e *Events) acknowledging(i AckInfo) {
	if e.Acknowledging != nil {
		e.Acknowledging(i)
	}
}

func (e *Events) waiting(i WaitInfo) {
	if e.Waiting != nil {
		e.Waiting(i)
	}
}

func (e *Events) actionFailed(id spillway.ShareID, what string, err error) {
	if e.ActionFailed != nil {
		e.ActionFailed(id, what, err)
	}
}

func (e *Events) actionDone(i ActionInfo) {
	if e.ActionDone != nil {
		e.ActionDone(i)
	}
}

func (e *Events) voteChanged(v failover.Vote) {
	if e.VoteChanged != nil {
		e.VoteChanged(v)
	}
}

func (e *Events) layoutChanged(version int64, why string) {
	if e.LayoutChanged != nil {
		e.LayoutChanged(version, why)
	}
}

func (e *Events) followFailed(id spillway.ShareID, state failover.State, err error) {
	if e.FollowFailed != nil {
		e.FollowFailed(id, state, err)
	}
}

func (e *Events) leaseLost(err error) {
	if e.LeaseLost != nil {
		e.LeaseLost(err)
	}
}

func (e *Events) storeLost(err error) {
	if e.StoreLost != nil {
		e.StoreLost(err)
	}
}

func (e *Events) topicChange(c topicchange.Change, err error) {
	if e.TopicChange != nil {
		e.TopicChange(c, err)
	}
}

func (e *Events) refused(id spillway.ShareID, why string) {
	if e.Refused != nil {
		e.Refused(id, why)
	}
}
