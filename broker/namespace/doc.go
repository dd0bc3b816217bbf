// Package namespace lets several virtual clusters share one Kafka cluster: what a client
// calls orders is payments.orders at the site. It rewrites the names of topics, consumer groups and
// transactional ids in requests to a site and in its answers, so that nothing above a
// connection knows that there are others. It knows bytes of the protocol, and no
// connection.
//
//	A  a request names nothing at the site that does not begin with the namespace
//	B  an answer shows nothing of the site that does not begin with it, and of what does,
//	   the name that was asked for
//	C  a request whose names are not known to be such is refused, not passed on
//	D  what has no names passes as it is, without being decoded
//
// Records are left as they are, and what members of groups say to each other that no broker
// reads.
package namespace
