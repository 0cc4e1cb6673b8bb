package crypto_provider_aws_kms_test

import (
	"bufio"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"
	"piko.sh/pikokms/kmstest"
)

// localStack starts LocalStack, or skips the test in short mode or on a machine without Docker.
func localStack(t *testing.T) (endpoint string) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: LocalStack is not for short mode")
	}
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	command := exec.Command("go", "run", "./serve") // it ends the container when its standard input ends
	command.Dir = filepath.Join("..", "lab", "localstack")
	command.Env = append(os.Environ(), "GOFLAGS=")
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, command.Wait())
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "LocalStack did not start")
	return strings.TrimSpace(line)
}

func TestLocalStack(t *testing.T) {
	server := &kmstest.Server{Endpoint: &kmstest.Endpoint{URL: localStack(t)}}
	var keys []string
	for range 2 {
		created, err := client(server).CreateKey(t.Context(), &kms.CreateKeyInput{})
		require.NoError(t, err)
		keys = append(keys, *created.KeyMetadata.Arn)
	}
	alias := "alias/" + strings.ToLower(rand.Text()) // another test may have had the same LocalStack
	_, err := client(server).CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &keys[0]})
	require.NoError(t, err)
	p := open(t, config(server, alias))
	require.NoError(t, p.HealthCheck(t.Context()))

	for i, keyID := range []string{pikosDefault, keys[1]} {
		encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret", KeyID: keyID})
		require.NoError(t, err)
		require.Equal(t, keys[i], encrypted.KeyID)
		for _, named := range []string{"", encrypted.KeyID} {
			decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: named})
			require.NoError(t, err)
			require.Equal(t, "secret", decrypted.Plaintext)
		}
		key, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: keyID, KeySpec: "AES_256"})
		require.NoError(t, err)
		requireDataKey(t, p, key)
		stored := encryptStream(t, p, keyID, "uploaded")
		plaintext, err := decryptStream(t, p, stored)
		require.NoError(t, err)
		require.Equal(t, "uploaded", plaintext)
		_, err = decryptStream(t, p, flipped(stored))
		require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	}
	_, err = crypto_provider_aws_kms.NewProvider(t.Context(), config(server, "alias/none"))
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
}
