package awskms_test

import (
	"crypto"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/interop"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

type keyringRequest struct {
	Op        string            `json:"op"`
	ARN       string            `json:"arn"`
	Algorithm string            `json:"algorithm"`
	PublicKey string            `json:"public_key"`
	Curve     string            `json:"curve"` // of an ECDH keyring, and its keys
	Key       ecdhKey           `json:"key"`
	Suite     header.Suite      `json:"suite"`
	Context   map[string]string `json:"context"`
	Data      []byte            `json:"data"`
}

type keyringAnswer struct {
	Data  []byte `json:"data"`
	Error string `json:"error"`
}

// startKeyring starts a process that runs keyrings of AWS's Material Providers Library for Python.
// PIKOKMS_PYTHON names a Python in which a missing package is a failure.
func startKeyring(t *testing.T, server *kmstest.Server, script string) (ask func(testing.TB, keyringRequest) keyringAnswer) {
	t.Helper()
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		python = "python3"
		if exec.Command(python, "-c", "import aws_encryption_sdk, aws_cryptographic_material_providers").Run() != nil {
			t.Skip("skipped: python3 has no aws-encryption-sdk with aws-cryptographic-material-providers (PIKOKMS_PYTHON names a Python that has them)")
		}
	}
	command := exec.Command(python, filepath.Join("testdata", script))
	return interop.Start[keyringRequest, keyringAnswer](t, command, "AWS_ENDPOINT_URL="+server.URL, "AWS_DEFAULT_REGION="+kmstest.Region)
}

// Messages under RSA keys of KMS go both ways between pikokms and AWS's Material Providers Library.
func TestTheMaterialProvidersLibraryUnderRSAKeys(t *testing.T) {
	server := kmstest.NewServer(t)
	ask := startKeyring(t, server, "rsa_keyring.py")
	messages := 0 // each way
	for _, spec := range []string{"RSA_2048", "RSA_3072", "RSA_4096"} {
		key := server.CreateKey(kmstest.Key{Spec: spec})
		public := string(publicKey(t, server, key))
		for algorithm, hash := range map[string]crypto.Hash{"RSAES_OAEP_SHA_1": crypto.SHA1, "RSAES_OAEP_SHA_256": crypto.SHA256} {
			p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1), Hash: hash})
			require.NoError(t, err)
			for _, suite := range []header.Suite{0x0178, 0x0478, 0x0578} {
				for _, context := range []map[string]string{nil, {"tenant": "42"}, {"ключ": "значение", "a": "", "zz": "1", "Z": "2", "é": "3", "\U0001F511": "4"}} {
					request := keyringRequest{Op: "encrypt", ARN: key.ARN, Algorithm: algorithm, PublicKey: public, Suite: suite, Context: context, Data: []byte("of theirs")}
					theirs := ask(t, request)
					e := message.Encrypter{Keyring: p, Suite: suite}
					if suite.Signed() {
						require.Contains(t, theirs.Error, "asymmetric signing")
						_, err := e.Encrypt(t.Context(), []byte("of ours"), context)
						require.ErrorIs(t, err, provider.ErrKeyUsage)
						continue
					}
					require.Empty(t, theirs.Error)
					h, _, err := header.Parse(theirs.Data, header.Limits{})
					require.NoError(t, err)
					require.Equal(t, "aws-kms-rsa", h.EncryptedDataKeys[0].ProviderID)
					require.Equal(t, key.ARN, string(h.EncryptedDataKeys[0].ProviderInfo))
					d := message.Decrypter{Keyrings: []provider.Unwrapper{p}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
					got, _, err := d.Decrypt(t.Context(), theirs.Data, context)
					require.NoError(t, err)
					require.Equal(t, "of theirs", string(got))

					if !suite.Commits() {
						continue // pikokms only reads it
					}
					request.Op = "decrypt"
					request.Data, err = e.Encrypt(t.Context(), []byte("of ours"), context)
					require.NoError(t, err)
					ours := ask(t, request)
					require.Empty(t, ours.Error)
					require.Equal(t, "of ours", string(ours.Data))
					messages++
				}
			}
		}
	}
	t.Logf("%d messages of ours opened by the library, %d and as many of suite 0178 of the library's opened here", messages, messages)
}
