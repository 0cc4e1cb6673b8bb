package kmstest_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client that does not try again.
func newClient(t *testing.T, server *kmstest.Server, region string) *kms.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return kms.New(kms.Options{
		Region: region, BaseEndpoint: &server.URL, Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
}

// code returns the code of KMS's error.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

func TestProviderOnServer(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/documents"})
	client := newClient(t, server, key.Region)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "alias/documents", Client: client})
	require.NoError(t, err)
	require.Equal(t, key.ARN, p.ARN())
	server.Reset()

	e := message.Encrypter{Keyring: p}
	ciphertext, err := e.Encrypt(t.Context(), []byte("secret"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	d := message.Decrypter{Keyrings: []provider.Keyring{p}}
	plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plaintext))
	require.Equal(t, 1, server.Calls("GenerateDataKey"))
	require.Equal(t, 1, server.Calls("Decrypt"))
	require.Equal(t, 2, server.Calls(""))
	require.Equal(t, key.ARN, server.Requests()[1].KeyARN)
	require.Equal(t, "42", server.Requests()[1].EncryptionContext["tenant"])
}

func TestFaultsEndWithTheServer(t *testing.T) {
	for name, action := range map[string]kmstest.Action{
		"stall": kmstest.Stall(), "half-open": kmstest.HalfOpen(), "late": kmstest.Delay(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			server := kmstest.New()
			key := server.CreateKey(kmstest.Key{})
			client := newClient(t, server, key.Region)
			server.Inject(kmstest.Fault{Do: action})
			done := make(chan error)
			go func() {
				_, err := client.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
				done <- err
			}()
			require.Eventually(t, func() bool { return server.Calls("Encrypt") == 1 }, time.Minute, time.Millisecond)
			server.Close()
			failed := <-done
			require.Error(t, failed)
			require.Empty(t, code(failed))
		})
	}
}

func TestFaultsSeenByTheClient(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	encrypt := func() error {
		out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
		if err == nil {
			require.NotNil(t, out.CiphertextBlob)
		}
		return err
	}
	require.NoError(t, encrypt())
	for name, c := range map[string]struct {
		action kmstest.Action
		code   string
	}{
		"deny":     {kmstest.Deny(), "AccessDeniedException"},
		"throttle": {kmstest.Throttle(), "ThrottlingException"},
		"internal": {kmstest.Error("KMSInternalException", "sorry"), "KMSInternalException"},
		"drop":     {kmstest.Drop(), ""},
		"truncate": {kmstest.Truncate(), ""},
		"proxy":    {kmstest.Body(404, "text/html", "<html>"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer server.Inject(kmstest.Fault{Operation: "Encrypt", Key: key.ARN, Times: 1, Do: c.action})()
			failed := encrypt()
			require.Error(t, failed)
			t.Log(failed)
			require.Equal(t, c.code, code(failed))
			require.NoError(t, encrypt())
		})
	}
}

func TestRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	client := newClient(t, server, key.Region)
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x"), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	require.NoError(t, err)
	back, err := client.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &key.ARN, CiphertextBlob: out.CiphertextBlob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
	require.NoError(t, err)
	require.True(t, bytes.Equal([]byte("x"), back.Plaintext))
}
