// Package batch reads and writes Kafka record batches of format 2 in place:
// it walks a record set, patches header fields and the checksum without
// touching the payload, decodes and rebuilds records where that cannot be
// avoided. It is pure; it knows no connection and no offset map.
//
//	A  a patch of header fields costs the same for every payload size and allocates nothing
//	B  a batch that was damaged stays damaged: patches change the checksum by the
//	   difference only, so Verify fails afterwards exactly if it failed before
//	C  nothing is allocated from a length in the input before the input is seen to hold it,
//	   and decompression stops at a bound of the caller
package batch
