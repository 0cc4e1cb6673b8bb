package kmstest_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
)

// environment is that of a client of another language, without anyone's configuration.
func environment(server *kmstest.Server) []string {
	clean := slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "AWS_") })
	return append(clean, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_CONFIG_FILE="+os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		"AWS_DEFAULT_REGION="+kmstest.Region, "AWS_ENDPOINT_URL_KMS="+server.URL)
}

const boto = `
import boto3
kms = boto3.client("kms")
key = kms.create_key(Description="boto's")["KeyMetadata"]
kms.create_alias(AliasName="alias/boto", TargetKeyId=key["KeyId"])
made = kms.generate_data_key(KeyId="alias/boto", KeySpec="AES_256", EncryptionContext={"tenant": "42"})
got = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"tenant": "42"})
assert got["Plaintext"] == made["Plaintext"] and got["KeyId"] == key["Arn"], got
try:
    kms.decrypt(CiphertextBlob=made["CiphertextBlob"])
    raise AssertionError("decrypted without its context")
except kms.exceptions.InvalidCiphertextException:
    pass
kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
print(kms.describe_key(KeyId=key["Arn"])["KeyMetadata"]["KeyState"])
`

func TestBoto3(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: starting Python is slow")
	}
	python := "python3"
	if named := os.Getenv("PIKOKMS_PYTHON"); named != "" {
		python = named
	}
	if exec.Command(python, "-c", "import boto3").Run() != nil {
		t.Skipf("skipped: %s has no boto3 (PIKOKMS_PYTHON names a Python that has it)", python)
	}
	server := kmstest.NewServer(t)
	command := exec.Command(python, "-c", boto)
	command.Env = environment(server)
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "PendingDeletion", strings.TrimSpace(string(out)))
}

func TestAWSCLI(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: starting the AWS CLI is slow")
	}
	if exec.Command("aws", "--version").Run() != nil {
		t.Skip("skipped: there is no AWS CLI")
	}
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/cli"})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plain"), []byte("secret"), 0o600))
	aws := func(arguments ...string) string {
		t.Helper()
		command := exec.Command("aws", append(arguments, "--endpoint-url", server.URL, "--output", "text")...)
		command.Env, command.Dir = environment(server), dir
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	blob := aws("kms", "encrypt", "--key-id", "alias/cli", "--plaintext", "fileb://plain", "--encryption-context", "tenant=42", "--query", "CiphertextBlob")
	raw, err := base64.StdEncoding.DecodeString(blob)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sealed"), raw, 0o600))
	require.Equal(t, "c2VjcmV0", aws("kms", "decrypt", "--ciphertext-blob", "fileb://sealed", "--encryption-context", "tenant=42", "--query", "Plaintext"))
	require.Equal(t, key.ARN, aws("kms", "describe-key", "--key-id", "alias/cli", "--query", "KeyMetadata.Arn"))
}
