package message_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// FuzzDecrypt starts from real messages under a fixed key: whatever becomes of them, what opens is
// what was encrypted.
func FuzzDecrypt(f *testing.F) {
	key := newKey(f, 1, "")
	stranger := newKey(f, 2, "stranger")
	plaintexts := [][]byte{{}, []byte("text"), pattern(16), pattern(16 * 3), pattern(16*4 + 5)}
	for i, plaintext := range plaintexts {
		e := &message.Encrypter{Keyring: key, FrameLength: 16}
		encryptionContext := map[string]string{"tenant": "acme"}
		if i%2 == 0 {
			e.Recipients = []provider.Wrapper{stranger}
			encryptionContext = nil
		}
		sealed := encrypt(f, e, plaintext, encryptionContext)
		f.Add(sealed, uint16(20))
		f.Add(append(sealed, 'x'), uint16(1))
		f.Add(sealed[:len(sealed)-1], uint16(500))
		f.Add(encrypt(f, &message.Encrypter{Keyring: stranger}, plaintext, nil), uint16(64))
	}
	f.Add([]byte("\x01\x80\x03\x78"), uint16(2))
	f.Add([]byte("AgR4"), uint16(2))

	d := decrypter(key)
	d.CommitmentPolicy = message.RequireEncryptAllowDecrypt
	signed := &message.Encrypter{Keyring: key, FrameLength: 16, Suite: header.AES256GCMHKDFSHA512CommitKeyECDSAP384}
	f.Add(encrypt(f, signed, plaintexts[1], nil), uint16(9))
	names, err := filepath.Glob(filepath.Join("..", "testdata", "vectors", "*.msg"))
	require.NoError(f, err)
	require.NotEmpty(f, names)
	vectorKey, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "aes-256.key"))
	require.NoError(f, err)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(vectorKey)))
	require.NoError(f, err)
	vectors, err := local.NewProvider(local.Config{Key: raw, Namespace: "vectors", Name: "key"})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, vectors.Close()) })
	d.Keyrings = append(d.Keyrings, vectors)
	for _, name := range names {
		vector, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(vector, uint16(len(vector)))
	}
	for _, size := range []int{128, 200, 256, 300} {
		plaintext := make([]byte, size)
		for i := range plaintext {
			plaintext[i] = byte(i % 251)
		}
		plaintexts = append(plaintexts, plaintext)
	}

	sentinels := []error{provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed, provider.ErrUntrustedKey}
	f.Fuzz(func(t *testing.T, sealed []byte, piece uint16) {
		var accepted, refused int
		for name, way := range decryptWays {
			got, err := way(context.Background(), d, bytes.NewReader(sealed), nil, 1+int(piece))
			whole := false
			for _, plaintext := range plaintexts {
				whole = whole || bytes.Equal(plaintext, got)
			}
			if err == nil {
				accepted++
				require.True(t, whole, "%s opened what was never encrypted", name)
				continue
			}
			refused++
			part := false
			for _, plaintext := range plaintexts {
				part = part || bytes.HasPrefix(plaintext, got)
			}
			require.True(t, part, "%s released what was never encrypted", name)
			found := 0
			for _, s := range sentinels {
				if errors.Is(err, s) {
					found++
				}
			}
			require.Equal(t, 1, found, "%s: %v", name, err)
			require.False(t, errors.Is(err, io.EOF) && !errors.Is(err, frame.ErrTruncated), "%s: %v", name, err)
		}
		require.True(t, accepted == 0 || refused == 0, "%d ways accept it, %d refuse it", accepted, refused)
	})
}

// FuzzOpen compares random access with reading from the beginning.
func FuzzOpen(f *testing.F) {
	key := newKey(f, 1, "")
	for _, size := range []int{0, 5, 16, 53} {
		sealed := encrypt(f, &message.Encrypter{Keyring: key, FrameLength: 16}, pattern(size), nil)
		f.Add(sealed, uint8(3), uint8(20))
		f.Add(append(sealed, 'x'), uint8(0), uint8(1))
		f.Add(sealed[:len(sealed)-16], uint8(17), uint8(4))
		f.Add(sealed, uint8(size), uint8(0)) // nothing, at the end
		f.Add(sealed, uint8(200), uint8(0))  // and behind it
	}
	d := decrypter(key)
	f.Fuzz(func(t *testing.T, sealed []byte, off, length uint8) {
		plaintext, _, err := d.Decrypt(context.Background(), sealed, nil)
		r, openErr := d.Open(context.Background(), bytes.NewReader(sealed), int64(len(sealed)), nil)
		if err == nil {
			require.NoError(t, openErr)
			require.EqualValues(t, len(plaintext), r.Size())
		}
		if openErr != nil {
			return
		}
		p := make([]byte, length)
		n, readErr := r.ReadAt(p, int64(off))
		if err == nil {
			end := int(off) + int(length)
			want := plaintext[min(int(off), len(plaintext)):min(int(off)+int(length), len(plaintext))]
			require.True(t, bytes.Equal(want, p[:n]))
			// An io.ReaderAt may return io.EOF with the last bytes, and with none that were asked
			// for.
			require.True(t, n == len(p) && readErr == nil || readErr == io.EOF && end >= len(plaintext), "%d bytes, %v", n, readErr)
		}
	})
}
