// Package authorization says what a client may do, by the entries of the access control
// lists that the sites have, as Kafka's StandardAuthorizer does: deciding is pure, and a
// Keeper reads the lists anew. It knows no requests and no answers, and not how a client
// has said who it is.
//
// Invariants, cited by letter in code and tests:
//
//	A  an entry that denies wins over every one that allows
//	B  what no entry allows is denied, unless nothing at all is said of it and the
//	   policy lets everybody in then
//	C  super users may do everything, before any list is read too
//	D  a list that was never read allows nothing; one that cannot be read now stays
//	   in force as it was
//	E  deciding takes lookups by name and by prefix, however many entries there are
package authorization
