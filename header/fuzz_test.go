package header_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
)

func FuzzParse(f *testing.F) {
	valid := stored(f, sample())
	f.Add(valid)
	f.Add(append(bytes.Clone(valid), "trailing"...))
	f.Add(valid[:len(valid)/2])
	f.Add(stored(f, sample1()))
	f.Add(rawHeader(nil, oneKey, 2, 4096))
	f.Add(rawHeader(nil, oneKey, 1, 0))
	f.Add(rawHeader(nil, make([][3]string, 17), 2, 1))
	f.Add(rawHeader([]byte("\x00\x02\x00\x01a\x00\x00\x00\x01b\x00\x00"), oneKey, 2, 1<<31))
	f.Add(rawHeader([]byte("\x00\x02\x00\x01b\x00\x00\x00\x01a\x00\x00"), oneKey, 2, 1))
	f.Add([]byte("\x01\x80\x03\x78"))
	f.Add([]byte("\x02\x05\x78\x00"))
	f.Add([]byte("AgR4"))
	f.Add([]byte{})
	for _, vector := range vectors(f) {
		f.Add(vector)
	}

	limits := header.Limits{MaxSize: 4096, MaxPairs: 8, MaxEncryptedDataKeys: 4, MaxFrameLength: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, err := header.Parse(b, limits)

		r := bytes.NewReader(b)
		read, readErr := header.Read(r, limits)
		scanned, scanErr := scanByteByByte(t, b, limits)
		if err != nil {
			require.EqualError(t, readErr, err.Error())
			sentinel := err == io.EOF && len(b) == 0
			for _, s := range []error{header.ErrNotMessage, header.ErrMalformed, header.ErrLimit} {
				sentinel = sentinel || errors.Is(err, s)
			}
			require.True(t, sentinel, "%v", err)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				require.NoError(t, scanErr)
				require.Negative(t, scanned, "the scanner found an end that Parse did not")
			}
			if scanErr != nil {
				require.EqualError(t, scanErr, err.Error())
			}
			return
		}
		require.NoError(t, readErr)
		require.NoError(t, scanErr)
		require.Equal(t, size, scanned)
		require.Equal(t, len(b)-size, r.Len(), "Read took more than the header")
		require.Equal(t, h, read)

		require.LessOrEqual(t, size, limits.MaxSize)
		require.LessOrEqual(t, len(h.EncryptionContext), limits.MaxPairs)
		require.LessOrEqual(t, len(h.EncryptedDataKeys), limits.MaxEncryptedDataKeys)
		require.LessOrEqual(t, int(h.FrameLength), limits.MaxFrameLength)
		again, err := h.Append(nil)
		require.NoError(t, err)
		require.Equal(t, b[:size], again)
		require.True(t, header.Sniff(b))
	})
}

// scanByteByByte returns the size that a Scanner finds, or -1 if the bytes end first.
func scanByteByByte(t *testing.T, b []byte, limits header.Limits) (int, error) {
	s := header.Scanner{Limits: limits}
	for i := range len(b) + 1 {
		size, done, err := s.Scan(b[:i])
		if err != nil || done {
			return size, err
		}
		require.Greater(t, size, i, "it waits for bytes that it has")
		require.LessOrEqual(t, size, limits.MaxSize)
	}
	return -1, nil
}

// vectors are messages of AWS's SDKs.
func vectors(f *testing.F) [][]byte {
	names, err := filepath.Glob(filepath.Join("..", "testdata", "vectors", "*.msg"))
	require.NoError(f, err)
	require.NotEmpty(f, names)
	all := make([][]byte, len(names))
	for i, name := range names {
		all[i], err = os.ReadFile(name)
		require.NoError(f, err)
	}
	return all
}

func FuzzContext(f *testing.F) {
	for _, s := range []string{"", "\x00\x01\x00\x01a\x00\x01b", "\x00\x02\x00\x01a\x00\x01b\x00\x01b\x00\x00", "\x00\x02\x00\x01b\x00\x00\x00\x01a\x00\x00", "\x00\x00", "\x00\x01\x00\x01\xff\x00\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 65535 {
			return
		}
		h, _, err := header.Parse(rawHeader(b, oneKey, 2, 4096), header.Limits{})
		if err != nil {
			require.True(t, errors.Is(err, header.ErrMalformed) || errors.Is(err, header.ErrLimit), "%v", err)
			return
		}
		again, err := header.AppendContext(nil, h.EncryptionContext)
		require.NoError(t, err)
		require.Equal(t, string(b), string(again), "two serialisations of one context")
	})
}
