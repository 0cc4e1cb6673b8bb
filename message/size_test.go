package message_test

import (
	"bytes"
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestSizes(t *testing.T) {
	key := newKey(t, 1, "")
	for _, e := range []*message.Encrypter{
		{Keyring: key, FrameLength: 64},
		{Keyring: key, FrameLength: 1},
		{Keyring: key, FrameLength: 100, Recipients: []provider.Keyring{newKey(t, 2, "a longer name")}},
	} {
		for n := range 4 * 64 {
			r, err := e.NewReader(context.Background(), bytes.NewReader(pattern(n)), map[string]string{"tenant": "acme"})
			require.NoError(t, err)
			stated, err := r.EncryptedSize(int64(n))
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
	_, err = r.EncryptedSize(math.MaxUint32 + 1)
	require.ErrorIs(t, err, frame.ErrTooLong)
	for _, n := range []int64{math.MinInt64, -1, 0, int64(r.Header().Size()), int64(r.Header().Size()) + frame.FinalOverhead - 1} {
		_, err = message.PlaintextSize(r.Header(), n)
		require.ErrorIs(t, err, frame.ErrMalformed, "%d", n)
	}
	// The body alone fits an int64, the header does not.
	h := *r.Header()
	h.FrameLength = math.MaxUint32
	most, err := frame.PlaintextSize(math.MaxInt64-1000, math.MaxUint32)
	require.NoError(t, err)
	for n := most; n < most+1000; n += 50 {
		if size, err := message.EncryptedSize(&h, n); err == nil {
			require.Greater(t, size, n)
		} else {
			require.ErrorIs(t, err, frame.ErrTooLong)
		}
	}
}
