package spillway

// Producer ids of the virtual cluster (C25). Kafka allocates small ids from 0,
// so bit 62 keeps Spillway's own apart from any cluster's; bit 61 tells a
// client's id from a mirror's. Masks touch only the bits below. Ids of transactional
// producers have neither: they are the site's own, under the epoch.
const (
	producerIDOwn    = int64(1) << 62
	producerIDClient = int64(1) << 61
	producerIDRandom = producerIDClient - 1
	// producerIDCluster is above all ids that a cluster may hand out. Kafka counts
	// up and gets nowhere near it; others begin above the highest id that they
	// have seen.
	producerIDCluster  = int64(1) << producerIDSiteBits
	producerIDSiteBits = 48
)

// ClientProducerID makes the id that a client gets, from 61 random bits.
func ClientProducerID(random uint64) int64 {
	return producerIDOwn | producerIDClient | int64(random)&producerIDRandom
}

// MirrorProducerID makes the id under which a mirror writes one target
// partition, from 61 random bits.
func MirrorProducerID(random uint64) int64 {
	return producerIDOwn | int64(random)&producerIDRandom
}

// IsClientProducerID tells whether id was made by ClientProducerID, masked or not.
func IsClientProducerID(id int64) bool {
	return id >= 0 && id&producerIDOwn != 0 && id&producerIDClient != 0
}

// IsMirrorProducerID tells whether id was made by MirrorProducerID.
func IsMirrorProducerID(id int64) bool {
	return id >= 0 && id&producerIDOwn != 0 && id&producerIDClient == 0
}

// IsClusterProducerID tells whether id is one that a cluster may hand out, so
// that it can never be one of Spillway's.
func IsClusterProducerID(id int64) bool { return id >= 0 && id < producerIDCluster }

// MaskProducerID writes a client's id for one epoch, and reads it back: XOR
// with the mask is its own inverse. Bits 61 and 62 stay, so the kind of the id
// survives.
func MaskProducerID(id int64, mask uint64) int64 {
	return id ^ int64(mask)&producerIDRandom
}

// TransactionalProducerID makes the id that a transactional producer gets in an epoch
// from the one that the site gave it: the epoch above the lower 48 bits of the site's.
// So every gateway can tell an id of an older epoch, which the site that serves now
// may have given to somebody else (C33).
func TransactionalProducerID(e Epoch, site int64) int64 {
	return int64(e)<<producerIDSiteBits | site&(producerIDCluster-1)
}

// EpochOfProducerID takes such an id apart. low are the lower 48 bits of the site's id,
// which is all of it where the site counts up from 0.
func EpochOfProducerID(id int64) (e Epoch, low int64, ok bool) {
	e = Epoch(id >> producerIDSiteBits)
	return e, id & (producerIDCluster - 1), id >= producerIDCluster && e <= EpochMax
}

// SameProducerID tells whether a site's id is the one that low was made of.
func SameProducerID(low, site int64) bool { return site >= 0 && site&(producerIDCluster-1) == low }
