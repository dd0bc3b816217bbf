// Package metadata decides what a mirror changes at its site beside records:
// settings of topics for a start. It is told what the source has, what this site
// has, and what the mirror itself wrote here before; it knows no cluster.
//
//	A  what a person set at this site is never changed: the mirror writes where
//	   nothing is set, and where it finds what it wrote itself
//	B  that a source lacks something is an order to remove it only if this very
//	   cluster had shown it: another one, or an empty one at its address, says nothing
//	C  what the mirror means to write is saved as its own before it is written, and
//	   a crash between any two steps leaves a state from which the next plan
//	   comes to the same end
package metadata
