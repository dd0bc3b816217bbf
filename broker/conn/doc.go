// Package conn is one connection to one broker: TLS, authentication, versions
// negotiated, requests pipelined, answers in order. It knows no client and no
// session.
//
//	A  answers come in the order of their requests, each to its own request, or
//	   the connection fails and every request without an answer gets the reason
//	B  two goroutines, one reading and one writing, end before Close returns
//	C  at most InFlightMax requests are unanswered; further ones wait
package conn
