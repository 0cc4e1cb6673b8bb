package message_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Each direction is measured beside the bare cipher over the same memory: 64 MiB by frames of 64
// KiB. The streams read from and write to memory alone, so what lies between the two numbers is
// the cost of this module.
const (
	benchSize  = 64 << 20
	benchFrame = header.DefaultFrameLength
)

func benchPlaintext() []byte {
	b := make([]byte, benchSize)
	for n := copy(b, pattern(benchFrame)); n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}

// memory reads from b as a file would be read: by Read alone.
type memory struct{ r bytes.Reader }

func (m *memory) Read(p []byte) (int, error) { return m.r.Read(p) }

func newMemory(b []byte) *memory {
	m := &memory{}
	m.r.Reset(b)
	return m
}

func rawAEAD(b *testing.B) (aead cipher.AEAD, iv, additional []byte) {
	b.Helper()
	aead, _, err := header.AES256GCMHKDFSHA512CommitKey.DeriveKeys(make([]byte, 32), make([]byte, 32))
	require.NoError(b, err)
	return aead, make([]byte, gcm.IVSize), make([]byte, 32+len("AWSKMSEncryptionClient Frame")+4+8)
}

func number(iv, additional []byte, n int) {
	binary.BigEndian.PutUint32(iv[8:], uint32(n))
	binary.BigEndian.PutUint32(additional[len(additional)-12:], uint32(n))
}

// Memory is the cipher alone. Read reads each frame before it, as whoever has an io.Reader must.
func BenchmarkRawSeal(b *testing.B) {
	aead, iv, additional := rawAEAD(b)
	plaintext := benchPlaintext()
	dst := make([]byte, benchFrame+gcm.TagSize)
	bench(b, "Memory", benchSize, func() error {
		for i := range benchSize / benchFrame {
			number(iv, additional, i+1)
			aead.Seal(dst[:0], iv, plaintext[i*benchFrame:(i+1)*benchFrame], additional)
		}
		return nil
	})
	bench(b, "Read", benchSize, func() error {
		src := newMemory(plaintext)
		for i := range benchSize / benchFrame {
			if _, err := io.ReadFull(src, dst[:benchFrame]); err != nil {
				return err
			}
			number(iv, additional, i+1)
			aead.Seal(dst[:0], iv, dst[:benchFrame], additional)
		}
		return nil
	})
}

func BenchmarkRawOpen(b *testing.B) {
	aead, iv, additional := rawAEAD(b)
	plaintext := benchPlaintext()
	const sealedFrame = benchFrame + gcm.TagSize
	sealed := make([]byte, 0, benchSize/benchFrame*sealedFrame)
	for i := range benchSize / benchFrame {
		number(iv, additional, i+1)
		sealed = aead.Seal(sealed, iv, plaintext[i*benchFrame:(i+1)*benchFrame], additional)
	}
	dst := make([]byte, sealedFrame)
	bench(b, "Memory", benchSize, func() error {
		for i := range benchSize / benchFrame {
			number(iv, additional, i+1)
			if _, err := aead.Open(dst[:0], iv, sealed[i*sealedFrame:(i+1)*sealedFrame], additional); err != nil {
				return err
			}
		}
		return nil
	})
	bench(b, "Read", benchSize, func() error {
		src := newMemory(sealed)
		for i := range benchSize / benchFrame {
			if _, err := io.ReadFull(src, dst); err != nil {
				return err
			}
			number(iv, additional, i+1)
			if _, err := aead.Open(dst[:0], iv, dst, additional); err != nil {
				return err
			}
		}
		return nil
	})
}

// drain reads r to its end by p.
func drain(r io.Reader, p []byte) error {
	for {
		if _, err := r.Read(p); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// pour writes b to w, piece bytes at once.
func pour(w io.Writer, b []byte, piece int) error {
	for len(b) > 0 {
		n := min(piece, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func bench(b *testing.B, name string, size int64, run func() error) {
	b.Run(name, func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			if err := run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	ctx := context.Background()
	e := &message.Encrypter{Keyring: newKey(b, 1, "")}
	plaintext := benchPlaintext()
	p := make([]byte, 128<<10)
	read := func(p []byte) func() error {
		return func() error {
			r, err := e.NewReader(ctx, newMemory(plaintext), nil)
			if err != nil {
				return err
			}
			return drain(r, p)
		}
	}
	write := func(piece int) func() error {
		return func() error {
			w, err := e.NewWriter(ctx, &sink{}, nil)
			if err != nil {
				return err
			}
			if err := pour(w, plaintext, piece); err != nil {
				return err
			}
			return w.Close()
		}
	}
	bench(b, "Reader", benchSize, read(p))
	bench(b, "Reader32KiB", benchSize, read(p[:32<<10]))
	bench(b, "WriteTo", benchSize, func() error {
		r, err := e.NewReader(ctx, newMemory(plaintext), nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&sink{})
		return err
	})
	bench(b, "WriteAll", benchSize, write(benchSize))
	bench(b, "Write", benchSize, write(128<<10))
	bench(b, "Write32KiB", benchSize, write(32<<10))
	bench(b, "ReadFrom", benchSize, func() error {
		w, err := e.NewWriter(ctx, &sink{}, nil)
		if err != nil {
			return err
		}
		if _, err := w.ReadFrom(newMemory(plaintext)); err != nil {
			return err
		}
		return w.Close()
	})
}

func BenchmarkDecrypt(b *testing.B) {
	ctx := context.Background()
	key := newKey(b, 1, "")
	d := decrypter(key)
	sealed := encrypt(b, &message.Encrypter{Keyring: key}, benchPlaintext(), nil)
	p := make([]byte, 128<<10)
	read := func(p []byte) func() error {
		return func() error {
			r, err := d.NewReader(ctx, newMemory(sealed), nil)
			if err != nil {
				return err
			}
			return drain(r, p)
		}
	}
	write := func(piece int) func() error {
		return func() error {
			w := d.NewWriter(ctx, &sink{}, nil)
			if err := pour(w, sealed, piece); err != nil {
				return err
			}
			return w.Close()
		}
	}
	bench(b, "Reader", benchSize, read(p))
	bench(b, "Reader32KiB", benchSize, read(p[:32<<10]))
	bench(b, "WriteTo", benchSize, func() error {
		r, err := d.NewReader(ctx, newMemory(sealed), nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&sink{})
		return err
	})
	bench(b, "WriteAll", benchSize, write(2*benchSize))
	bench(b, "Write", benchSize, write(1<<20))
	bench(b, "Write32KiB", benchSize, write(32<<10))
}

// BenchmarkStream encrypts and decrypts in one go, to show that no allocation grows with the size.
func BenchmarkStream(b *testing.B) {
	ctx := context.Background()
	key := newKey(b, 1, "")
	e, d := &message.Encrypter{Keyring: key}, decrypter(key)
	stream := func(size int64) func() error {
		return func() error {
			r, err := e.NewReader(ctx, io.LimitReader(endless{}, size), nil)
			if err != nil {
				return err
			}
			o, err := d.NewReader(ctx, r, nil)
			if err != nil {
				return err
			}
			_, err = o.WriteTo(&sink{})
			return err
		}
	}
	bench(b, "1MiB", 1<<20, stream(1<<20))
	bench(b, "1GiB", 1<<30, stream(1<<30))
}

// BenchmarkSmall is a message of 1 KiB in memory with two pairs of context, and one recipient more.
func BenchmarkSmall(b *testing.B) {
	ctx := context.Background()
	key, second := newKey(b, 1, ""), newKey(b, 2, "second")
	plaintext, pairs := pattern(1024), map[string]string{"tenant": "acme", "object": "42"}
	for name, e := range map[string]*message.Encrypter{"": {Keyring: key}, "Recipients": {Keyring: key, Recipients: []provider.Wrapper{second}}} {
		sealed := encrypt(b, e, plaintext, pairs)
		bench(b, "Encrypt"+name, 1024, func() error {
			_, err := e.Encrypt(ctx, plaintext, pairs)
			return err
		})
		bench(b, "Decrypt"+name, 1024, func() error {
			_, _, err := decrypter(key).Decrypt(ctx, sealed, pairs)
			return err
		})
	}
}
