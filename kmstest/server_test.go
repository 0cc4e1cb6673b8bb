package kmstest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client that does not try again.
func newClient(t testing.TB, server *kmstest.Server, region string) *kms.Client {
	t.Helper()
	return newClientOf(t, server, region, "test")
}

// newClientOf returns a client with an access key ID.
func newClientOf(t testing.TB, server *kmstest.Server, region, accessKeyID string) *kms.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return kms.New(kms.Options{
		Region: region, BaseEndpoint: &server.URL, Retryer: aws.NopRetryer{},
		HTTPClient:  &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(accessKeyID, "test", ""),
	})
}

// code returns the code of KMS's error.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// status returns the HTTP status of KMS's error.
func status(err error) int {
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return response.HTTPStatusCode()
	}
	return 0
}

func TestProviderOnServer(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/documents"})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "alias/documents", Client: newClient(t, server, key.Region)})
	require.NoError(t, err)
	require.Equal(t, key.ARN, p.KeyID())
	server.Reset()

	e := message.Encrypter{Keyring: p}
	ciphertext, err := e.Encrypt(t.Context(), []byte("secret"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plaintext))
	require.Equal(t, 1, server.Calls("GenerateDataKey"))
	require.Equal(t, 1, server.Calls("Decrypt"))
	require.Equal(t, 2, server.Calls(""))
}

func TestRequestsTellWhatWasAsked(t *testing.T) {
	server := kmstest.NewServer(t)
	from, to := server.CreateKey(kmstest.Key{Alias: "alias/from"}), server.CreateKey(kmstest.Key{})
	client := newClient(t, server, kmstest.Region)
	pairs := map[string]string{"tenant": "42"}
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{
		KeyId: aws.String("alias/from"), Plaintext: []byte("x"), EncryptionContext: pairs, GrantTokens: []string{"token"},
	})
	require.NoError(t, err)
	_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, DryRun: aws.Bool(true)})
	require.Error(t, err)
	_, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: out.CiphertextBlob, SourceEncryptionContext: pairs, DestinationKeyId: &to.ID})
	require.NoError(t, err)
	_, err = client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/to"), TargetKeyId: &to.ARN})
	require.NoError(t, err)

	require.Equal(t, []kmstest.Request{
		{
			Operation: "Encrypt", Region: kmstest.Region, Account: kmstest.Account, KeyID: "alias/from", KeyARN: from.ARN,
			EncryptionContext: pairs, GrantTokens: []string{"token"},
		},
		{
			Operation: "Decrypt", Region: kmstest.Region, Account: kmstest.Account, KeyARN: from.ARN,
			DryRun: true, Error: "InvalidCiphertextException",
		},
		{
			Operation: "ReEncrypt", Region: kmstest.Region, Account: kmstest.Account, KeyID: to.ID, KeyARN: to.ARN,
			SourceKeyARN: from.ARN,
		},
		{
			Operation: "CreateAlias", Region: kmstest.Region, Account: kmstest.Account, KeyID: to.ARN, KeyARN: to.ARN,
		},
	}, server.Requests())
	server.Reset()
	require.Zero(t, server.Calls(""))
	require.Empty(t, server.Requests())
}

func TestRetriesAreCalls(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	server.Inject(kmstest.Fault{Operation: "DescribeKey", Times: 2, Do: kmstest.Throttle()})
	options := newClient(t, server, key.Region).Options()
	options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
		o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
	})
	_, err := kms.New(options).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Equal(t, 3, server.Calls("DescribeKey"))
}

func TestCallersBelongToTheirAccount(t *testing.T) {
	const other = "444455556666"
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Account: other, Alias: "alias/theirs"})
	require.Contains(t, key.ARN, ":"+other+":")
	owner, stranger := newClientOf(t, server, key.Region, other), newClient(t, server, key.Region)

	_, err := owner.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("alias/theirs")})
	require.NoError(t, err)
	_, err = owner.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	_, err = owner.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key.ID})
	require.NoError(t, err)

	_, err = stranger.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.Equal(t, "NotFoundException", code(err))
	_, err = stranger.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
	require.NoError(t, err, "keys of other accounts are used by their ARN")
	_, err = stranger.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key.ARN})
	require.Equal(t, "AccessDeniedException", code(err), "and are not managed")
}

func TestErrorsReadAsKMSDoes(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{State: "Disabled"})
	client := newClient(t, server, key.Region)
	encrypt := func(keyID string) error {
		_, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keyID, Plaintext: []byte("x")})
		require.Error(t, err)
		require.Equal(t, 400, status(err))
		return err
	}
	var disabled *types.DisabledException
	require.ErrorAs(t, encrypt(key.ID), &disabled)
	require.Equal(t, key.ARN+" is disabled.", disabled.ErrorMessage())
	var notFound *types.NotFoundException
	require.ErrorAs(t, encrypt("alias/nobody"), &notFound)
	require.Equal(t, "Alias arn:aws:kms:eu-west-1:111122223333:alias/nobody is not found.", notFound.ErrorMessage())
	require.ErrorAs(t, encrypt(unknownKeyID), &notFound)
	require.Equal(t, "Key 'arn:aws:kms:eu-west-1:111122223333:key/"+unknownKeyID+"' does not exist", notFound.ErrorMessage())
	require.ErrorAs(t, encrypt("mrk-"+strings.Repeat("0", 32)), &notFound)
	require.Equal(t, "Invalid keyId 'mine'", func() string { require.ErrorAs(t, encrypt("mine"), &notFound); return notFound.ErrorMessage() }())
	require.Equal(t, "InvalidArnException", code(encrypt("arn:aws:s3:::bucket")))
	require.Equal(t, "InvalidArnException", code(encrypt("arn:aws:kms:eu-west-1:111122223333:grant/x")))
	require.Equal(t, "NotFoundException", code(encrypt(strings.Replace(key.ARN, "arn:aws:", "arn:aws-cn:", 1))))

	_, err := client.GenerateRandom(t.Context(), &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1)})
	require.Equal(t, "UnknownOperationException", code(err))
	require.ErrorContains(t, err, "GenerateRandom")
	_, err = client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String("alias/x")})
	require.Equal(t, "NotFoundException", code(err), "a key is managed by its ID or ARN")
}

func TestRequestsThatNoClientMakes(t *testing.T) {
	server := kmstest.NewServer(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	const authorization = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/kms/aws4_request, SignedHeaders=host, Signature=0"
	for name, c := range map[string]struct{ method, target, authorization, body, want string }{
		"a browser":      {"GET", "", "", "", "UnknownOperationException"},
		"unsigned":       {"POST", "TrentService.Decrypt", "", "{}", "MissingAuthenticationTokenException"},
		"no JSON":        {"POST", "TrentService.Decrypt", authorization, "{", "SerializationException"},
		"too large":      {"POST", "TrentService.Decrypt", authorization, strings.Repeat(" ", 2<<20), "SerializationException"},
		"no key":         {"POST", "TrentService.Encrypt", authorization, "{}", "ValidationException"},
		"no ciphertext":  {"POST", "TrentService.Decrypt", authorization, "{}", "ValidationException"},
		"no Region":      {"POST", "TrentService.ReplicateKey", authorization, `{"KeyId":"KEY"}`, "ValidationException"},
		"no public key":  {"POST", "TrentService.GetPublicKey", authorization, "{}", "ValidationException"},
		"no description": {"POST", "TrentService.DescribeKey", authorization, "{}", "ValidationException"},
		"data key of 0":  {"POST", "TrentService.GenerateDataKey", authorization, `{"KeyId":"KEY","NumberOfBytes":0}`, "ValidationException"},
	} {
		t.Run(name, func(t *testing.T) {
			key := server.CreateKey(kmstest.Key{MultiRegion: true})
			request, err := http.NewRequestWithContext(t.Context(), c.method, server.URL, strings.NewReader(strings.ReplaceAll(c.body, "KEY", key.ID)))
			require.NoError(t, err)
			request.Header.Set("X-Amz-Target", c.target)
			request.Header.Set("Authorization", c.authorization)
			response, err := transport.RoundTrip(request)
			require.NoError(t, err)
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Equal(t, 400, response.StatusCode)
			require.Equal(t, c.want, response.Header.Get("X-Amzn-Errortype"))
			require.Contains(t, string(body), `"__type":"`+c.want+`"`)
		})
	}
}

func TestLargestEncryptionContext(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	for size, want := range map[int]string{8192: "", 8193: "ValidationException"} {
		_, err := client.Encrypt(t.Context(), &kms.EncryptInput{
			KeyId: &key.ID, Plaintext: []byte("x"), EncryptionContext: map[string]string{"k": strings.Repeat("v", size-1)},
		})
		require.Equal(t, want, code(err))
	}
}

func TestConcurrentCallers(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 20 {
				out, err := client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key.ID, KeySpec: types.DataKeySpecAes256})
				if err == nil {
					_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
				}
				if err != nil {
					t.Error(err)
				}
				if _, err := client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &key.ID}); code(err) != "" && code(err) != "LimitExceededException" {
					t.Error(err)
				}
				server.Requests()
			}
		})
	}
	callers.Wait()
	require.Equal(t, 320, server.Calls("GenerateDataKey")+server.Calls("Decrypt"))
}

func TestClosedServerRefusesConnections(t *testing.T) {
	server := kmstest.New()
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	server.Close()
	server.Close()
	_, err := client.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.Error(t, err)
	require.Empty(t, code(err))
}
