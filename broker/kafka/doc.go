// Package kafka is a real Kafka cluster behind package broker: sarama for
// topics, settings and ACLs; raw requests for everything on which data
// depends. It knows no other cluster.
//
//	A  a leader or coordinator that refused or could not be reached is not asked
//	   again before the cluster was. Questions that are asked each second in any case
//	   (LogBounds) are left out: their caller has the cluster asked, and nothing that others
//	   know is forgotten for them
//	B  log ends are read at the leader of the epoch that the metadata names, never at
//	   a follower that answers by chance
//	C  addresses that a cluster announces are used only if Config.Allow agrees
package kafka
