// Package router serves the requests of Kafka clients: it walks and rewrites
// each one, sends it to the site that serves the share, and turns the answer
// into the virtual cluster's numbers. It does not decide where a share is
// served: package federation tells it, by opening and closing a Share.
//
// Invariants, cited by letter in code and tests:
//
//	A  a produce goes only to the site of the term in force, and is answered
//	   with success only while the gateway's lease holds (C10, C32)
//	B  produces of one client connection and partition reach the site in their
//	   order; their upstream connection changes only with nothing in flight (C23)
//	C  the gateway sends a produce again only if a broker clearly refused it, or
//	   refused it and the next one knows by its sequence whether it is there. If
//	   nobody can know, the client decides, and what it sent behind goes back too
//	   (flow.go)
//	D  no number of a site leaves the gateway: offsets, leader epochs, topic
//	   ids, node ids, cluster ids are the virtual cluster's
//	E  nothing at or above the reserved end is acknowledged (C5), and nothing
//	   before ack.sites have it: part.acknowledge is the only way to say so,
//	   as success and as "duplicate"
//	F  what a peer sent was checked by broker/wire before it is decoded
//
// # How to add an API
//
// One file per key, named after it (01_fetch.go). Its head says what each
// version changed and what is left out. The file declares
//
//	var fetchAPI = api{
//		key: 1, min: 4, max: 17, needs: 4, begin: (*Client).beginFetch,
//		treatment: translated, about: "what its user has to know",
//	}
//
// and apis.go lists it. needs is the lowest version that every site must offer
// for the gateway to offer the key (−1: answered here alone). begin gets a
// request whose key, version and structure were checked:
//
//	func (c *Client) beginFetch(ctx context.Context, req session.Request) (session.Answer, error)
//
// It is called in the order of the requests and blocks all that follow on the
// connection, so it does only what must happen in order; the rest belongs into
// the Answer that it returns. Answers of a connection are called one after the
// other, so an Answer may do all the work. Tests ask for its codec proof
// (codecs_test.go) and for its row in docs/protocol.md (-update writes it). Use
//
//	decode(req, &kmsgRequest)            the request; call it in begin, the frame may be reused
//	reply(resp)                          a session.Answer from a ready kmsg response
//
// State of one connection goes into a struct of your own in Client (client.go).
//
// # Where things are
//
//	r.ShareOf(tp), r.GroupShare(group)   the share, false if the name is in no failover group
//	r.topics                             names, virtual ids, partition counts (topics.go)
//	share.Serving()                      the term in force, or false: hold
//	share.Record()                       the whole record (State DRAINING for the group drain)
//	c.hold(ctx, changed, until)          hold: returns at a change, or soon; false at the bound
//	c.lanes.Lane(ctx, kind, site, node)  the client connection's own upstream connection
//	r.sites[site].Leader / Coordinator   which node (broker.Cluster)
//	r.lease.Held()                       check after the upstream answer, before the client's; if it
//	                                     is false answer NOT_LEADER_OR_FOLLOWER / NOT_COORDINATOR
//	r.maps.View(site, tp)                *offsetmap.View (views.go: toVirtual, toLocal)
//	r.VirtualHighWatermark(...)          bound from ack.sites and reserved end for what is served
//	r.config.Report                      GroupsDrained in the gateway's confirmation
//	term.LeaderEpoch()                   the leader epoch that clients see
//	c.guard(op, topic), c.topicCode, c.groupCode, c.transactionCode   whether the client may (rights.go);
//	                                     every API that names a topic, a group or a transactional id asks
//	                                     first, by guardByID or undisclosed where it is a topic's id
//	r.layout.Current()                   virtual nodes, Leader, Coordinator
package router
