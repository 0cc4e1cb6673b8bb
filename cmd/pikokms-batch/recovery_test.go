package main_test

import (
	"crypto/hpke"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// TestRecoveryKeys moves objects to a key of KMS and the public half of an HPKE key, and reads them
// with the private half alone. A second task leaves them as they are.
func TestRecoveryKeys(t *testing.T) {
	b := newBucket(t, false)
	binary := bootstrap(t)
	keyURL, arn := newKMSKey(t)
	private := filepath.Join(t.TempDir(), "recovery.key")
	require.NoError(t, local.GenerateHPKE(private, hpke.MLKEM768X25519()))
	endpoint := emulator.LocalStack(t)
	alone, _ := start(t, binary, endpoint, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL})
	both, _ := start(t, binary, endpoint, map[string]string{
		"PIKOKMS_JOB": "rewrap", "PIKOKMS_KEY": keyURL, "PIKOKMS_RECOVERY_KEYS": "local:" + filepath.ToSlash(private) + ".pub",
	})

	content := noise(100_000)
	b.mustPut(t, "a", content)
	b.mustPut(t, "b", content)
	require.Contains(t, invoke(t, alone, request(task{bucket: b.name, key: "a"}), minute)[0].ResultString, "encrypted: ")
	require.Contains(t, invoke(t, both, request2(map[string]string{"job": "encrypt"}, task{bucket: b.name, key: "b"}), minute)[0].ResultString, "encrypted: ")
	result := invoke(t, both, request2(map[string]string{"job": "encrypt"}, task{bucket: b.name, key: "a"}), minute)[0]
	require.Contains(t, result.ResultString, "the job rewrap moves it")
	for range 2 {
		result := invoke(t, both, request(task{bucket: b.name, key: "a"}), minute)[0]
		require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
	}
	p, err := local.NewProvider(local.Config{KeyFile: private})
	require.NoError(t, err)
	recovered, err := pikokms.New(pikokms.WithCryptoProvider("recovery", p), pikokms.WithStorage(s3storage.New(b.client, b.name)))
	require.NoError(t, err)
	for _, key := range []string{"a", "b"} {
		stored, _ := b.get(t, key, "")
		for job, said := range map[string]string{"encrypt": "is under " + arn + " already", "rewrap": "is under " + arn + " already", "verify": "verified: 100000 bytes"} {
			result := invoke(t, both, request2(map[string]string{"job": job}, task{bucket: b.name, key: key}), minute)[0]
			require.Contains(t, result.ResultString+" of", said, job)
		}
		again, _ := b.get(t, key, "")
		require.Equal(t, stored, again)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Len(t, h.EncryptedDataKeys, 2)
		require.Equal(t, content, read(t, b.host(t, keyURL), key))
		require.Equal(t, content, read(t, recovered, key))
	}
}
