// Package seekable_test holds tests of the format zstd-seekable against another implementation. They
// are in the module lab, so that no user's module requires that one.
package seekable_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	other "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/compress"
)

// sizes are those around the ends of our frames of 256 KiB.
var sizes = []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3<<20 + 5}

// content returns bytes of which some compress and some do not.
func content(size int) []byte {
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	for at := 0; at < size; at += 64 << 10 {
		_, _ = random.Read(b[at:min(at+20<<10, size)])
	}
	return b
}

func TestOtherImplementationReadsOurs(t *testing.T) {
	format, err := compress.New(compress.ZstdSeekable, 0)
	require.NoError(t, err)
	decoder, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer decoder.Close()
	for _, size := range sizes {
		original := content(size)
		compressed, err := format.Transform(t.Context(), bytes.NewReader(original), nil)
		require.NoError(t, err)
		stored, err := io.ReadAll(compressed)
		require.NoError(t, err)
		r, err := other.NewReader(bytes.NewReader(stored), decoder)
		require.NoError(t, err, size)
		if size == 0 {
			n, err := r.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err)
			continue
		}
		require.NoError(t, iotest.TestReader(io.NewSectionReader(r, 0, int64(size)), original), size)
	}
}

func TestWeReadOtherImplementations(t *testing.T) {
	format, err := compress.New(compress.ZstdSeekable, 0)
	require.NoError(t, err)
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer encoder.Close()
	for _, size := range sizes {
		original := content(size)
		var stored bytes.Buffer
		w, err := other.NewWriter(&stored, encoder)
		require.NoError(t, err)
		for rest := original; len(rest) > 0; { // each Write becomes a frame
			n := min(100_000, len(rest))
			_, err := w.Write(rest[:n])
			require.NoError(t, err)
			rest = rest[n:]
		}
		require.NoError(t, w.Close())

		r, err := format.OpenSeekable(bytes.NewReader(stored.Bytes()), int64(stored.Len()))
		require.NoError(t, err, size)
		require.EqualValues(t, size, r.Size())
		require.NoError(t, iotest.TestReader(r, original), size)
		plain, err := format.Reverse(t.Context(), bytes.NewReader(stored.Bytes()), nil)
		require.NoError(t, err)
		read, err := io.ReadAll(plain)
		require.NoError(t, err, size)
		require.True(t, bytes.Equal(original, read), size)
	}
}
