package header_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
)

func TestSealThenVerify(t *testing.T) {
	aead := aesGCM(t)
	h := sample()
	require.Zero(t, h.Size())
	require.ErrorIs(t, h.Verify(aead, nil), header.ErrAuthentication, "it has no stored bytes")
	require.NoError(t, h.Seal(aead, nil))
	require.Equal(t, stored(t, h), h.Bytes())
	require.NoError(t, h.Verify(aead, nil))

	// The tag as the specification has it: empty plaintext, IV of zeros, the body as additional
	// data.
	body := h.Bytes()[:h.Size()-gcm.TagSize]
	require.Equal(t, aead.Seal(nil, make([]byte, 12), nil, body), h.Bytes()[h.Size()-gcm.TagSize:])

	got, err := header.Read(bytes.NewReader(h.Bytes()), header.Limits{})
	require.NoError(t, err)
	require.NoError(t, got.Verify(aead, nil))
	require.ErrorIs(t, got.Verify(newGCM(t, make([]byte, 32)), nil), header.ErrAuthentication)
}

func TestVerifyRefusesEveryFlip(t *testing.T) {
	aead := aesGCM(t)
	h := sample()
	require.NoError(t, h.Seal(aead, nil))
	changed := bytes.Clone(h.Bytes())
	parsed := 0
	for i := range changed {
		for bit := range 8 {
			changed[i] ^= 1 << bit
			got, _, err := header.Parse(changed, header.Limits{})
			if err == nil {
				parsed++
				require.ErrorIs(t, got.Verify(aead, nil), header.ErrAuthentication, "byte %d, bit %d", i, bit)
			}
			changed[i] ^= 1 << bit
		}
	}
	t.Logf("%d flips, %d still parsed, none verified", 8*len(changed), parsed)
	require.Greater(t, parsed, 8*(32+32+gcm.TagSize)-1)
}

func TestVerifyJudgesTheStoredBytes(t *testing.T) {
	aead := aesGCM(t)
	h := sample()
	require.NoError(t, h.Seal(aead, nil))
	got, _, err := header.Parse(h.Bytes(), header.Limits{})
	require.NoError(t, err)
	got.FrameLength++
	require.NoError(t, got.Verify(aead, nil), "a field that was changed after reading is not what was stored")
}
