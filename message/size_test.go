package message_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestSizes(t *testing.T) {
	key := newKey(t, 1, "")
	for _, e := range []*message.Encrypter{
		{Keyring: key, FrameLength: 64},
		{Keyring: key, FrameLength: 1},
		{Keyring: key, FrameLength: 100, Recipients: []provider.Wrapper{newKey(t, 2, "a longer name")}},
	} {
		for n := range 4 * 64 {
			r, err := e.NewReader(context.Background(), bytes.NewReader(pattern(n)), map[string]string{"tenant": "acme"})
			require.NoError(t, err)
			stated, err := message.EncryptedSize(r.Header(), int64(n))
			require.NoError(t, err)
			sealed, err := readBy(r, 1000)
			require.NoError(t, err)
			require.EqualValues(t, len(sealed), stated)

			h, size, err := header.Parse(sealed, header.Limits{})
			require.NoError(t, err)
			require.Equal(t, r.Header().Size(), size)
			stated, err = message.EncryptedSize(h, int64(n))
			require.NoError(t, err)
			require.EqualValues(t, len(sealed), stated)
			back, err := message.PlaintextSize(h, int64(len(sealed)))
			require.NoError(t, err)
			require.EqualValues(t, n, back)
		}
	}
}

func TestSizeErrors(t *testing.T) {
	r, err := (&message.Encrypter{Keyring: newKey(t, 1, ""), FrameLength: 1}).NewReader(context.Background(), bytes.NewReader(nil), nil)
	require.NoError(t, err)
	_, err = message.EncryptedSize(r.Header(), math.MaxUint32+1)
	require.ErrorIs(t, err, frame.ErrTooLong)
	for _, n := range []int64{math.MinInt64, -1, 0, int64(r.Header().Size()), int64(r.Header().Size()) + frame.FinalOverhead - 1} {
		_, err = message.PlaintextSize(r.Header(), n)
		require.ErrorIs(t, err, frame.ErrMalformed, "%d", n)
	}
	// The body alone fits an int64, the header does not.
	if strconv.IntSize == 32 {
		return // the longest frames that an int can count are too many there
	}
	h := *r.Header()
	h.FrameLength = math.MaxUint32
	most, err := frame.PlaintextSize(math.MaxInt64-1000, int(h.FrameLength))
	require.NoError(t, err)
	for n := most; n < most+1000; n += 50 {
		if size, err := message.EncryptedSize(&h, n); err == nil {
			require.Greater(t, size, n)
		} else {
			require.ErrorIs(t, err, frame.ErrTooLong)
		}
	}
}

type seeker struct {
	io.ReadSeeker
	back error // of seeking from the start
}

func (s *seeker) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && s.back != nil {
		return 0, s.back
	}
	return s.ReadSeeker.Seek(offset, whence)
}

func TestContentLength(t *testing.T) {
	plaintext := pattern(200_000)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Write(plaintext)
	require.NoError(t, err)
	_, err = file.Seek(5000, io.SeekStart)
	require.NoError(t, err)
	begun := bytes.NewReader(plaintext)
	_, err = begun.ReadByte()
	require.NoError(t, err)

	e := &message.Encrypter{Keyring: newKey(t, 1, "")}
	for name, src := range map[string]io.Reader{
		"bytes.Reader":           bytes.NewReader(plaintext),
		"bytes.Reader in use":    begun,
		"bytes.Buffer":           bytes.NewBuffer(bytes.Clone(plaintext)),
		"strings.Reader":         strings.NewReader("short"),
		"io.SectionReader":       io.NewSectionReader(bytes.NewReader(plaintext), 100, 70_000),
		"os.File from its midst": file,
		"empty":                  bytes.NewReader(nil),
	} {
		r, err := e.NewReader(t.Context(), src, nil)
		require.NoError(t, err, name)
		want, known := r.ContentLength()
		require.True(t, known, name)
		got, err := io.ReadAll(r)
		require.NoError(t, err, name)
		require.EqualValues(t, want, len(got), name)
		_, known = r.ContentLength()
		require.False(t, known, "%s was read", name)
	}

	pipe, other, err := os.Pipe()
	require.NoError(t, err)
	defer pipe.Close()
	defer other.Close()
	zero, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer zero.Close()
	for name, src := range map[string]io.Reader{
		"io.LimitReader": io.LimitReader(endless{}, 100), "pipe": pipe, "device": zero,
	} {
		r, err := e.NewReader(t.Context(), src, nil)
		require.NoError(t, err, name)
		_, known := r.ContentLength()
		require.False(t, known, name)
	}

	signed := &message.Encrypter{Keyring: newKey(t, 1, ""), Suite: header.AES256GCMHKDFSHA512CommitKeyECDSAP384}
	r, err := signed.NewReader(t.Context(), bytes.NewReader(plaintext), nil)
	require.NoError(t, err)
	_, known := r.ContentLength()
	require.False(t, known, "signatures vary in size")

	stuck := errors.New("stuck")
	r, err = e.NewReader(t.Context(), &seeker{bytes.NewReader(plaintext), stuck}, nil)
	require.NoError(t, err)
	_, known = r.ContentLength()
	require.False(t, known)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, stuck, "never a message of what is left behind the end")
}
