// Package mirrors compares ways to carry a topic from one real cluster to
// another in one run. Its test carries the tag e2e and is run by hand; what it
// printed is in docs/performance.md.
package mirrors
