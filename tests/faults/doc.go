// Package faults breaks a running virtual cluster of real parts, one fault after the
// other and in a random order that a seed names, while an order workload goes on, and
// has the checker of histories judge what clients were told. It knows nothing of how
// the parts heal: only that they have to, by themselves, and what may not happen
// meanwhile (promises A to D and H).
//
// Each acknowledgement waits for two sites (ack.sites 2) and no fault takes two sites'
// records, so nothing at all may be lost, whatever the order.
package faults
