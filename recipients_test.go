package pikokms_test

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// newClientIn is newClient for another Region.
func newClientIn(t *testing.T, region string) (*kms.Client, *callCounter) {
	t.Helper()
	client, counter := newClient(t)
	options := client.Options().Copy()
	options.Region = region
	return kms.New(options), counter
}

func open(t *testing.T, stored []byte, stated map[string]string, keyrings ...provider.Unwrapper) (string, error) {
	t.Helper()
	plaintext, _, err := (&message.Decrypter{Keyrings: keyrings}).Decrypt(t.Context(), stored, stated)
	return string(plaintext), err
}

func TestMultiRegionKey(t *testing.T) {
	const other = "us-east-1"
	client, _ := newClient(t)
	replicaClient, replicaCalls := newClientIn(t, other)
	primary := newKey(t, client, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	_, err := client.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: primary.KeyId, ReplicaRegion: aws.String(other)})
	require.NoError(t, err)
	here, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *primary.KeyId, Client: client})
	require.NoError(t, err)
	there, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *primary.KeyId, Client: replicaClient})
	require.NoError(t, err)
	require.NotEqual(t, here.KeyID(), there.KeyID())
	replicaCalls.take()

	stored, err := (&message.Encrypter{Keyring: here}).Encrypt(t.Context(), []byte("one key, two Regions"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	got, err := open(t, stored, nil, there)
	require.NoError(t, err)
	require.Equal(t, "one key, two Regions", got)
	require.Equal(t, map[string]int{"Decrypt": 1}, replicaCalls.take())

	discovery, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{*primary.AWSAccountId}, Client: replicaClient})
	require.NoError(t, err)
	got, err = open(t, stored, nil, discovery)
	require.NoError(t, err)
	require.Equal(t, "one key, two Regions", got)
	require.Equal(t, map[string]int{"Decrypt": 1}, replicaCalls.take())

	// A key of one Region is not looked for in another.
	single := newKey(t, client, &kms.CreateKeyInput{})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *single.KeyId, Client: client})
	require.NoError(t, err)
	stored, err = (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), nil, nil)
	require.NoError(t, err)
	_, err = open(t, stored, nil, there, discovery)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.Empty(t, replicaCalls.take())
}

func TestDiscovery(t *testing.T) {
	p, client, calls := newProvider(t)
	another := newKey(t, client, &kms.CreateKeyInput{})
	q, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *another.KeyId, Client: client})
	require.NoError(t, err)
	account := *another.AWSAccountId
	ours, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{"111122223333", account}, Client: client})
	require.NoError(t, err)
	strangers, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{"111122223333"}, Client: client})
	require.NoError(t, err)
	china, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{account}, Partition: "aws-cn", Client: client})
	require.NoError(t, err)

	for _, keyring := range []provider.Wrapper{p, q} {
		stored, err := (&message.Encrypter{Keyring: keyring}).Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		calls.take()
		got, err := open(t, stored, nil, strangers, china, ours)
		require.NoError(t, err)
		require.Equal(t, "text", got)
		require.Equal(t, map[string]int{"Decrypt": 1}, calls.take(), "only the keyring that trusts the account asks")
		_, err = open(t, stored, nil, strangers, china)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		require.Empty(t, calls.take())
	}
}

func TestGrantTokens(t *testing.T) {
	p, client, _ := newProvider(t)
	grant, err := client.CreateGrant(t.Context(), &kms.CreateGrantInput{
		KeyId: aws.String(p.KeyID()), GranteePrincipal: aws.String("arn:aws:iam::000000000000:user/grantee"),
		Operations: []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationGenerateDataKey, types.GrantOperationDescribeKey, types.GrantOperationEncrypt},
	})
	require.NoError(t, err)
	recorded := &bodyRecorder{}
	withGrant := kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(endpoint(t)), HTTPClient: &http.Client{Transport: recorded},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	granted, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: p.KeyID(), Client: withGrant, GrantTokens: []string{*grant.GrantToken}})
	require.NoError(t, err)
	stored, err := (&message.Encrypter{Keyring: granted, Recipients: []provider.Wrapper{granted}}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	got, err := open(t, stored, nil, granted)
	require.NoError(t, err)
	require.Equal(t, "text", got)
	require.Len(t, recorded.bodies, 4)
	for _, body := range recorded.bodies {
		require.Contains(t, body, *grant.GrantToken)
	}
}

// A message has recipients in two Regions and a recovery key, whose public half the writer has.
// Each recipient decrypts it alone.
func TestRecipients(t *testing.T) {
	first, client, _ := newProvider(t)
	farClient, _ := newClientIn(t, "us-east-1")
	second, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, farClient, &kms.CreateKeyInput{}).KeyId, Client: farClient})
	require.NoError(t, err)
	public, private := newRSAPair(t)
	recovery, err := local.NewProvider(local.Config{Key: public, Name: "recovery"})
	require.NoError(t, err)
	recoverer, err := local.NewProvider(local.Config{Key: private, Name: "recovery"})
	require.NoError(t, err)
	stranger, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32), Name: "stranger"})
	require.NoError(t, err)

	stored, err := (&message.Encrypter{Keyring: first, Recipients: []provider.Wrapper{second, recovery}}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	for _, keyring := range []provider.Unwrapper{first, second, recoverer} {
		got, err := open(t, stored, nil, keyring)
		require.NoError(t, err)
		require.Equal(t, "text", got)
	}

	_, err = client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(first.KeyID())})
	require.NoError(t, err)
	got, err := open(t, stored, nil, first, recovery, second)
	require.NoError(t, err)
	require.Equal(t, "text", got)

	_, err = open(t, stored, nil, stranger, first, recovery)
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.NotErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, first.KeyID()+": encryption key disabled")
	require.ErrorContains(t, err, "key recovery: encryption key has the wrong usage: it is a public key; decrypting takes the private one")
	require.ErrorContains(t, err, "no provider is configured for \""+second.KeyID()+"\" of provider \"aws-kms\"")
}

// bodyRecorder keeps the bodies of requests.
type bodyRecorder struct {
	mu     sync.Mutex
	bodies []string
}

func (b *bodyRecorder) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.bodies = append(b.bodies, string(body))
	b.mu.Unlock()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return http.DefaultTransport.RoundTrip(r)
}
