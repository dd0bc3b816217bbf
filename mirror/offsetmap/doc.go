// Package offsetmap translates offsets of one partition at one site between
// the site's own numbers and virtual offsets, exactly, for every offset. It is
// pure: it knows neither topics nor connections nor clocks.
//
// A Map is fed with the records of a site's map topic in their order and hands
// out immutable Views to concurrent readers.
//
// Invariants, cited by letter in code and tests:
//
//	A  ranges are disjoint and ascending in local and in virtual offsets
//	B  a consumer that resumes at ToLocal(v) misses no visible record from v
//	   on and sees none before it (promise D)
//	C  ToVirtual(ToLocal(v)) = the first visible virtual offset ≥ v
//	D  what belongs to no range is hidden: never served, never counted as lag
//	E  what a newer append session says about an offset wins over what an older
//	   one said, and within a session the later record wins (C14); a record of
//	   a session that was already succeeded is void
//	F  a View ends where the log was compared with the map: ranges that were
//	   saved but not yet verified are in no View
//	G  between the start of an epoch and the opening of a session the later failover
//	   epoch decides, whichever is written first: a start is void behind a session that
//	   was opened in a later epoch, and where an epoch has started a session of that
//	   epoch or an older one opens nothing, and what it writes is void
package offsetmap
