package kmstest_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

// emulated is one KMS of the comparison.
type emulated struct {
	t        *testing.T
	endpoint string
	*kms.Client
}

// lost retries requests without an answer, since moto's server drops connections on a busy machine.
var lost = retry.NewStandard(func(o *retry.StandardOptions) {
	o.Retryables = []retry.IsErrorRetryable{retry.RetryableConnectionError{}}
})

// in returns a client in another Region.
func (e *emulated) in(region string) *emulated {
	transport := &http.Transport{}
	e.t.Cleanup(transport.CloseIdleConnections)
	return &emulated{e.t, e.endpoint, kms.New(kms.Options{
		Region: region, BaseEndpoint: &e.endpoint, Retryer: lost,
		HTTPClient:  &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})}
}

// key makes a key.
func (e *emulated) key(in kms.CreateKeyInput) *types.KeyMetadata {
	e.t.Helper()
	out, err := e.CreateKey(e.t.Context(), &in)
	require.NoError(e.t, err)
	return out.KeyMetadata
}

// alias gives a key a new alias.
func (e *emulated) alias(key *types.KeyMetadata) string {
	e.t.Helper()
	name := "alias/" + strings.ToLower(rand.Text())
	_, err := e.CreateAlias(e.t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: key.KeyId})
	require.NoError(e.t, err)
	return name
}

// sealed encrypts "secret" under a symmetric key.
func (e *emulated) sealed(key *types.KeyMetadata, pairs map[string]string) []byte {
	e.t.Helper()
	out, err := e.Encrypt(e.t.Context(), &kms.EncryptInput{KeyId: key.Arn, Plaintext: []byte("secret"), EncryptionContext: pairs})
	require.NoError(e.t, err)
	return out.CiphertextBlob
}

// outcome says how a call ended: the code of its error, or what was noted of its answer.
func outcome(err error, noted ...any) string {
	switch {
	case err == nil:
		return strings.TrimSpace(fmt.Sprintln(append([]any{"ok"}, noted...)...))
	case code(err) != "":
		return code(err)
	}
	return "no answer of KMS"
}

// The three must agree. Where they do not, differences says who is right by AWS's documentation.
func TestEmulatorsAgree(t *testing.T) {
	all := maps.Clone(agreements)
	maps.Copy(all, stateAgreements())
	ask := func(t *testing.T, endpoint string, otherwise map[string]string) {
		for question := range otherwise {
			require.Contains(t, all, question, "differences has a question that nobody asks")
		}
		for _, question := range slices.Sorted(maps.Keys(all)) {
			t.Run(question, func(t *testing.T) {
				want, differs := otherwise[question]
				if !differs {
					want = all[question].want
				}
				e := (&emulated{t: t, endpoint: endpoint}).in("eu-west-1")
				require.Equal(t, want, all[question].ask(e, t.Context()))
			})
		}
	}
	localStack, moto := make(map[string]string), make(map[string]string)
	for _, d := range differences {
		maps.Copy(localStack, d.localStack)
		maps.Copy(moto, d.moto)
	}
	t.Run("kmstest", func(t *testing.T) { ask(t, kmstest.NewServer(t).URL, nil) })
	if testing.Short() {
		t.Log("skipped: LocalStack and moto, which -short leaves out")
		return
	}
	t.Run("LocalStack", func(t *testing.T) { ask(t, emulator.LocalStack(t), localStack) })
	t.Run("moto", func(t *testing.T) { ask(t, emulator.Moto(t), moto) })
}
