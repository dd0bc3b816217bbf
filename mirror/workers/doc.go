// Package workers decides which of several workers of a flow has which of its
// keys: partitions, and consumer groups. Nobody coordinates them. What they say of
// themselves stands in one log that all of them read, and each comes to the same
// Table at the same position of it. The package reads no clock and touches no network.
//
//	A  at one position of the log a key belongs to one worker at most, and the same
//	   for all (rendezvous hashing)
//	B  a worker that comes or goes moves only keys to it, or from it
//	C  a worker takes a key only if no other one that is in the table may still hold
//	   it; who is not in the table any more holds nothing, by its own clock
//	D  what a worker says it has let go, it does not touch any more
//	E  keys belong to workers of the highest rank only, and who holds the whole is the
//	   only one that holds anything
package workers
