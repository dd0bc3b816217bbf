package orders

import (
	"fmt"

	"spillway/tests/orders/check"
)

// FirstFive is the checker's rule about sales: of the ten orders, those got the
// thing whose "placed" stands first in their partition, five at most. A sale
// that an announced loss touched is not judged: whoever read a record that is
// lost now has decided by it.
func FirstFive(v check.View) []check.Finding {
	var findings []check.Finding
	for _, p := range v.Partitions(Orders) {
		inventory := check.Partition{Topic: Inventory, Index: p.Index}
		if v.AnnouncedLoss(p) || v.AnnouncedLoss(inventory) {
			continue
		}
		decisions := map[string]string{} // by order
		for _, r := range v.Records(inventory) {
			if r.Step == Reserved || r.Step == Missing {
				decisions[r.Order] = r.Step
			}
		}
		sales := map[string]*saleSoFar{}
		for _, r := range v.Records(p) {
			sale, ok := saleOf(r.Order)
			if !ok || r.Step != Placed || decisions[r.Order] == "" {
				continue
			}
			if sales[sale] == nil {
				sales[sale] = &saleSoFar{}
			}
			if detail := sales[sale].next(r.Order, decisions[r.Order] == Reserved); detail != "" {
				findings = append(findings, v.Finding(check.Reordered, p, r, sale+": "+detail))
			}
		}
	}
	return findings
}

// saleSoFar goes through a sale in the order of the log.
type saleSoFar struct {
	won   int
	loser string // the first order that got nothing
}

func (s *saleSoFar) next(order string, won bool) string {
	if !won {
		if s.loser == "" {
			s.loser = order
		}
		return ""
	}
	s.won++
	switch {
	case s.loser != "":
		return fmt.Sprintf("got one of the five, and %s, placed before it, did not", s.loser)
	case s.won > SaleStock:
		return fmt.Sprintf("got the thing as number %d of five", s.won)
	}
	return ""
}
