// Package bench measures what Spillway adds to the way of a record. Benchmarks
// compare two ways within one run, since nothing measured on a busy machine
// means anything alone. Figures and how to read them: docs/performance.md.
package bench
