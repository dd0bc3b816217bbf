// Package replay writes the unreplicated records of a site again, where their share is
// served now, for a person who decided so. It knows a site's ranges and the virtual
// cluster as a client of its gateways knows it, and neither share records nor moves: who
// serves, and under which lease, is the gateways' business (promise A).
//
//	R1  a record is written at most once, whatever is killed, moves, or runs twice
//	R2  what the log of the virtual cluster has already is not written: a batch that its
//	    producer sent again is known by the producer's numbers, all else by content
//	R3  on a compacted topic nothing is written over a newer record of the same key
//	R4  records of aborted and undecided transactions are not written, nor markers
//	R5  a range is marked as replayed only after the log was read once more and lacked
//	    nothing of it
//
// R1 rests on three things (docs/decisions/0033). What is in the log is recognised when the
// log is read, and that is done before anything is written. What may be on its way is
// waited for: one run has the claim, which lasts longer than a gateway may hold a batch.
// And below that each write is conditional: the producer id is made of the partition and
// the epoch, so every run has the same one, and its sequences go on where the log ends, so
// of two batches that claim the same place the site takes one.
package replay
