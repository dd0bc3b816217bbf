// Package offsetmap translates offsets of one partition at one site between
// the site's own numbers and virtual offsets, exactly, for every offset. It is
// pure: it knows neither topics nor connections nor clocks.
//
// Invariants, cited by letter in code and tests:
//
//	A  ranges are disjoint and ascending in local and in virtual offsets
//	B  a consumer that resumes at ToLocal(v) misses no visible record from v
//	   on and sees none before it (promise D)
//	C  ToVirtual(ToLocal(v)) = the first visible virtual offset ≥ v
//	D  what belongs to no range is hidden: never served, never counted as lag
//	E  of two chunks that claim the same local offset, the one of the higher
//	   append session wins, then the later written one (C14)
package offsetmap
