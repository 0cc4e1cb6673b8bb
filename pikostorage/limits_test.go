package pikostorage_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// withPairs returns an object of this encryption context, which may exceed the limits up to which
// package header writes.
func withPairs(t *testing.T, k provider.Wrapper, pairs map[string]string, content string) []byte {
	plain := bytes.Repeat([]byte{9}, 32)
	dataKey, err := provider.NewSecureBytes(bytes.Clone(plain))
	require.NoError(t, err)
	defer dataKey.Close()
	wrapped, err := k.WrapDataKey(t.Context(), dataKey, pairs)
	require.NoError(t, err)
	h := &header.Header{
		Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: bytes.Repeat([]byte{7}, 32), ContentType: header.Framed,
		FrameLength: header.DefaultFrameLength, EncryptedDataKeys: []header.EncryptedDataKey{wrapped},
	}
	aead, commitment, err := h.Suite.DeriveKeys(plain, h.MessageID)
	require.NoError(t, err)
	h.Commitment = commitment
	require.NoError(t, h.Seal(aead, nil))
	list, err := header.AppendContext(nil, pairs)
	require.NoError(t, err)
	const ivSize, tagSize, contextAt = 12, 16, 1 + 2 + 32 // the context follows version, suite and message ID
	sealed := bytes.Clone(h.Bytes()[:contextAt])
	sealed = append(binary.BigEndian.AppendUint16(sealed, uint16(len(list))), list...)
	sealed = append(sealed, h.Bytes()[contextAt+2:h.Size()-tagSize]...)
	sealed = append(sealed, aead.Seal(nil, make([]byte, ivSize), nil, sealed)...)
	const first = 1
	iv := binary.BigEndian.AppendUint32(make([]byte, ivSize-4), first)
	bound := append(bytes.Clone(h.MessageID), "AWSKMSEncryptionClient Final Frame"...)
	bound = binary.BigEndian.AppendUint32(bound, first)
	bound = binary.BigEndian.AppendUint64(bound, uint64(len(content)))
	sealed = binary.BigEndian.AppendUint32(sealed, math.MaxUint32) // begins the final frame
	sealed = append(binary.BigEndian.AppendUint32(sealed, first), iv...)
	sealed = binary.BigEndian.AppendUint32(sealed, uint32(len(content)))
	return aead.Seal(sealed, iv, []byte(content), bound)
}

// TestHeaderLimits: an object with more pairs than the defaults allow has the names of its
// transformers, too, where the host takes so many.
func TestHeaderLimits(t *testing.T) {
	inner := newShelf(false)
	k, _ := newKeys(t)
	pairs := map[string]string{provider.PairUse: provider.UseObject, transformersKey: `["gzip"]`}
	for i := range 1500 {
		pairs[fmt.Sprintf("k%d", i)] = ""
	}
	inner.objects[place("default", "a")] = shelved{content: withPairs(t, k.behind, pairs, "content"), stored: time.Now()}

	p := encryptWith(t, inner, k, pikokms.WithHeaderLimits(header.Limits{MaxPairs: 2000}))
	info, err := p.Stat(t.Context(), at("default", "a"))
	require.NoError(t, err)
	require.EqualValues(t, len("content"), info.Size)
	require.Equal(t, `["gzip"]`, info.Metadata[transformersKey])
	got, err := read(t, p, at("default", "a"))
	require.NoError(t, err)
	require.Equal(t, "content", string(got))

	_, err = encryptWith(t, inner, k).Stat(t.Context(), at("default", "a"))
	require.ErrorIs(t, err, header.ErrLimit)
}
