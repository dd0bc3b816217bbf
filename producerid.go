package spillway

// Producer ids of the virtual cluster (C25). Kafka allocates small ids from 0,
// so bit 62 keeps Spillway's own apart from any cluster's; bit 61 tells a
// client's id from a mirror's. Masks touch only the bits below.
const (
	producerIDOwn    = int64(1) << 62
	producerIDClient = int64(1) << 61
	producerIDRandom = producerIDClient - 1
	// producerIDCluster is above all ids that a cluster may hand out. Kafka counts
	// up and gets nowhere near it; others begin above the highest id that they
	// have seen.
	producerIDCluster = int64(1) << 48
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
