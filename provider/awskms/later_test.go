package awskms_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// sealed returns a message under a key.
func sealed(t testing.TB, server *kmstest.Server, keyARN string) []byte {
	t.Helper()
	e := message.Encrypter{Keyring: later(t, server, keyARN)}
	stored, err := e.Encrypt(t.Context(), []byte("content"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	return stored
}

// opened decrypts what sealed made.
func opened(t testing.TB, stored []byte, keyrings ...provider.Unwrapper) error {
	t.Helper()
	d := message.Decrypter{Keyrings: keyrings}
	plaintext, _, err := d.Decrypt(t.Context(), stored, map[string]string{"tenant": "42"})
	if err == nil {
		require.Equal(t, "content", string(plaintext))
	}
	return err
}

func TestAProcessStartsWhileKMSIsDown(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store"})
	stored := sealed(t, server, key.ARN)
	for _, keyID := range []string{key.ARN, key.ID, "alias/store"} {
		server.Reset()
		server.Inject(kmstest.Fault{Do: kmstest.Error("KMSInternalException", "down")})
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1)})
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.ErrorContains(t, err, "checking the key in Region eu-west-1")
		server.Reset()

		p := later(t, server, keyID)
		require.Zero(t, server.Calls(""))
		require.Equal(t, keyID, p.KeyID())
		_, err = envelope.Seal(t.Context(), p, "x", nil)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.ErrorIs(t, opened(t, stored, p), provider.ErrProviderUnavailable)
		require.ErrorIs(t, provider.Check(t.Context(), p), provider.ErrProviderUnavailable)

		server.Heal() // and the same provider works
		require.NoError(t, opened(t, stored, p))
		_, err = envelope.Seal(t.Context(), p, "x", nil)
		require.NoError(t, err)
		require.NoError(t, provider.Check(t.Context(), p))
		require.Equal(t, key.ARN, p.KeyID())
	}
}

func TestReadingWithOneOfTwoKMSDown(t *testing.T) {
	up, down := kmstest.NewServer(t), kmstest.New()
	key := up.CreateKey(kmstest.Key{})
	gone := down.CreateKey(kmstest.Key{Alias: "alias/gone"})
	first := later(t, down, "alias/gone")
	down.Close()
	stored := sealed(t, up, key.ARN)
	for _, keyID := range []string{key.ARN, key.ID} {
		require.NoError(t, opened(t, stored, first, later(t, up, keyID)))
	}
	require.ErrorIs(t, opened(t, stored, later(t, up, gone.ARN)), provider.ErrUntrustedKey)
}

// The check of a key is one call for all that need it at the same time, and one for good.
func TestConcurrentFirstUsesShareOneCheck(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store"})
	p := later(t, server, "alias/store")
	release := make(chan struct{})
	server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		<-release
		next.ServeHTTP(w, r)
	}})
	const callers = 20
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			made, err := p.GenerateDataKey(t.Context(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if made.KeyID != key.ARN {
				t.Errorf("the key is %s", made.KeyID)
			}
			_ = made.Close()
		})
	}
	require.Eventually(t, func() bool { return server.Calls("DescribeKey") == 1 }, time.Minute, time.Millisecond)

	// A caller that gives up leaves the check to the others.
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error)
	go func() {
		_, err := p.GenerateDataKey(ctx, nil)
		impatient <- err
	}()
	cancel()
	err := <-impatient
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
	close(release)
	wg.Wait()
	require.Equal(t, 1, server.Calls("DescribeKey"))
	require.Equal(t, callers, server.Calls("GenerateDataKey"))
}

// When all callers have given up, nothing goes on, and the next caller asks anew.
func TestACheckEndsWithItsLastCaller(t *testing.T) {
	server := kmstest.NewServer(t)
	server.CreateKey(kmstest.Key{Alias: "alias/store"})
	p := later(t, server, "alias/store", func(c *awskms.Config) { c.Timeout = time.Hour })
	remove := server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: kmstest.Stall()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := envelope.Seal(ctx, p, "x", nil)
		done <- err
	}()
	require.Eventually(t, func() bool { return server.Calls("DescribeKey") == 1 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	remove()
	_, err := envelope.Seal(t.Context(), p, "x", nil)
	require.NoError(t, err)
	require.Equal(t, 2, server.Calls("DescribeKey"))
}

// A reader that knows the key's ARN needs kms:Decrypt and nothing else.
func TestDecryptingUnderAKeyARNNeedsNoDescribeKey(t *testing.T) {
	server := kmstest.NewServer(t)
	for _, spec := range []string{"SYMMETRIC_DEFAULT", "RSA_2048"} {
		key := server.CreateKey(kmstest.Key{Spec: spec})
		writer := later(t, server, key.ARN)
		stored := sealed(t, server, key.ARN)
		value, err := envelope.Seal(t.Context(), writer, "value", nil)
		require.NoError(t, err)
		remove := server.Inject(kmstest.Fault{When: func(r kmstest.Request) bool { return r.Operation != "Decrypt" }, Do: kmstest.Deny()})

		checked, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
		require.NoError(t, err)
		for _, p := range []provider.Provider{checked, later(t, server, key.ARN)} {
			server.Reset()
			require.NoError(t, opened(t, stored, p))
			got, err := envelope.Open(t.Context(), p, value.Ciphertext, nil)
			require.NoError(t, err)
			require.Equal(t, "value", got)
			require.Equal(t, 2, server.Calls(""))
			require.Equal(t, 2, server.Calls("Decrypt"))
		}
		remove()
	}
}

// A writer that knows the key's ARN needs kms:GenerateDataKey and nothing else.
func TestEncryptingUnderAKeyARNNeedsNoDescribeKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store"})
	rsa := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	server.Inject(kmstest.Fault{When: func(r kmstest.Request) bool { return r.Operation != "GenerateDataKey" }, Do: kmstest.Deny()})
	sealed(t, server, key.ARN)

	// A key ID or an alias is of no use to a reader before it is known which key that is.
	for _, keyID := range []string{key.ID, "alias/store"} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1)})
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, "kms:DescribeKey")
	}
	// An RSA key cannot be distinguished from a symmetric one.
	_, err := envelope.Seal(t.Context(), later(t, server, rsa.ARN), strings.Repeat("x", 5000), nil)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorContains(t, err, "with kms:DescribeKey permitted or the public key given")
}

// A message under a key of TrustedKeys is read while the provider's own key cannot be asked about.
func TestTrustedKeysDoNotWaitForTheOwnKey(t *testing.T) {
	server := kmstest.NewServer(t)
	server.CreateKey(kmstest.Key{Alias: "alias/new"})
	old := server.CreateKey(kmstest.Key{})
	stored := sealed(t, server, old.ARN)
	value, err := envelope.Seal(t.Context(), later(t, server, old.ARN), "value", nil)
	require.NoError(t, err)
	server.Inject(kmstest.Fault{Operation: "DescribeKey", Do: kmstest.Error("KMSInternalException", "down")})
	p := later(t, server, "alias/new", func(c *awskms.Config) { c.TrustedKeys = []string{old.ARN} })
	require.NoError(t, opened(t, stored, p))
	_, err = envelope.Open(t.Context(), p.Under(old.ARN), value.Ciphertext, nil)
	require.NoError(t, err)
	_, err = envelope.Open(t.Context(), p, value.Ciphertext, nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	server.Heal()
	_, err = envelope.Open(t.Context(), p, value.Ciphertext, nil)
	require.NoError(t, err)
}

// What no key of KMS wrapped asks nothing, whatever is known of the own key.
func TestForeignDataKeysAskNothing(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store"})
	p := later(t, server, "alias/store")
	for _, wrapped := range []header.EncryptedDataKey{
		{ProviderID: "piko", ProviderInfo: []byte(key.ARN)},
		{ProviderID: "aws-kms-hierarchy", ProviderInfo: []byte(key.ARN)},
		{ProviderID: "aws-kms", ProviderInfo: []byte("alias/store")},
		{ProviderID: "aws-kms", ProviderInfo: []byte(key.ID)},
		{ProviderID: "aws-kms-rsa", ProviderInfo: []byte("arn:aws:s3:::bucket")},
	} {
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
	require.Zero(t, server.Calls(""))
}

// A KMS that takes a connection and then says nothing, or stops in the middle, costs a bounded
// time.
func TestAKMSThatNeverAnswersIsWaitedForNoLongerThanTheTimeout(t *testing.T) {
	const timeout = time.Second // for an answer that comes, on a machine that is busy
	for name, action := range map[string]kmstest.Action{"stall": kmstest.Stall(), "half an answer": kmstest.HalfOpen()} {
		for operation, try := range map[string]func(context.Context, provider.Provider) error{
			"DescribeKey": func(ctx context.Context, p provider.Provider) error { _, err := p.GetKeyInfo(ctx, ""); return err },
			"GenerateDataKey": func(ctx context.Context, p provider.Provider) error {
				_, err := p.GenerateDataKey(ctx, nil)
				return err
			},
		} {
			t.Run(name+"/"+operation, func(t *testing.T) {
				t.Parallel()
				server := kmstest.NewServer(t)
				key := server.CreateKey(kmstest.Key{})
				p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 3), Timeout: timeout})
				require.NoError(t, err)
				server.Inject(kmstest.Fault{Operation: operation, Do: action})
				server.Reset()
				begin := time.Now()
				err = try(t.Context(), p)
				require.ErrorIs(t, err, provider.ErrProviderUnavailable)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "that would be the caller's")
				require.ErrorContains(t, err, "no whole answer of 127.0.0.1")
				require.ErrorContains(t, err, "within 1s")
				require.Equal(t, 3, server.Calls(operation), "a timeout is tried again")
				require.GreaterOrEqual(t, time.Since(begin), 3*timeout)

				// A caller's own end is not the service's.
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				err = try(ctx, p)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
			})
		}
	}
}

// A server that takes connections and does not speak: what a firewall or a hung process looks like.
func TestASilentEndpointIsWaitedForNoLongerThanTheTimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, err = awskms.NewProvider(t.Context(), awskms.Config{
		KeyID: "alias/store", Region: "eu-west-1", Endpoint: "http://" + listener.Addr().String(), Timeout: 20 * time.Millisecond, MaxRetries: 1,
	})
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	var failure *provider.EncryptionError
	require.True(t, errors.As(err, &failure))
	require.Equal(t, "alias/store", failure.KeyID)
}
