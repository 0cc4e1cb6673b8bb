package compress_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/frame"
)

// Each direction is measured as a host runs it: compression below encryption, from and to memory,
// on one core and on all. Speeds are in bytes before compression.
const benchSize = 32 << 20

// prose compresses to about a third of its size, as text does. It has words of a made-up language,
// some of them more frequent than others.
var prose = sync.OnceValue(func() []byte {
	random := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 20_000)
	for i := range words {
		word := make([]byte, 2+random.IntN(9))
		for j := range word {
			word[j] = byte('a' + random.IntN(26)*random.IntN(26)/26)
		}
		words[i] = string(word)
	}
	frequency := rand.NewZipf(random, 1.3, 3, uint64(len(words)-1))
	b := make([]byte, 0, benchSize+64)
	for len(b) < benchSize {
		b = append(append(b, words[frequency.Uint64()]...), ' ')
	}
	return b[:benchSize]
})

// onlyReader and onlyWriter have no other methods, as files and connections.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

func frames(t testing.TB, parallelism int) frame.Config {
	block, err := aes.NewCipher(make([]byte, 32))
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	return frame.Config{AEAD: aead, MessageID: make([]byte, 32), Length: 64 << 10, Parallelism: parallelism}
}

func benchEach(b *testing.B, run func(b *testing.B, s *compress.Transformer, c frame.Config, original []byte) func() error) {
	for _, format := range compress.Formats() {
		for kind, original := range map[string][]byte{"text": prose(), "noise": noise(benchSize)} {
			for _, parallelism := range []int{1, 0} {
				cores := map[int]string{0: "all", 1: "one"}[parallelism]
				b.Run(fmt.Sprintf("%s/%s/%s", format, kind, cores), func(b *testing.B) {
					s := newTransformer(b, format, 0)
					s.Parallelism = parallelism
					once := run(b, s, frames(b, parallelism), original)
					b.SetBytes(int64(len(original)))
					b.ReportAllocs()
					for b.Loop() {
						if err := once(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	benchEach(b, func(b *testing.B, s *compress.Transformer, c frame.Config, original []byte) func() error {
		return func() error {
			r, err := s.Transform(b.Context(), onlyReader{bytes.NewReader(original)}, nil)
			if err != nil {
				return err
			}
			_, err = frame.NewSealReader(r, c).WriteTo(onlyWriter{io.Discard})
			return err
		}
	})
}

func BenchmarkDownload(b *testing.B) {
	benchEach(b, func(b *testing.B, s *compress.Transformer, c frame.Config, original []byte) func() error {
		stored := transform(b, s, bytes.NewReader(original))
		sealed, err := io.ReadAll(frame.NewSealReader(bytes.NewReader(stored), c))
		require.NoError(b, err)
		return func() error {
			r, err := s.Reverse(b.Context(), frame.NewOpenReader(onlyReader{bytes.NewReader(sealed)}, c), nil)
			if err != nil {
				return err
			}
			_, err = io.Copy(onlyWriter{io.Discard}, r)
			return err
		}
	})
}
