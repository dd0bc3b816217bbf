// Package mutants proves that the demo would notice: it builds the product with
// a fault in it, runs the demo, and expects it to fail and to name the anomaly.
//
// A mutant is a file NAME.patch: a unified diff of the product's code, with
// lines before it that say what it is for and which anomalies may name it:
//
//	# The mirror leaves out a batch.
//	# expect: lost
//	--- a/mirror/flow.go
//	+++ b/mirror/flow.go
//	@@ …
//
// The sources stay as they are: the patched copy goes to the compiler by
// `go build -overlay`. A hunk is found by its text, which must be there exactly
// once; its line numbers count for nothing. A patch that no longer applies is
// an error, and so is a mutant that survives: the one must be mended when the
// code changes, the other is a fault of the checker or the demo.
package mutants
