package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is the compression of a batch's payload, as its attributes say.
type Codec int8

// Kafka's codecs.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// String returns the name that Kafka's compression.type uses.
func (c Codec) String() string {
	if c < None || c > Zstd {
		return fmt.Sprintf("codec %d", int8(c))
	}
	return [...]string{"none", "gzip", "snappy", "lz4", "zstd"}[c]
}

// ErrTooLarge means that a payload decompresses to more than the caller allows.
var ErrTooLarge = errors.New("batch decompresses to more bytes than allowed")

// windowBytesMin is what every zstd decoder has to support (RFC 8878, 3.1.1.1.2).
const windowBytesMin = 8 << 20

func decompress(c Codec, payload []byte, bytesMax int) ([]byte, error) {
	var out []byte
	var err error
	if len(payload) == 0 {
		return nil, nil // a batch without records
	}
	switch c {
	case None:
		return payload, nil // already in memory; no bound applies
	case Gzip:
		out, err = gunzip(payload, bytesMax)
	case Snappy:
		out, err = decompressSnappy(payload, bytesMax)
	case LZ4:
		out, err = decompressLZ4(payload, bytesMax)
	case Zstd:
		out, err = decompressZstd(payload, bytesMax)
	default:
		return nil, fmt.Errorf("%w: codec %d", ErrCorrupt, c)
	}
	if err != nil && !errors.Is(err, ErrTooLarge) {
		err = fmt.Errorf("%w: %s: %w", ErrCorrupt, c, err)
	}
	return out, err
}

// Decoders are costly to make. One in a pool may still point to the payload that it read
// last, for as long as it is there.
var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders = sync.Pool{} // of windows of windowBytesMin at most
)

func gunzip(payload []byte, bytesMax int) ([]byte, error) {
	r := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(r)
	if err := r.Reset(bytes.NewReader(payload)); err != nil {
		return nil, err
	}
	return readAll(r, len(payload), bytesMax)
}

// decompressLZ4 uses no reader again: a Reset keeps the dictionary that blocks of one
// payload filled, and blocks of the next one could point into it. The blocks' buffers,
// which are what is costly, lz4 keeps in a pool of its own.
func decompressLZ4(payload []byte, bytesMax int) ([]byte, error) {
	r := lz4.NewReader(bytes.NewReader(payload))
	defer r.Reset(nil) // gives the buffers back
	return readAll(r, len(payload), bytesMax)
}

func decompressZstd(payload []byte, bytesMax int) ([]byte, error) {
	r, ok := zstdReaders.Get().(*zstd.Decoder)
	var err error
	if ok {
		err = r.Reset(bytes.NewReader(payload))
	} else {
		r, err = newZstd(payload, windowBytesMin)
	}
	if err != nil {
		return nil, err
	}
	out, err := readAll(r, len(payload), bytesMax)
	if resetErr := r.Reset(nil); resetErr == nil {
		zstdReaders.Put(r)
	} else {
		r.Close()
	}
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) || bytesMax <= windowBytesMin {
		return out, err
	}
	if r, err = newZstd(payload, bytesMax); err != nil {
		return nil, err
	}
	defer r.Close()
	return readAll(r, len(payload), bytesMax)
}

func newZstd(payload []byte, windowBytesMax int) (*zstd.Decoder, error) {
	return zstd.NewReader(bytes.NewReader(payload), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(windowBytesMax)))
}

// usualRatio is what orders in JSON compress to.
const usualRatio = 4

// readAll reads to the end, or fails with ErrTooLarge. size is that of what is read from.
func readAll(r io.Reader, size, bytesMax int) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(min(usualRatio*size+bytes.MinRead, bytesMax))
	n, err := out.ReadFrom(io.LimitReader(r, int64(bytesMax)+1))
	if n > int64(bytesMax) {
		return nil, ErrTooLarge
	}
	return out.Bytes(), err
}

// Java's snappy streams put blocks behind a magic, a version and the lowest
// compatible version (xerial/snappy-java); other clients send one raw block.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeaderBytes = 16
	xerialBlockBytes  = 32 << 10 // what the Java stream uses
)

func decompressSnappy(payload []byte, bytesMax int) ([]byte, error) {
	if len(payload) < xerialHeaderBytes || !bytes.Equal(payload[:len(xerialMagic)], xerialMagic) {
		return appendSnappyBlock(nil, payload, bytesMax)
	}
	var out []byte
	for rest := payload[xerialHeaderBytes:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		if uint64(n) > uint64(len(rest)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = appendSnappyBlock(out, rest[:n], bytesMax); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return out, nil
}

// snappyRatioMax: a block's three-byte copy yields at most 64 bytes, so a
// claim of more than 64 bytes a byte is a lie and is not allocated.
const snappyRatioMax = 64

func appendSnappyBlock(out, block []byte, bytesMax int) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if n > bytesMax-len(out) {
		return nil, ErrTooLarge
	}
	if n > snappyRatioMax*len(block) {
		return nil, snappy.ErrCorrupt
	}
	decoded, err := snappy.Decode(make([]byte, n), block)
	if err != nil {
		return nil, err
	}
	if out == nil {
		return decoded, nil
	}
	return append(out, decoded...), nil
}

// Encoders are costly to make and hold no state between batches.
var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	lz4Writers  = sync.Pool{New: func() any { return lz4.NewWriter(nil) }}
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithZeroFrames(true)) // as many batches at once
	})
)

// appendCompressed appends payload, compressed, to b.
func appendCompressed(b []byte, c Codec, payload []byte) ([]byte, error) {
	switch c {
	case None:
		return append(b, payload...), nil
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		return write(b, w, payload)
	case Snappy:
		return appendXerial(b, payload), nil
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		return write(b, w, payload)
	case Zstd:
		e, err := zstdEncoder()
		if err != nil {
			return nil, err
		}
		return e.EncodeAll(payload, b), nil
	}
	return nil, fmt.Errorf("compress batch: unknown codec %d", c)
}

type resetWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

func write(b []byte, w resetWriter, payload []byte) ([]byte, error) {
	buffer := bytes.NewBuffer(b)
	w.Reset(buffer)
	if _, err := w.Write(payload); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}

func appendXerial(b, payload []byte) []byte {
	b = append(b, xerialMagic...)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1)
	for len(payload) > 0 {
		n := min(len(payload), xerialBlockBytes)
		block := snappy.Encode(nil, payload[:n])
		b = binary.BigEndian.AppendUint32(b, uint32(len(block)))
		b = append(b, block...)
		payload = payload[n:]
	}
	return b
}
