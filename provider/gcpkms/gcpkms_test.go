package gcpkms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/provider/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExported(t *testing.T) { exported.Test(t) }

// config is the configuration of a key of the test's Cloud KMS.
func config(server *gcpkmstest.Server, key string) gcpkms.Config {
	return gcpkms.Config{
		ProjectID: gcpkmstest.Project, Location: gcpkmstest.Location, KeyRing: gcpkmstest.KeyRing, KeyName: key[strings.LastIndex(key, "/")+1:],
		Endpoint: server.URL,
	}
}

// ability is what the result of NewProvider can do.
type ability interface {
	provider.KeySelector
	provider.DirectEncrypter
	provider.PikoV2Keyring
}

func open(t *testing.T, c gcpkms.Config) ability {
	t.Helper()
	p, err := gcpkms.NewProvider(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p.(ability)
}

// envelope is Piko's envelope of a string.
type envelope struct {
	KeyID      string `json:"key_id"`
	Provider   string `json:"provider"`
	Ciphertext string `json:"ct"`
	Version    int    `json:"v"`
}

func newHost(t testing.TB, p provider.EncryptionProvider) *pikokms.Host {
	t.Helper()
	host, err := pikokms.New(pikokms.WithCryptoProvider("kms", p))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, host.Close()) })
	return host
}

func sealString(t testing.TB, p provider.EncryptionProvider, plaintext string, pairs map[string]string) (e envelope, err error) {
	t.Helper()
	text, err := newHost(t, p).Encrypt(t.Context(), plaintext, pairs)
	if err != nil {
		return e, err
	}
	object, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(object, &e))
	return e, nil
}

func openString(t testing.TB, p provider.EncryptionProvider, ciphertext string, pairs map[string]string) (string, error) {
	t.Helper()
	object, err := json.Marshal(envelope{"key", string(p.Type()), ciphertext, 1})
	require.NoError(t, err)
	return newHost(t, p).Decrypt(t.Context(), base64.StdEncoding.EncodeToString(object), pairs)
}

func TestConformance(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	one, two := server.CreateKey(gcpkmstest.Key{}), server.CreateKey(gcpkmstest.Key{HSM: true})
	opener := func(key string) func(t *testing.T) provider.EncryptionProvider {
		return func(t *testing.T) provider.EncryptionProvider { return open(t, config(server, key)) }
	}
	t.Run("software", func(t *testing.T) { providertest.Run(t, opener(one), opener(two)) })
	t.Run("HSM", func(t *testing.T) { providertest.Run(t, opener(two), opener(one)) })
}

// What a message says of its key is written down in docs/FORMAT.md.
func TestFormat(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{Name: "app-data"})
	p := open(t, config(server, key))
	pairs := map[string]string{"tenant": "42", "a": "b"}
	server.Reset()
	sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("hello"), pairs)
	require.NoError(t, err)
	require.Equal(t, 1, server.Calls(""), "one call for a message")
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	require.Len(t, h.EncryptedDataKeys, 1)
	wrapped := h.EncryptedDataKeys[0]
	require.Equal(t, "gcp-kms", wrapped.ProviderID)
	require.Equal(t, "projects/test-project/locations/europe-west1/keyRings/test-ring/cryptoKeys/app-data", string(wrapped.ProviderInfo))

	// Google's own client opens the ciphertext with the serialised encryption context.
	client, err := kms.NewKeyManagementClient(t.Context(), server.Options()...)
	require.NoError(t, err)
	defer client.Close()
	opened, err := client.Decrypt(t.Context(), &kmspb.DecryptRequest{
		Name: key, Ciphertext: wrapped.Ciphertext,
		AdditionalAuthenticatedData: []byte("\x00\x02\x00\x01a\x00\x01b\x00\x06tenant\x00\x0242"),
	})
	require.NoError(t, err)
	require.Len(t, opened.Plaintext, 32)
	require.NotContains(t, string(sealed), string(opened.Plaintext))
}

func TestOnlyTrustedKeysAreAskedAbout(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	own, other := server.CreateKey(gcpkmstest.Key{}), server.CreateKey(gcpkmstest.Key{})
	sealed, err := (&message.Encrypter{Keyring: open(t, config(server, other))}).Encrypt(t.Context(), []byte("hello"), nil)
	require.NoError(t, err)
	decrypt := func(p provider.Provider) error {
		_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
		return err
	}

	p := open(t, config(server, own))
	server.Reset()
	require.ErrorIs(t, decrypt(p), provider.ErrUntrustedKey)
	_, err = openString(t, p.Under(other), "AAAA", nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, "TrustedKeys")
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	for _, info := range []string{own + "/cryptoKeyVersions/1", own + " ", strings.ToUpper(own), "//cloudkms.googleapis.com/" + own, ""} {
		wrapped := h.EncryptedDataKeys[0]
		wrapped.ProviderInfo = []byte(info)
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
	require.Zero(t, server.Calls(""))

	c := config(server, own)
	c.TrustedKeys = []string{other}
	require.NoError(t, decrypt(open(t, c)))

	_, err = sealString(t, p.Under(other), "x", nil)
	require.NoError(t, err)
	require.NoError(t, decrypt(p), "a key that a request to encrypt named is trusted")
}

func TestKeyIDs(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	own, other := server.CreateKey(gcpkmstest.Key{Name: "own"}), server.CreateKey(gcpkmstest.Key{Name: "other"})
	p := open(t, config(server, own))
	for keyID, want := range map[string]string{"": own, "own": own, own: own, own + "/cryptoKeyVersions/1": own, other: other, other + "/cryptoKeyVersions/1": other} {
		for _, size := range []int{1, 5000} {
			plaintext := strings.Repeat("p", size)
			encrypted, err := sealString(t, p.Under(keyID), plaintext, nil)
			require.NoError(t, err)
			require.Equal(t, want, encrypted.KeyID)
			for _, named := range []string{keyID, encrypted.KeyID, encrypted.KeyID + "/cryptoKeyVersions/1"} {
				decrypted, err := openString(t, p.Under(named), encrypted.Ciphertext, nil)
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted)
			}
			if keyID == "" { // then the trusted keys are tried
				decrypted, err := openString(t, p, encrypted.Ciphertext, nil)
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted)
			}
		}
	}
}

// Whoever closes a provider of Under closes nothing of the one that it comes from.
func TestCloseOfAnotherKey(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	own, other := server.CreateKey(gcpkmstest.Key{Name: "own"}), server.CreateKey(gcpkmstest.Key{Name: "other"})
	p := open(t, config(server, own))
	for _, keyID := range []string{"", own, other} {
		require.NoError(t, p.Under(keyID).Close())
		require.NoError(t, provider.Check(t.Context(), p), keyID)
	}
}

// Old versions decrypt what they encrypted, until they are disabled or destroyed.
func TestVersions(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	p := open(t, config(server, key))
	seal := func() []byte {
		sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("hello"), nil)
		require.NoError(t, err)
		return sealed
	}
	decrypt := func(sealed []byte) error {
		_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
		return err
	}
	old := seal()
	require.Equal(t, 2, server.Rotate(key))
	current := seal()
	require.NoError(t, decrypt(old))
	require.NoError(t, decrypt(current))
	other := message.Encrypter{Keyring: p.Under(server.CreateKey(gcpkmstest.Key{Name: "another"}))}
	elsewhere, wrapErr := other.Encrypt(t.Context(), []byte("content"), nil)
	require.NoError(t, wrapErr)
	for i, sealed := range [][]byte{elsewhere, current} {
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		got, err := other.IsCurrent(t.Context(), h, nil)
		require.NoError(t, err)
		require.Equal(t, i == 0, got)
	}
	for _, c := range []struct {
		sealed    []byte
		isCurrent bool
	}{{old, false}, {current, true}} {
		h, _, err := header.Parse(c.sealed, header.Limits{})
		require.NoError(t, err)
		server.Reset()
		got, err := (&message.Encrypter{Keyring: p}).IsCurrent(t.Context(), h, nil)
		require.NoError(t, err)
		require.Equal(t, c.isCurrent, got)
		require.Equal(t, 1, server.Calls(""))
		h.EncryptedDataKeys[0].Ciphertext[0] ^= 1
		got, err = (&message.Encrypter{Keyring: p}).IsCurrent(t.Context(), h, nil)
		require.NoError(t, err, "decryption tells what is wrong")
		require.False(t, got)
	}

	for _, c := range []struct {
		state    kmspb.CryptoKeyVersion_CryptoKeyVersionState
		sentinel error
		text     string
	}{
		{kmspb.CryptoKeyVersion_DISABLED, provider.ErrKeyDisabled, "enable it"},
		{kmspb.CryptoKeyVersion_PENDING_GENERATION, provider.ErrKeyDisabled, "in a few moments"},
		{kmspb.CryptoKeyVersion_PENDING_IMPORT, provider.ErrKeyDisabled, "imported"},
		{kmspb.CryptoKeyVersion_IMPORT_FAILED, provider.ErrKeyDisabled, "another version"},
		{kmspb.CryptoKeyVersion_GENERATION_FAILED, provider.ErrKeyDisabled, "another version"},
		{kmspb.CryptoKeyVersion_DESTROY_SCHEDULED, provider.ErrKeyPendingDeletion, "restore"},
		{kmspb.CryptoKeyVersion_PENDING_EXTERNAL_DESTRUCTION, provider.ErrKeyNotFound, "destroyed"},
		{kmspb.CryptoKeyVersion_EXTERNAL_DESTRUCTION_FAILED, provider.ErrKeyNotFound, "destroyed"},
		{kmspb.CryptoKeyVersion_CryptoKeyVersionState(77), provider.ErrKeyDisabled, "state"},
		{kmspb.CryptoKeyVersion_DESTROYED, provider.ErrKeyNotFound, "destroyed"},
	} {
		t.Run(c.state.String(), func(t *testing.T) {
			server.SetState(key, 1, c.state)
			err := decrypt(old)
			require.ErrorIs(t, err, c.sentinel)
			require.ErrorContains(t, err, c.text)
			require.NoError(t, decrypt(current))

			server.SetState(key, 2, c.state)
			info, err := p.GetKeyInfo(t.Context(), "")
			require.NoError(t, err)
			require.ErrorIs(t, info.Err, c.sentinel)
			require.Equal(t, key+"/cryptoKeyVersions/2", info.Metadata["primary_version"])
			require.Equal(t, c.state.String(), info.Metadata["primary_state"])
			require.Equal(t, c.state == kmspb.CryptoKeyVersion_DESTROY_SCHEDULED, info.DeletionDate != nil)
			_, err = p.GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, c.sentinel)
			_, err = gcpkms.NewProvider(t.Context(), config(server, key))
			require.ErrorIs(t, err, c.sentinel)
			require.ErrorContains(t, err, c.text)
			server.SetState(key, 2, kmspb.CryptoKeyVersion_ENABLED)
		})
	}

	server.Inject(kmstest.Fault{Operation: "GetCryptoKey", Do: corrupted(func(a *kmspb.CryptoKey) { a.Primary = nil })})
	server.Inject(kmstest.Fault{Operation: "Encrypt", Do: gcpkmstest.Error(codes.FailedPrecondition, "CryptoKey has no primary version.")})
	_, err := gcpkms.NewProvider(t.Context(), config(server, key))
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
	require.ErrorContains(t, err, "no primary version")
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
}

func TestPikosDataKeysAndStrings(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	p := open(t, config(server, key))
	client, err := kms.NewKeyManagementClient(t.Context(), server.Options()...)
	require.NoError(t, err)
	defer client.Close()
	theirs := func(plaintext string) string {
		answer, err := client.Encrypt(t.Context(), &kmspb.EncryptRequest{Name: key, Plaintext: []byte(plaintext)})
		require.NoError(t, err)
		return base64.StdEncoding.EncodeToString(answer.Ciphertext)
	}

	unwrapped, err := p.UnwrapPikoV2(t.Context(), theirs(strings.Repeat("k", 32)))
	require.NoError(t, err)
	require.NoError(t, unwrapped.WithAccess(func(raw []byte) error {
		require.Equal(t, strings.Repeat("k", 32), string(raw))
		return nil
	}))
	require.NoError(t, unwrapped.Close())
	for _, bad := range []string{"", "*", theirs("short")} {
		_, err = p.UnwrapPikoV2(t.Context(), bad)
		require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	}
	_, err = p.UnwrapPikoV2(t.Context(), "AAAAAAAA")
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	decrypted, err := openString(t, p, theirs("before"), nil)
	require.NoError(t, err)
	require.Equal(t, "before", decrypted)
	ours, err := sealString(t, p, "after", nil)
	require.NoError(t, err)
	ciphertext, err := base64.StdEncoding.DecodeString(ours.Ciphertext)
	require.NoError(t, err)
	opened, err := client.Decrypt(t.Context(), &kmspb.DecryptRequest{Name: key, Ciphertext: ciphertext})
	require.NoError(t, err)
	require.Equal(t, "after", string(opened.Plaintext))
}

// A string that Cloud KMS encrypted is no data key of an object, and the other way round.
func TestUsesAreKeptApart(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	p := open(t, config(server, server.CreateKey(gcpkmstest.Key{})))
	encrypted, err := sealString(t, p, strings.Repeat("k", 32), nil)
	require.NoError(t, err)
	chosen, err := base64.StdEncoding.DecodeString(encrypted.Ciphertext)
	require.NoError(t, err)
	for _, use := range []string{provider.UseObject, provider.UseString, provider.UseStream} {
		pairs := map[string]string{provider.PairUse: use}
		_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{
			EncryptedKey: header.EncryptedDataKey{ProviderID: "gcp-kms", ProviderInfo: []byte(p.KeyID()), Ciphertext: chosen},
			Context:      pairs, Size: 32,
		})
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)

		made, err := p.GenerateDataKey(t.Context(), pairs)
		require.NoError(t, err)
		require.NoError(t, made.Close())
		_, err = openString(t, p, base64.StdEncoding.EncodeToString(made.EncryptedKey.Ciphertext), nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		_, err = openString(t, p, base64.StdEncoding.EncodeToString(made.EncryptedKey.Ciphertext), pairs)
		require.ErrorIs(t, err, provider.ErrContextMismatch)
		_, err = sealString(t, p, "x", pairs)
		require.ErrorIs(t, err, header.ErrInvalidContext)
	}
}

func TestClosed(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	p, err := gcpkms.NewProvider(t.Context(), config(server, server.CreateKey(gcpkmstest.Key{})))
	require.NoError(t, err)
	require.NoError(t, p.Close())
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrClosed)
}

// corrupted changes the answers of a method.
func corrupted[T proto.Message](change func(T)) kmstest.Action {
	return gcpkmstest.Intercept(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		answer, err := next(ctx, request)
		if err == nil {
			change(answer.(T))
		}
		return answer, err
	})
}

// changed changes the requests of a method.
func changed[T proto.Message](change func(T)) kmstest.Action {
	return gcpkmstest.Intercept(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		change(request.(T))
		return next(ctx, request)
	})
}

func TestDamagedOnTheWay(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	c := config(server, server.CreateKey(gcpkmstest.Key{}))
	c.MaxRetries = 1
	p := open(t, c)
	pairs := map[string]string{"tenant": "42"}
	made, err := p.GenerateDataKey(t.Context(), pairs)
	require.NoError(t, err)
	defer made.Close()

	for name, fault := range map[string]kmstest.Fault{
		"ciphertext":             {Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.Ciphertext[7] ^= 1 })},
		"its checksum":           {Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.CiphertextCrc32C.Value++ })},
		"no checksum":            {Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.CiphertextCrc32C = nil })},
		"plaintext not verified": {Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.VerifiedPlaintextCrc32C = false })},
		"context not verified":   {Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.VerifiedAdditionalAuthenticatedDataCrc32C = false })},
		"plaintext sent":         {Operation: "Encrypt", Do: changed(func(r *kmspb.EncryptRequest) { r.Plaintext[3] ^= 1 })},
		"context sent":           {Operation: "Encrypt", Do: changed(func(r *kmspb.EncryptRequest) { r.AdditionalAuthenticatedData[3] ^= 1 })},
		"plaintext":              {Operation: "Decrypt", Do: corrupted(func(a *kmspb.DecryptResponse) { a.Plaintext[7] ^= 1 })},
		"plaintext cut":          {Operation: "Decrypt", Do: corrupted(func(a *kmspb.DecryptResponse) { a.Plaintext = a.Plaintext[:31] })},
		"plaintext's checksum":   {Operation: "Decrypt", Do: corrupted(func(a *kmspb.DecryptResponse) { a.PlaintextCrc32C = nil })},
		"ciphertext sent":        {Operation: "Decrypt", Do: changed(func(r *kmspb.DecryptRequest) { r.Ciphertext[9] ^= 1 })},
	} {
		t.Run(name, func(t *testing.T) {
			ask := func() error {
				if fault.Operation == "Encrypt" {
					again, err := p.GenerateDataKey(t.Context(), pairs)
					if err == nil {
						require.NoError(t, again.Close())
					}
					return err
				}
				got, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: pairs, Size: 32})
				if err == nil {
					require.NoError(t, got.Close())
				}
				return err
			}
			// For ever: the call is made twice.
			remove := server.Inject(fault)
			server.Reset()
			err := ask()
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			require.ErrorContains(t, err, "damaged on the way")
			require.Equal(t, 2, server.Calls(fault.Operation))
			remove()

			// Once: the second call gets through.
			once := fault
			once.Times = 1
			remove = server.Inject(once)
			require.NoError(t, ask())
			remove()
		})
	}

	remove := server.Inject(kmstest.Fault{Operation: "Encrypt", Do: corrupted(func(a *kmspb.EncryptResponse) { a.Name = "projects/x" })})
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrEncryptionFailed)
	require.ErrorContains(t, err, "answered about")
	remove()
	server.Inject(kmstest.Fault{Operation: "GetCryptoKey", Do: corrupted(func(a *kmspb.CryptoKey) { a.Name = "projects/x" })})
	_, err = p.GetKeyInfo(t.Context(), "")
	require.ErrorIs(t, err, provider.ErrInvalidKey)
}

func TestLatency(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	c := config(server, server.CreateKey(gcpkmstest.Key{}))
	c.MaxRetries, c.Timeout = 1, time.Second
	p := open(t, c)
	server.Inject(kmstest.Fault{Do: kmstest.Delay(time.Hour)})
	server.Reset()
	_, err := p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.False(t, errors.Is(err, context.DeadlineExceeded), "that is not the caller's deadline")
	require.ErrorContains(t, err, "no answer within 1s")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = p.GenerateDataKey(ctx, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, errors.Is(err, provider.ErrProviderUnavailable))
}

// No error shows a plaintext or a data key, whatever Cloud KMS answers.
func TestErrorsHoldNoSecret(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	p := open(t, config(server, server.CreateKey(gcpkmstest.Key{})))
	for _, code := range []codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound} {
		var sent []byte
		remove := server.Inject(kmstest.Fault{Operation: "Encrypt", Do: gcpkmstest.Intercept(func(_ context.Context, request any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			sent = bytes.Clone(request.(*kmspb.EncryptRequest).Plaintext)
			return nil, status.Error(code, "refused")
		})})
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.Error(t, err)
		require.NotContains(t, err.Error(), string(sent))
		require.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString(sent))
		remove()
	}
}
