// Package rewrite says what of a source's records a flow carries and what it adds to
// them, and does it: filters by key and header, the provenance headers, and the way
// from the bytes of a batch to records and back. It is pure, and knows no virtual
// offsets, no plans and no brokers.
//
// Invariants, cited by letter in code and tests:
//
//	A  what becomes of a record depends on the rules, the record, and where it lies at
//	   the source, on nothing else: a restart decides as before
//	B  a record that is carried keeps key, value, time, and its headers in their order;
//	   provenance stands behind them
//	C  a record with a key and without a value is judged by its key alone: it takes
//	   back what an earlier record of the key has brought
package rewrite
