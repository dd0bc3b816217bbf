// Package topicchange makes a topic that a client asks for (C35). What is to be made is in
// the coordinator's store before a site is asked. Whoever reads it there may carry it on:
// the gateway that was asked, and after a while every control loop. It knows what a site's
// admin can do and what a share record says, and neither the wire format of clients nor
// what mirrors do beside creating topics.
//
// Invariants, cited by letter in code and tests:
//
//	A  no site is asked to create before the record is in the store
//	B  the record goes only when all sites that answer have the topic, when the site that
//	   serves refuses it for good, or when it was deleted since
//	C  every step may be done again, by anyone, also beside another one
//	D  a topic is made at the site that serves it; its mirrors make it elsewhere, and so
//	   know that they did (docs/decisions/0016). Where a site that has not got it from
//	   them comes to serve, it is made there
package topicchange
