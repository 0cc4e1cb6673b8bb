package crypto_provider_aws_kms_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"
	"piko.sh/pikokms/header"
)

const region = "eu-west-1"

// localStack starts LocalStack, or skips the test on a machine without Docker.
func localStack(t *testing.T) (endpoint string) {
	t.Helper()
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	command := exec.Command("go", "run", "./serve") // it ends the container when its standard input ends
	command.Dir = filepath.Join("..", "internal", "localstack")
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

func TestProvider(t *testing.T) {
	endpoint := localStack(t)
	client := kms.New(kms.Options{Region: region, BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	created, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String("Piko's")})
	require.NoError(t, err)
	_, err = client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/app-data"), TargetKeyId: created.KeyMetadata.KeyId})
	require.NoError(t, err)
	p, err := crypto_provider_aws_kms.NewProvider(t.Context(), crypto_provider_aws_kms.Config{KeyID: "alias/app-data", Region: region, Endpoint: endpoint})
	require.NoError(t, err)
	require.Equal(t, crypto.ProviderTypeAWSKMS, p.Type())
	require.NoError(t, p.HealthCheck(t.Context()))

	t.Run("strings", func(t *testing.T) {
		for _, keyID := range []string{"", "default", "alias/app-data", *created.KeyMetadata.Arn} {
			encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret", KeyID: keyID})
			require.NoError(t, err, keyID)
			require.Equal(t, *created.KeyMetadata.Arn, encrypted.KeyID)
			decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: keyID})
			require.NoError(t, err)
			require.Equal(t, "secret", decrypted.Plaintext)
		}
		_, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret", KeyID: "another"})
		require.ErrorIs(t, err, crypto.ErrKeyNotFound)
		_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{})
		require.ErrorIs(t, err, crypto.ErrEmptyPlaintext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{})
		require.ErrorIs(t, err, crypto.ErrEmptyCiphertext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "*"})
		require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "AAAA"})
		require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	})

	// What Piko's crypto service does for a batch: a data key, whose wrapped text Decrypt opens.
	t.Run("data key", func(t *testing.T) {
		key, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: "default", KeySpec: "AES_256"})
		require.NoError(t, err)
		again, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: key.EncryptedKey})
		require.NoError(t, err)
		require.NoError(t, key.PlaintextKey.WithAccess(func(plain []byte) error {
			if string(plain) != again.Plaintext {
				return errors.New("the data key comes back changed")
			}
			return nil
		}))
		require.NoError(t, key.Close())
	})

	t.Run("streams", func(t *testing.T) {
		plaintext := bytes.Repeat([]byte("upload "), 30_000)
		var stored bytes.Buffer
		w, err := p.EncryptStream(t.Context(), &stored, &crypto.EncryptRequest{KeyID: "default"})
		require.NoError(t, err)
		_, err = w.Write(plaintext)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.True(t, header.Sniff(stored.Bytes()), "it is a message")
		r, err := p.DecryptStream(t.Context(), bytes.NewReader(stored.Bytes()))
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.True(t, bytes.Equal(plaintext, got))

		changed := stored.Bytes()
		changed[len(changed)-1] ^= 1
		r, err = p.DecryptStream(t.Context(), bytes.NewReader(changed))
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r)
		require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
		r, err = p.DecryptStream(t.Context(), strings.NewReader("\x02\x00\x00\x00\x02{}"))
		require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
		require.ErrorContains(t, err, "AllowPikoV2")
		require.Nil(t, r)
		w, err = p.EncryptStream(t.Context(), io.Discard, &crypto.EncryptRequest{KeyID: "another"})
		require.ErrorIs(t, err, crypto.ErrKeyNotFound)
		require.Nil(t, w)
	})

	t.Run("key", func(t *testing.T) {
		info, err := p.GetKeyInfo(t.Context(), "default")
		require.NoError(t, err)
		require.Equal(t, "Piko's", info.Description)
		require.Equal(t, crypto.KeyStatusActive, info.Status)
	})

	t.Run("outage", func(t *testing.T) {
		down, err := crypto_provider_aws_kms.NewProvider(t.Context(), crypto_provider_aws_kms.Config{KeyID: "alias/app-data", Region: region, Endpoint: "http://127.0.0.1:1", MaxRetries: 1})
		require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
		require.Nil(t, down)
		_, err = crypto_provider_aws_kms.NewProvider(t.Context(), crypto_provider_aws_kms.Config{KeyID: "alias/none", Region: region, Endpoint: endpoint})
		require.ErrorIs(t, err, crypto.ErrKeyNotFound)
		_, err = crypto_provider_aws_kms.NewProvider(t.Context(), crypto_provider_aws_kms.Config{})
		require.ErrorIs(t, err, crypto.ErrInvalidKey)
	})
}
