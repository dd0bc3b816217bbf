// Package facts holds what the design takes for granted about Kafka brokers and
// Kafka clients, as tests: `go test -tags e2e ./tests/facts`. A new release of
// Kafka that breaks one of them is found here, and the table at the end of the
// run says what each version does. It tests nothing of Spillway; of its packages
// it uses only those that write batches and requests.
package facts
