// Package authentication says who a client is: by SASL (PLAIN and SCRAM against a file
// of salted credentials, OAUTHBEARER against the keys of an issuer), or by its certificate. It knows what may be asked for before
// that, how long it is good for, and how to read its files anew. It knows no
// router, no API beyond the two of SASL, and nothing of what a principal may do.
//
// Invariants, cited by letter in code and tests:
//
//	A  before it is through a connection gets ApiVersions and the steps of its
//	   login, and nothing else
//	B  a user who is not there cannot be told from a wrong password: same steps,
//	   same answers, same work
//	C  whatever is renewed on a connection, its principal and mechanism stay
//	D  no password and no message of SASL leaves the package, in an error neither
//	E  files that cannot be used leave what was read before in force
package authentication
