package message_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

func TestKeyVersion(t *testing.T) {
	branchKey := make([]byte, 92)
	for i := range 16 {
		branchKey[28+i] = byte(i)
	}
	for _, c := range []struct{ provider, ciphertext, want string }{
		{"aws-kms-hierarchy", string(branchKey), "00010203-0405-0607-0809-0a0b0c0d0e0f"},
		{"aws-kms-hierarchy", string(branchKey[:44]), ""},
		{"aws-kms-hierarchy", "", ""},
		{"vault-transit", "vault:v12:AAAA", "v12"},
		{"vault-transit", "vault:v\x1b[0m:AAAA", `v\x1b[0m`},
		{"vault-transit", "vault:v12", ""},
		{"vault-transit", "v12:AAAA", ""},
		{"aws-kms", "vault:v12:AAAA", ""},
		{"gcp-kms", string(branchKey), ""},
	} {
		require.Equal(t, c.want, message.KeyVersion(header.EncryptedDataKey{ProviderID: c.provider, Ciphertext: []byte(c.ciphertext)}), c)
	}
}
