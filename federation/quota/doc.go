// Package quota counts what holders use of rates that they are given, and says how long one
// that used too much has to pause. Pure: the time is passed in. It does not know what a
// holder is, what is counted, or how anybody is made to pause.
//
// Invariants, cited by letter in code and tests:
//
//	A  in any time t, what is used is at most rate × (Burst + t), and beside it what is
//	   charged in one go behind it: who owes pauses until it owes nothing
//	B  no pause is longer than PauseMax, and what is owed beyond DebtMax is forgiven
//	C  holders are remembered while they are open, and IdleMax of those that are not
package quota
