// Package adopt finds out which records of a target partition are copies of which
// records of its source, when another mirror wrote them (MirrorMaker 2). It is pure:
// it sees offsets and digests of records, and knows neither topics nor connections
// nor clocks.
//
// That mirror copies in order and at least once. After a restart it goes on at an older
// position, so runs of records lie at the target again; it leaves out transaction
// markers, and either copies what aborted transactions wrote or leaves it out too.
// Others may have written at the target, either log may have lost its beginning, and
// either may be compacted.
//
// Invariants, cited by letter in code and tests:
//
//	A  pairs are strictly ascending in source and in target
//	B  the two records of a pair are equal in key, value, headers and time
//	C  where the target holds nothing but copies in order, runs of them again, and
//	   aborted records, every committed record that was copied has a pair
//	D  every record of the target is in a pair or in one finding, and every committed
//	   record of the source up to the last pair too, but for those that compaction
//	   may remove
//	E  of a run that lies at the target again, and goes on to where the copies had
//	   come, the later copies are paired: whoever resumes there reads none again
package adopt
