// Package wire turns bytes of the Kafka protocol into frames and headers, and
// checks the structure of a message before anything decodes it. It knows no
// cluster and no routing.
//
//	A  nothing is allocated from a length that a peer sent before the length was
//	   held against a bound, and then only as fast as the bytes arrive
//	B  what Check accepts, kmsg decodes in time and memory proportional to its size
//	C  what kmsg writes, Check accepts
package wire
