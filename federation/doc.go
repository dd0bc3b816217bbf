// Package federation is the gateway: the brokers that clients of the virtual
// cluster see. It listens, holds the gateway's lease, follows the share
// records, and opens and closes shares for package router, which serves the
// requests. It does not know how a move is decided, nor how mirrors work.
//
//	A  a share is served only while the gateway's lease holds, and the lease is
//	   extended only after all share records were read (C10, C30)
//	B  "drained" is confirmed only when no produce of an older epoch is on its
//	   way to a site or will still be acknowledged
//	C  a share opens at a site only after that site's map was read up to the
//	   position that the record names
//	D  a share's epoch never falls
package federation
