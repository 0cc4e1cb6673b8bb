package frame

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBuffersAreHandedOnWithoutPlaintext looks at what the next stream finds in the pools.
func TestBuffersAreHandedOnWithoutPlaintext(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 32))
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	type onlyReader struct{ io.Reader }
	secret := []byte("a secret of 24 bytes....")
	for _, size := range []int{24, 2400, 65520, 200_000, 3 << 20} {
		for _, parallelism := range []int{1, 3} {
			c := Config{AEAD: aead, MessageID: make([]byte, 32), Length: 64 << 10, Parallelism: parallelism}
			plaintext := bytes.Repeat(secret, size/len(secret))
			var sealed bytes.Buffer
			w := NewSealWriter(&sealed, c)
			_, err := w.Write(plaintext)
			require.NoError(t, err)
			require.NoError(t, w.Close())

			push := func(pour func(w *OpenWriter) error) error {
				w := NewOpenWriter(io.Discard, c)
				if err := pour(w); err != nil {
					return err
				}
				return w.Close()
			}
			for name, open := range map[string]func() error{
				"Read": func() error {
					_, err := io.Copy(io.Discard, onlyReader{NewOpenReader(onlyReader{bytes.NewReader(sealed.Bytes())}, c)})
					return err
				},
				"WriteTo": func() error {
					_, err := NewOpenReader(onlyReader{bytes.NewReader(sealed.Bytes())}, c).WriteTo(io.Discard)
					return err
				},
				"WriteTo from memory": func() error {
					_, err := NewOpenReader(bytes.NewReader(sealed.Bytes()), c).WriteTo(io.Discard)
					return err
				},
				"Write": func() error {
					return push(func(w *OpenWriter) error { _, err := w.Write(sealed.Bytes()); return err })
				},
				"Write in pieces": func() error {
					return push(func(w *OpenWriter) error {
						for b := range bytes.Lines(sealed.Bytes()) {
							if _, err := w.Write(b); err != nil {
								return err
							}
						}
						return nil
					})
				},
				"ReadFrom": func() error {
					return push(func(w *OpenWriter) error {
						_, err := w.ReadFrom(onlyReader{bytes.NewReader(sealed.Bytes())})
						return err
					})
				},
			} {
				require.NoError(t, open(), name)
				var b buffer
				b.take(pooledSize)
				require.NotContains(t, string(b.bytes), string(secret), "%s of %d bytes", name, size)
				p := pipelines.Get().(*pipeline)
				for range len(p.idle) {
					r := <-p.idle
					require.NotContains(t, string(r.inBuffer), string(secret), "%s of %d bytes", name, size)
					require.NotContains(t, string(r.outBuffer), string(secret), "%s of %d bytes", name, size)
				}
			}
		}
	}
}
