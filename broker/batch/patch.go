package batch

import "encoding/binary"

// The functions of this file take a whole batch, as Parse has accepted it:
// b[:h.Size()]. They write into it.

// SetBaseOffset changes the offset of the first record. The field lies outside
// the checksum.
func SetBaseOffset(b []byte, offset int64) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(offset))
}

// SetLeaderEpoch changes the leader epoch. The field lies outside the checksum.
func SetLeaderEpoch(b []byte, epoch int32) {
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], uint32(epoch))
}

// SetProducer changes producer id, producer epoch and first sequence, and
// patches the checksum.
func SetProducer(b []byte, id int64, epoch int16, sequence int32) {
	patch(b, read(b).Attributes, id, epoch, sequence)
}

// Clean gives the batch the form in which a mirror produces it: base offset 0,
// leader epoch −1, of the attributes only codec and control bit, the producer
// fields as given. The control bit stays, so that a marker sent by mistake is
// refused by the broker instead of becoming a record. Only where
// Header.PassThrough holds do readers see the same records afterwards.
func Clean(b []byte, id int64, epoch int16, sequence int32) {
	SetBaseOffset(b, 0)
	SetLeaderEpoch(b, -1)
	patch(b, read(b).Attributes&(AttributeCodecMask|AttributeControl), id, epoch, sequence)
}

// patch rewrites attributes and producer fields. The checksum is linear, so
// its change depends only on the bits that changed and on how many bytes
// follow them (invariants A and B).
func patch(b []byte, attributes int16, id int64, epoch int16, sequence int32) {
	var window [atCount - atAttributes]byte
	copy(window[:], b[atAttributes:atCount])
	be := binary.BigEndian
	be.PutUint16(b[atAttributes:], uint16(attributes))
	be.PutUint64(b[atProducerID:], uint64(id))
	be.PutUint16(b[atProducerEpoch:], uint16(epoch))
	be.PutUint32(b[atBaseSequence:], uint32(sequence))
	for i := range window {
		window[i] ^= b[atAttributes+i]
	}
	size := prefixBytes + int(be.Uint32(b[atLength:]))
	crc := be.Uint32(b[atCRC:])
	be.PutUint32(b[atCRC:], crc^difference(window[:], size-atCount))
}

// Empty makes a batch without records that covers the offsets base..end−1, for
// holes that clients have to step over (experiments L5). It covers at most
// 2^31 offsets; a client then fetches behind it and gets the next one.
func Empty(base, end int64) []byte {
	b := make([]byte, HeaderBytes)
	put(b, Header{
		BaseOffset: base, Length: HeaderBytes - prefixBytes, LeaderEpoch: -1, Magic: 2,
		LastOffsetDelta: int32(max(0, min(end-base-1, 1<<31-1))),
		BaseTimestamp:   -1, MaxTimestamp: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1,
	})
	seal(b)
	return b
}

// seal computes the checksum from the whole batch and stores it.
func seal(b []byte) { binary.BigEndian.PutUint32(b[atCRC:], CRC(b)) }
