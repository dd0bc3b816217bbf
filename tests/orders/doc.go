// Package orders is an order system: a workload of events as applications send
// them through Kafka, used by the demo, the tests and the benchmarks. It talks
// to a bootstrap address with unmodified clients and writes down what they were
// told as a history (package history); package check judges it against the
// sites' logs, and package sitelog reads those.
//
// An order is a small graph of steps over three co-partitioned topics. The
// order's id is the key, so all steps of one order lie in the same partition
// number of orders, carts and inventory. A step is sent when the steps that it
// follows were acknowledged; different orders go on in parallel.
//
//	ordinary        placed ─┬▶ packed (carts) ──────┐
//	                        ├▶ reserved (inventory) ┼▶ shipped ─▶ delivered
//	                        └▶ paid ────────────────┘
//	not in stock    placed ─┬▶ missing (inventory) ─┐
//	                        └▶ paid ────────────────┴▶ cancelled ─┬▶ refunded
//	                                                              └▶ emptied (carts)
//	sale            ten orders want one thing of which there are five: the
//	                first five of them get it, and the others are cancelled
//
// Kafka orders records within a partition, and nothing else. Two steps of one
// order in two topics may be read in either order, whatever the order of their
// acknowledgements; so an application that needs both joins them by key, as
// Join does. And "the first five of ten" means something only where all ten
// lie in one partition: the orders of a sale have ids that do.
//
// docs/orders.md tells this to users.
package orders
