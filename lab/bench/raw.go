package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"slices"
	"time"
)

const (
	ivSize  = 12 // of AES-GCM, in bytes
	tagSize = 16

	rawBlock       = 64 << 10
	rawSealedBlock = rawBlock + tagSize
	inPlaceAtOnce  = 1 << 20 // bytes of small objects that are timed together
)

// raw is AES-256-GCM alone, with nonces like those of frames and as much additional data.
type raw struct {
	aead              cipher.AEAD
	nonce, additional []byte
	inPlace           bool // seal each block over its plaintext, not into block

	// The fields below are kept so that measuring allocates nothing.
	objects [][]byte // laid out in memory
	block   []byte
}

func newRaw(key []byte) (*raw, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &raw{
		aead: aead, nonce: make([]byte, ivSize), additional: make([]byte, frameAdditional), block: make([]byte, rawSealedBlock),
	}, nil
}

func (r *raw) encrypt(w *workspace, times int) (time.Duration, error) {
	return r.lay(w, times, func(objects [][]byte) (time.Duration, error) {
		start := time.Now()
		r.seal(objects, r.inPlace)
		return time.Since(start), nil
	})
}

func (r *raw) decrypt(w *workspace, times int) (time.Duration, error) {
	return r.lay(w, times, func(objects [][]byte) (time.Duration, error) {
		r.seal(objects, true)
		start := time.Now()
		err := r.open(objects, r.inPlace)
		elapsed := time.Since(start)
		if err == nil && !r.inPlace {
			err = r.open(objects, true)
		}
		for _, object := range objects {
			for block := range slices.Chunk(object, rawSealedBlock) {
				if err == nil {
					_, err = w.out.Write(block[:len(block)-tagSize])
				}
			}
		}
		return elapsed, err
	})
}

// lay lays plaintext objects out in memory, each block with room for its tag, and passes them to
// pass. It repeats that until it has passed as many objects as times says. It uses the memory of
// the stored bytes, for which raw has no other use.
func (r *raw) lay(w *workspace, times int, pass func(objects [][]byte) (time.Duration, error)) (time.Duration, error) {
	sealedSize := len(w.plaintext) + (len(w.plaintext)+rawBlock-1)/rawBlock*tagSize
	room := w.stored[:max(1, inPlaceAtOnce/sealedSize)*sealedSize]
	r.objects = slices.AppendSeq(r.objects[:0], slices.Chunk(room, sealedSize))
	var elapsed time.Duration
	for times > 0 {
		batch := r.objects[:min(times, len(r.objects))]
		for _, object := range batch {
			rest := w.plaintext
			for block := range slices.Chunk(object, rawSealedBlock) {
				rest = rest[copy(block[:len(block)-tagSize], rest):]
			}
		}
		took, err := pass(batch)
		if err != nil {
			return 0, err
		}
		elapsed += took
		times -= len(batch)
	}
	return elapsed, nil
}

func (r *raw) seal(objects [][]byte, inPlace bool) {
	dst := r.block[:0]
	for _, object := range objects {
		number := uint32(0)
		for block := range slices.Chunk(object, rawSealedBlock) {
			number++
			binary.BigEndian.PutUint32(r.nonce[8:], number)
			if inPlace {
				dst = block[:0]
			}
			r.aead.Seal(dst, r.nonce, block[:len(block)-tagSize], r.additional)
		}
	}
}

func (r *raw) open(objects [][]byte, inPlace bool) error {
	dst := r.block[:0]
	for _, object := range objects {
		number := uint32(0)
		for block := range slices.Chunk(object, rawSealedBlock) {
			number++
			binary.BigEndian.PutUint32(r.nonce[8:], number)
			if inPlace {
				dst = block[:0]
			}
			if _, err := r.aead.Open(dst, r.nonce, block, r.additional); err != nil {
				return err
			}
		}
	}
	return nil
}

// encryptStream does the least that a stream must do. It takes blocks from its source's memory, or
// reads them where they are not in memory, seals each into the same buffer, and writes it.
func (r *raw) encryptStream(dst io.Writer, src io.Reader) error {
	return r.stream(dst, src, rawBlock, func(block []byte) ([]byte, error) {
		return r.aead.Seal(r.block[:0], r.nonce, block, r.additional), nil
	})
}

func (r *raw) decryptStream(dst io.Writer, src io.Reader) error {
	return r.stream(dst, src, rawSealedBlock, func(block []byte) ([]byte, error) {
		return r.aead.Open(r.block[:0], r.nonce, block, r.additional)
	})
}

func (r *raw) stream(dst io.Writer, src io.Reader, size int, pass func(block []byte) ([]byte, error)) error {
	number := uint32(0)
	write := func(block []byte) error {
		number++
		binary.BigEndian.PutUint32(r.nonce[8:], number)
		out, err := pass(block)
		if err != nil {
			return err
		}
		_, err = dst.Write(out)
		return err
	}
	if memory, ok := src.(io.WriterTo); ok {
		_, err := memory.WriteTo(blockWriter{size, write})
		return err
	}
	for {
		n, err := io.ReadFull(src, r.block[:size])
		if n > 0 {
			if err := write(r.block[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// blockWriter splits what a source writes into blocks.
type blockWriter struct {
	size  int
	write func(block []byte) error
}

func (w blockWriter) Write(p []byte) (int, error) {
	for block := range slices.Chunk(p, w.size) {
		if err := w.write(block); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
