package branchkey

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/provider"
)

func FuzzItem(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("testdata", "vectors.json"))
	require.NoError(f, err)
	var vectors struct{ Items []json.RawMessage }
	require.NoError(f, json.Unmarshal(text, &vectors))
	for _, item := range vectors.Items {
		f.Add([]byte(item))
	}
	f.Add([]byte(`{"branch-key-id":"x","type":"beacon:ACTIVE","enc":"AA==","pikokms-state":"destroyed","pikokms-destroyed":"2026-12-01T00:00:00Z","pikokms-was:create-time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"branch-key-id":"x","type":"branch:ACTIVE","enc":"AA==","pikokms-state":"disabled","pikokms-disabled":"2026-12-01T00:00:00Z","pikokms-item":"{}"}`))
	f.Add([]byte(`{"enc":null}`))
	f.Add([]byte(`{"branch-key-id":"x","type":"branch:ACTIVE","enc":"AA==","hierarchy-version":"2"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		item, err := readFileItem("x", "branch:ACTIVE", text)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		again, err := json.Marshal(item)
		require.NoError(t, err)
		same, err := readFileItem("x", "branch:ACTIVE", again)
		require.NoError(t, err)
		require.Equal(t, item.Attributes, same.Attributes)
		require.True(t, bytes.Equal(item.Enc, same.Enc))

		r, err := parse(item)
		if err != nil {
			require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrHierarchyVersion), "%v", err)
			return
		}
		back, err := fromDynamoDB(toDynamoDB(item))
		require.NoError(t, err)
		require.Equal(t, item, back)
		require.NotEmpty(t, r.id)
		pairs := item.encryptionContext("name")
		require.Len(t, pairs, len(item.Attributes)+1)
	})
}

func FuzzEncryptedDataKey(f *testing.F) {
	key, err := provider.NewSecureBytes(make([]byte, branchKeySize))
	require.NoError(f, err)
	// What seal made once of 32 zero bytes, under a branch key of zeros with the version 01 00 ….
	sealed, err := hex.DecodeString("f0c7c884bceeed9075a1dc6c92223c41ad68ce1b808ce853ae60325201000000000000000000000000000000713513d1b12a0c3af1ce111a1e23f2df5fb959fc6a0649c59064aada27ee96263daf0847e262fc508a2cb231167ce2f7")
	require.NoError(f, err)
	w, err := parseWrapped(sealed, 32)
	require.NoError(f, err)
	_, err = w.open(key, "id", nil)
	require.NoError(f, err)
	f.Add(sealed, 32)
	f.Add(sealed, 16)
	f.Add([]byte{}, 0)
	f.Add(sealed[:prefixSize], -gcm.TagSize)
	f.Fuzz(func(t *testing.T, ciphertext []byte, size int) {
		w, err := parseWrapped(ciphertext, size)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			return
		}
		plain, err := w.open(key, "id", nil)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			return
		}
		require.Equal(t, make([]byte, 32), plain)
		require.Equal(t, sealed, ciphertext, "a forgery")
	})
}

func FuzzLocalKey(f *testing.F) {
	f.Add(appendLocal(header.EncryptedDataKey{ProviderID: "piko", ProviderInfo: []byte("info"), Ciphertext: []byte("ciphertext")}))
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, blob []byte) {
		k, err := parseLocal(blob)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			return
		}
		require.True(t, bytes.Equal(blob, appendLocal(k)))
	})
}

func FuzzParseURL(f *testing.F) {
	for _, text := range []string{
		"branchkey://t/id?key=arn:aws:kms:eu-west-1:111122223333:key/1&by=tenant&ttl=30m&entries=5", "branchkey://t?accounts=111122223333&region=eu-west-1",
		"branchkey:///a/b?id=x&master=local:k", "branchkey:k.db?master=local%3Ak&trusted-master=local%3Aold", "branchkey:?", "file:x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		c, err := ParseURL(u)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			return
		}
		require.Positive(t, c.TTL)
		require.NotEqual(t, c.File == "", c.Table == "")
		require.Equal(t, c.File != "", len(c.Masters) > 0)
	})
}
