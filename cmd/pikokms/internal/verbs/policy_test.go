package verbs

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
)

func TestParsePolicy(t *testing.T) {
	for text, want := range map[string]message.CommitmentPolicy{
		"RequireEncryptRequireDecrypt":    message.RequireEncryptRequireDecrypt,
		"require-encrypt-require-decrypt": message.RequireEncryptRequireDecrypt,
		"REQUIRE_ENCRYPT_ALLOW_DECRYPT":   message.RequireEncryptAllowDecrypt,
		"forbidencryptallowdecrypt":       message.ForbidEncryptAllowDecrypt,
	} {
		got, err := parsePolicy(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "require", "RequireEncryptForbidDecrypt"} {
		_, err := parsePolicy(text)
		require.ErrorIs(t, err, message.ErrCommitmentPolicy)
		require.ErrorContains(t, err, "known are RequireEncryptRequireDecrypt, RequireEncryptAllowDecrypt, ForbidEncryptAllowDecrypt")
	}
}
