package workers

// Owner is the worker to which a key belongs: of all, the one with the greatest
// weight for it; "" of none. The order of the workers says nothing.
//
// D. Thaler and C. Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996.
func Owner(workers []string, key string) string {
	owner, greatest := "", uint64(0)
	k := scatter(hash(key))
	for _, w := range workers {
		weight := scatter(hash(w) ^ k)
		if owner == "" || weight > greatest || weight == greatest && w < owner {
			owner, greatest = w, weight
		}
	}
	return owner
}

// hash is FNV-1a (draft-eastlake-fnv), without the allocation of package hash/fnv: there
// may be ten thousand keys.
func hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return h
}

// scatter lets every bit count for every other one: names that differ in their last
// letter only have FNV hashes that are close. It is the end of SplitMix64 (Steele,
// Lea, Flood, 2014).
func scatter(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
