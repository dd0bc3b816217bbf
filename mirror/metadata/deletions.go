package metadata

// Created says that the mirror created a topic here.
type Created struct {
	From string `json:"from"` // id of the cluster that showed the topic last
	// Here is the topic's id at this site; empty until the creation is known to be
	// the mirror's own.
	Here string `json:"here,omitempty"`
}

// Deletion is what is known of a topic that the source does not have any more.
type Deletion struct {
	Follow  bool     // deletions are followed
	Created *Created // nil: the mirror did not create it
	Source  string   // id of the source's cluster
	Here    string   // the topic's id at this site now
}

// Verdict tells whether the topic is deleted here, and why or why not. What a
// person created here is never deleted, and a cluster that never had the topic
// does not delete it (A, B).
func (d Deletion) Verdict() (deleted bool, why string) {
	switch {
	case !d.Follow:
		return false, "deletions are not followed"
	case d.Created == nil || d.Created.Here == "":
		return false, "it was not the mirror that created it"
	case d.Created.Here != d.Here:
		return false, "somebody created it anew"
	case d.Created.From != d.Source:
		return false, "it came from another cluster than the one that is the source now"
	}
	return true, "as at the source"
}
