// Package gateways measures what a gateway costs on real Kafka, beside the same requests
// sent straight to the broker and through haproxy, which copies bytes and understands
// nothing: it is the lower bound of a proxy. make bench runs it; no stage does.
package gateways
