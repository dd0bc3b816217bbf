// Package topicchange makes a topic, or makes it larger, at all sites of a failover
// group, so that nothing is torn by a crash (C35). What is to be done is in the
// coordinator's store before the first site is asked. Whoever reads it there may carry it
// on: the gateway that was asked, and after a while every control loop. It knows what a
// site's admin can do and what a share record says, and neither the wire format of clients
// nor what mirrors do beside creating topics.
//
// Invariants, cited by letter in code and tests:
//
//	A  no site is asked to change before the change is in the store
//	B  a change ends, and its record goes, only when it is done everywhere it has to be,
//	   or when nothing of it was done and never will be
//	C  every step may be done again, by anyone, also beside another one
//	D  a topic is made at the site that serves it; its mirrors make it elsewhere, and so
//	   know that they did (docs/decisions/0016)
//	E  a topic grows at the sites that follow before it grows at the one that serves, so
//	   that no record is written to a partition that another site does not have; clients
//	   are shown the old count until all have grown
package topicchange
