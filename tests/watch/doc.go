// Package watch looks at a virtual cluster of real parts through a real
// Prometheus while things go wrong, and asks each panel's query and each alert
// whether it tells so. `go test -tags e2e ./tests/watch` needs the Debian
// package prometheus.
package watch
