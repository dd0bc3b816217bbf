// Package mirror feeds one site. It runs at the target site, follows the site
// that serves each share, and writes what it reads there into its own site
// record for record:
//
//	fetch → plan → save ranges → produce → compare → publish mark
//
// It owns the site's map topic: ranges, append sessions, epoch starts and ends,
// and the gap log. It knows neither gateways nor how a failover decides: moves
// call Know, Assign, Stop, CatchUp, OpenEpoch and CopyGroups, each of
// which may be repeated.
//
// Invariants, cited by letter in code and tests:
//
//	A  ranges are in the map topic, acknowledged, before the records they
//	   describe are sent
//	B  a mark is published only after the target's answer was compared with the
//	   plan and while the lease is held
//	C  a partition's batches travel in the order of their sequences, at most
//	   burstMax at a time, and nothing is decided before all have their answers;
//	   a batch whose fate is unknown is sent again as it was, in the same append
//	   session, or read back
//	D  what the target holds and the mirror did not plan is hidden and in the
//	   gap log; the flow goes on
//	E  positions are virtual, so any site can feed any other
//	F  no record leaves the source before the source's map says what it is
package mirror
