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

func TestNameAndVersionOfAzureKeyVault(t *testing.T) {
	const name, version = "https://v.vault.azure.net/keys/k", "0123456789abcdef0123456789abcdef"
	for info, want := range map[string][2]string{
		name + "/" + version:             {name, version},
		name:                             {name, ""},
		"/" + version:                    {"/" + version, ""},
		"":                               {"", ""},
		name + "/\x1b[0m" + version[:28]: {name, `\x1b[0m` + version[:28]},
	} {
		k := header.EncryptedDataKey{ProviderID: "azure-key-vault", ProviderInfo: []byte(info)}
		require.Equal(t, want, [2]string{message.KeyName(k), message.KeyVersion(k)}, info)
	}
}
