// Package session is one client connection: it reads bounded frames, hands
// requests to a handler in their order, and writes the answers in the same
// order. It knows the header of a request and nothing of what is in it.
//
// Invariants, cited by letter in code and tests:
//
//	A  answers leave in the order of their requests
//	B  at most InFlightMax requests and InFlightBytesMax bytes of them are
//	   unanswered; beyond that nothing is read (back-pressure, not refusal)
//	C  when the client is gone, the context of everything begun for it ends
//	D  every connection ends with a Reason out of a fixed set
//	E  a connection that is muted is not read from when its client was told until the time is
//	   over, and not longer than the client is there, the session does not drain, and the
//	   mute is not lifted; what the client sent before it was told is read (unawareMax)
package session
