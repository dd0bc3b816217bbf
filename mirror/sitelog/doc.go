// Package sitelog reads and appends whole record batches of partitions of one
// site: the two requests a mirror lives on, Fetch and Produce, for many
// partitions at once, and a Scan of one partition. Batches stay bytes. It
// knows neither ranges nor flows.
package sitelog
