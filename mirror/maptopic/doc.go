// Package maptopic keeps the offset maps of one site in that site's internal
// topic __spillway_map: a Reader that follows the topic, for gateways, mirrors
// and tools, and the Writer of the site's mirror. The topic is compacted and
// has one partition; its order is the order of all that is said in it.
//
//	A  a Reader applies the records in the order of the topic; two Readers at
//	   the same position show the same maps
//	B  a Writer answers only what is acknowledged by all in-sync replicas
//	C  no key is written by two append sessions, so that compaction never keeps
//	   a stale worker's record in place of a valid one (C14)
package maptopic
