package clients

import (
	"fmt"
	"strconv"
	"strings"
)

// Order is what java/Bills.java reads.
type Order struct {
	ID, Amount int
	Customer   string
	Partition  int32 // where it was written
}

// Value is the order on the wire.
func (o Order) Value() string { return fmt.Sprintf("%d %d %s", o.ID, o.Amount, o.Customer) }

// Verdict is about the bills of a log, against what is right.
type Verdict struct {
	Wrong          []string // sentences
	Missing, Twice int      // orders
}

// JudgeBills computes from all orders what Bills has to write. Bills of one customer are in the
// order of their log, each adds one order to the one before, and orders of one partition come
// in their turn.
func JudgeBills(orders []Order, bills []string) Verdict {
	var v Verdict
	byID := make(map[string]Order, len(orders))
	for _, o := range orders {
		byID[strconv.Itoa(o.ID)] = o
	}
	type account struct {
		count, sum int
		last       map[int32]int
	}
	accounts, seen := make(map[string]*account), make(map[string]int)
	for _, bill := range bills {
		words := strings.Fields(bill)
		if len(words) != 4 {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%q is no bill", bill))
			continue
		}
		o, known := byID[words[3]]
		if !known || o.Customer != words[0] {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%q is of no order of this customer", bill))
			continue
		}
		a := accounts[o.Customer]
		if a == nil {
			a = &account{last: make(map[int32]int)}
			accounts[o.Customer] = a
		}
		a.count++
		a.sum += o.Amount
		if want := fmt.Sprintf("%s %d %d %d", o.Customer, a.count, a.sum, o.ID); bill != want {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%q where %q is right", bill, want))
		}
		if last, had := a.last[o.Partition]; had && o.ID <= last {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%q comes after order %d of the same partition", bill, last))
		}
		a.last[o.Partition] = o.ID
		if seen[words[3]]++; seen[words[3]] == 2 {
			v.Twice++
		}
	}
	v.Missing = len(orders) - len(seen)
	return v
}

// Compare tells how many of the values that should be there are missing, and how many there
// are beyond them.
func Compare(want, have []string) (missing, beyond int) {
	count := make(map[string]int)
	for _, value := range want {
		count[value]++
	}
	for _, value := range have {
		count[value]--
	}
	for _, n := range count {
		if n > 0 {
			missing += n
		} else {
			beyond -= n
		}
	}
	return missing, beyond
}
