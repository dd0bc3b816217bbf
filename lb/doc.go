// Package lb picks one of several targets, and says why. It keeps what it knows of
// them: whether the control loop calls them up, how they have answered lately, what is
// in flight. It knows no sites, no Kafka and no clock: the time is what the caller says,
// and chance comes from a source that the caller gives.
//
// Words and rules are those of the field:
//
//   - weighted turns: the smooth weighted round-robin of nginx (commit 52327e0627f4)
//   - fewest in flight: least connections, as in nginx and, with two choices, in Envoy
//   - two choices: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001)
//   - moving average that follows peaks at once and forgets slowly: Peak EWMA of Finagle
//   - key affinity: rendezvous hashing (Thaler and Ravishankar, 1998), with the weights of
//     Schindelhauer and Schomaker, Weighted Distributed Hash Tables (2005)
//   - ejection of outliers and slow start: as in Envoy (config.cluster.v3.OutlierDetection
//     and Cluster.SlowStartConfig)
//
// Invariants, cited by letter in tests:
//
//	A  a target that the verdict calls down, or that the caller cannot use, is not picked
//	B  nothing is ejected where more than Outliers.ShareMax of the targets that are up,
//	   or all of them, would be; where only ejected ones can be used, they are
//	C  with KeyAffinity a change of one target moves only keys to it or from it
//	D  a target that comes back gets its share bit by bit, over SlowStart
//	E  balancers that do not know of each other do not move in step
package lb
