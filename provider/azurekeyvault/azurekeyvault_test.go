package azurekeyvault_test

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
	"piko.sh/pikokms/provider/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExported(t *testing.T) { exported.Test(t) }

// config is the configuration of a key of the test's vault, which asks for no token.
func config(server *azurekeyvaulttest.Server, key string) azurekeyvault.Config {
	return azurekeyvault.Config{Vault: azurekeyvaulttest.Vault, Key: key, Endpoint: server.URL}
}

// newClient returns Azure's client of the test's vault, without a network.
func newClient(t testing.TB, server *azurekeyvaulttest.Server) *azkeys.Client {
	t.Helper()
	client, err := azkeys.NewClient("http://vault.test", nil, &azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: inProcess{server}}})
	require.NoError(t, err)
	return client
}

// setAttributes sets attributes of a version of a key.
func setAttributes(t testing.TB, server *azurekeyvaulttest.Server, name, version string, a azkeys.KeyAttributes) {
	t.Helper()
	_, err := newClient(t, server).UpdateKey(t.Context(), name, version, azkeys.UpdateKeyParameters{KeyAttributes: &a}, nil)
	require.NoError(t, err)
}

func open(t testing.TB, c azurekeyvault.Config) provider.Provider {
	t.Helper()
	p, err := azurekeyvault.NewProvider(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// kinds are the kinds of keys that wrap data keys.
var kinds = []azurekeyvaulttest.Key{{Type: "RSA"}, {Type: "RSA-HSM", Bits: 3072}, {Type: "oct-HSM"}}

func TestConformance(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.Type, func(t *testing.T) {
			server := azurekeyvaulttest.NewServer(t)
			one, two := server.CreateKey(kind), server.CreateKey(kind)
			opener := func(key string) func(t *testing.T) provider.EncryptionProvider {
				return func(t *testing.T) provider.EncryptionProvider { return open(t, guard(t, server).config(key)) }
			}
			providertest.Run(t, opener(one), opener(two))
		})
	}
}

func seal(t testing.TB, p provider.Keyring, pairs map[string]string) []byte {
	t.Helper()
	sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("hello"), pairs)
	require.NoError(t, err)
	return sealed
}

func unseal(t testing.TB, p provider.Keyring, sealed []byte) error {
	t.Helper()
	plaintext, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
	if err == nil {
		require.Equal(t, "hello", string(plaintext))
	}
	return err
}

func wrappedOf(t testing.TB, sealed []byte) header.EncryptedDataKey {
	t.Helper()
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	require.Len(t, h.EncryptedDataKeys, 1)
	return h.EncryptedDataKeys[0]
}

// What a message says of its key is written down in docs/FORMAT.md. Azure's own client opens it.
func TestFormat(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	client, err := azkeys.NewClient(server.URL, nil, nil)
	require.NoError(t, err)
	for _, c := range []struct {
		kind      azurekeyvaulttest.Key
		algorithm azkeys.EncryptionAlgorithm
		size      int
		calls     int // for a message, once the version is known
	}{
		{azurekeyvaulttest.Key{Name: "App-Data"}, azkeys.EncryptionAlgorithmRSAOAEP256, 256, 0},
		{azurekeyvaulttest.Key{Name: "App-HSM", Type: "oct-HSM"}, azkeys.EncryptionAlgorithmA256KW, 88, 1},
	} {
		name := server.CreateKey(c.kind)
		p := open(t, config(server, name))
		server.Reset()
		sealed := seal(t, p, map[string]string{"tenant": "42", "a": "b"})
		require.Equal(t, c.calls, server.Calls(""))
		wrapped := wrappedOf(t, sealed)
		require.Equal(t, "azure-key-vault", wrapped.ProviderID)
		id := "https://test-vault.vault.azure.net/keys/" + strings.ToLower(name)
		version := server.Versions(name)[0]
		require.Equal(t, id+"/"+version, string(wrapped.ProviderInfo))
		require.Equal(t, id, message.KeyName(wrapped))
		require.Equal(t, version, message.KeyVersion(wrapped))
		require.Len(t, wrapped.Ciphertext, c.size)

		unwrapped, err := client.UnwrapKey(t.Context(), name, version, azkeys.KeyOperationParameters{Algorithm: &c.algorithm, Value: wrapped.Ciphertext}, nil)
		require.NoError(t, err)
		require.Len(t, unwrapped.Result, 48+32)
		context := sha512.Sum384([]byte("\x00\x02\x00\x01a\x00\x01b\x00\x06tenant\x00\x0242"))
		require.Equal(t, context[:], unwrapped.Result[:48])
		require.NotContains(t, string(sealed), string(unwrapped.Result[48:]))
		server.Reset()
		require.NoError(t, unseal(t, p, sealed))
		require.Equal(t, 1, server.Calls(""), "one call for a message")
	}
}

// Whichever byte of a data key is changed, it is refused.
func TestChangedDataKeys(t *testing.T) {
	race.SkipShort(t)
	for _, kind := range kinds {
		t.Run(kind.Type, func(t *testing.T) {
			server := azurekeyvaulttest.NewServer(t)
			p := open(t, config(server, server.CreateKey(kind)))
			pairs := map[string]string{"tenant": "42"}
			made, err := p.GenerateDataKey(t.Context(), pairs)
			require.NoError(t, err)
			require.NoError(t, made.Close())
			adversary.ChangedDataKeys(t, p, made.EncryptedKey, pairs)
			for _, n := range []int{0, 1, 8, 80, 87, 88, 89, 255, 257, 70_000} {
				changed := made.EncryptedKey
				changed.Ciphertext = make([]byte, n)
				_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: changed, Context: pairs, Size: 32})
				require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			}
		})
	}
}

func TestOnlyTheConfiguredKeyIsAskedAbout(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	own, other := server.CreateKey(azurekeyvaulttest.Key{}), server.CreateKey(azurekeyvaulttest.Key{})
	p := open(t, config(server, own))
	sealed := seal(t, open(t, config(server, other)), nil)
	wrapped := wrappedOf(t, seal(t, p, nil))
	server.Reset()
	require.ErrorIs(t, unseal(t, p, sealed), provider.ErrUntrustedKey)
	version := server.Versions(own)[0]
	for _, info := range []string{
		"", p.KeyID(), p.KeyID() + "/", p.KeyID() + "/" + version + "/", p.KeyID() + "/" + strings.ToUpper(version[:31]) + "G", p.KeyID() + "/../" + other + "/" + version,
		p.KeyID() + "/" + version[:31], strings.Replace(string(wrapped.ProviderInfo), "test-vault", "evil-vault", 1), "https://evil.example/keys/" + own + "/" + version,
		strings.Replace(string(wrapped.ProviderInfo), "https:", "http:", 1),
	} {
		changed := wrapped
		changed.ProviderInfo = []byte(info)
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: changed, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey, info)
		current, err := p.IsCurrent(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: changed, Size: 32})
		require.NoError(t, err)
		require.False(t, current)
	}
	require.Zero(t, server.Calls(""))
	changed := wrapped
	changed.ProviderInfo = []byte(p.KeyID() + "/" + strings.Repeat("0", 32))
	_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: changed, Size: 32})
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	changed = wrappedOf(t, sealed)
	changed.ProviderInfo = wrapped.ProviderInfo
	_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: changed, Size: 32})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed, "under another key than it says")
}

// Each version decrypts what it encrypted. A provider encrypts under the version that is
// configured, or under the one that was current when it asked.
func TestVersions(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.Type, func(t *testing.T) {
			server := azurekeyvaulttest.NewServer(t)
			name := server.CreateKey(kind)
			first := server.Versions(name)[0]
			p := open(t, config(server, name))
			old := seal(t, p, nil)
			second := server.Rotate(name)
			require.Equal(t, first, message.KeyVersion(wrappedOf(t, seal(t, p, nil))), "it is pinned")
			renewed := open(t, config(server, name))
			current := seal(t, renewed, nil)
			require.Equal(t, second, message.KeyVersion(wrappedOf(t, current)))
			c := config(server, name)
			c.Version = strings.ToUpper(first)
			named := open(t, c)
			require.Equal(t, first, message.KeyVersion(wrappedOf(t, seal(t, named, nil))))
			for _, p := range []provider.Provider{p, renewed, named} {
				require.NoError(t, unseal(t, p, old))
				require.NoError(t, unseal(t, p, current))
			}
			for _, c := range []struct {
				p            provider.Provider
				old, current bool
			}{{renewed, false, true}, {named, true, false}} {
				for sealed, want := range map[string]bool{string(old): c.old, string(current): c.current} {
					got, err := c.p.IsCurrent(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrappedOf(t, []byte(sealed)), Size: 32})
					require.NoError(t, err)
					require.Equal(t, want, got)
				}
			}

			setAttributes(t, server, name, first, azkeys.KeyAttributes{Enabled: to.Ptr(false)})
			err := unseal(t, renewed, old)
			require.ErrorIs(t, err, provider.ErrKeyDisabled)
			require.ErrorContains(t, err, "enable it")
			require.NoError(t, unseal(t, renewed, current))
			c.Version = first
			_, err = azurekeyvault.NewProvider(t.Context(), c)
			require.ErrorIs(t, err, provider.ErrKeyDisabled)
			c.Version = strings.Repeat("0", 32)
			_, err = azurekeyvault.NewProvider(t.Context(), c)
			require.ErrorIs(t, err, provider.ErrKeyNotFound)
		})
	}
}

// What has expired, or is not valid yet, still decrypts, and is refused for encryption before
// anything is encrypted. So is a disabled version.
func TestAttributes(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for _, kind := range kinds {
		for text, c := range map[string]struct {
			attributes azkeys.KeyAttributes
			decrypts   bool
		}{
			"disabled":         {azkeys.KeyAttributes{Enabled: to.Ptr(false)}, false},
			"expired at":       {azkeys.KeyAttributes{Expires: &past}, true},
			"not valid before": {azkeys.KeyAttributes{NotBefore: &future}, true},
		} {
			t.Run(kind.Type+" "+text, func(t *testing.T) {
				server := azurekeyvaulttest.NewServer(t)
				name := server.CreateKey(kind)
				p := open(t, config(server, name))
				sealed := seal(t, p, nil)
				setAttributes(t, server, name, server.Versions(name)[0], c.attributes)
				_, err := azurekeyvault.NewProvider(t.Context(), config(server, name))
				require.ErrorIs(t, err, provider.ErrKeyDisabled)
				require.ErrorContains(t, err, text)
				later := config(server, name)
				later.CheckLater = true
				refused := open(t, later)
				_, err = refused.GenerateDataKey(t.Context(), nil)
				require.ErrorIs(t, err, provider.ErrKeyDisabled)
				require.ErrorContains(t, err, text)
				if c.decrypts {
					require.NoError(t, unseal(t, refused, sealed))
				} else {
					require.ErrorIs(t, unseal(t, refused, sealed), provider.ErrKeyDisabled)
				}
				info, err := refused.GetKeyInfo(t.Context(), "")
				require.NoError(t, err)
				require.ErrorIs(t, info.Err, provider.ErrKeyDisabled)
				if kind.Type == "oct-HSM" { // the vault itself is asked to wrap
					_, err = p.GenerateDataKey(t.Context(), nil)
					require.ErrorIs(t, err, provider.ErrKeyDisabled)
				}
				setAttributes(t, server, name, server.Versions(name)[0], azkeys.KeyAttributes{Enabled: to.Ptr(true), NotBefore: &past, Expires: &future})
				require.NoError(t, unseal(t, open(t, config(server, name)), sealed))
			})
		}
	}
}

// A deleted key can be recovered, and a purged one is gone.
func TestDeletedKeys(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.Type, func(t *testing.T) {
			server := azurekeyvaulttest.NewServer(t)
			name := server.CreateKey(kind)
			p := open(t, config(server, name))
			sealed := seal(t, p, nil)
			client := newClient(t, server)
			_, err := client.DeleteKey(t.Context(), name, nil)
			require.NoError(t, err)
			check := func(sentinel error, text string) {
				t.Helper()
				_, opened := azurekeyvault.NewProvider(t.Context(), config(server, name))
				_, described := p.GetKeyInfo(t.Context(), p.KeyID())
				for _, err := range []error{unseal(t, p, sealed), opened, described} {
					require.ErrorIs(t, err, sentinel)
					require.ErrorContains(t, err, text)
				}
			}
			check(provider.ErrKeyPendingDeletion, "recover it before "+time.Now().UTC().AddDate(0, 0, 90).Format("2006-01-02"))
			remove := server.Inject(kmstest.Fault{Operation: "GetDeletedKey", Do: azurekeyvaulttest.Error(403, "Forbidden", "ForbiddenByRbac", "refused")})
			check(provider.ErrKeyNotFound, p.KeyID())
			remove()
			_, err = client.RecoverDeletedKey(t.Context(), name, nil)
			require.NoError(t, err)
			require.NoError(t, unseal(t, p, sealed))
			_, err = client.DeleteKey(t.Context(), name, nil)
			require.NoError(t, err)
			_, err = client.PurgeDeletedKey(t.Context(), name, nil)
			require.NoError(t, err)
			check(provider.ErrKeyNotFound, p.KeyID())
		})
	}
}

func TestRefusedKeys(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	for text, kind := range map[string]azurekeyvaulttest.Key{
		`type "EC"`:          {Type: "EC"},
		"lack wrapKey or":    {Ops: []string{"encrypt", "decrypt", "unwrapKey"}},
		"or unwrapKey":       {Ops: []string{"wrapKey"}},
		"modulus has 1024":   {Bits: 1024},
		"lack wrapKey or un": {Type: "oct-HSM", Ops: []string{"encrypt"}},
	} {
		sentinel := provider.ErrKeyUsage
		if kind.Bits != 0 {
			sentinel = provider.ErrInvalidKey
		}
		c := config(server, server.CreateKey(kind))
		_, err := azurekeyvault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, sentinel)
		require.ErrorContains(t, err, text)
		c.CheckLater = true
		_, err = open(t, c).GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, sentinel)
	}
	// A key that lost an operation after it had encrypted.
	name := server.CreateKey(azurekeyvaulttest.Key{})
	sealed := seal(t, open(t, config(server, name)), nil)
	defer server.Inject(kmstest.Fault{Operation: "UnwrapKey", Do: azurekeyvaulttest.Error(403, "Forbidden", "KeyOperationForbidden", "Operation unwrapKey is not permitted on this key.")})()
	err := unseal(t, open(t, config(server, name)), sealed)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorContains(t, err, "unwrapKey")
}

func TestClosed(t *testing.T) {
	for _, kind := range kinds {
		server := azurekeyvaulttest.NewServer(t)
		p, err := azurekeyvault.NewProvider(t.Context(), config(server, server.CreateKey(kind)))
		require.NoError(t, err)
		sealed := seal(t, p, nil)
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		_, err = p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrClosed)
		require.ErrorIs(t, unseal(t, p, sealed), provider.ErrClosed)
	}
}

// inProcess is a transport without a network, for tests with their own clock.
type inProcess struct{ http.Handler }

func (h inProcess) Do(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if r.Body != nil {
		if err := r.Body.Close(); err != nil {
			return nil, err
		}
	}
	return w.Result(), r.Context().Err()
}

// Within an hour, a provider encrypts under the new version of a key.
func TestTheCurrentVersionIsAskedForOnceAnHour(t *testing.T) {
	for _, kind := range kinds {
		server := azurekeyvaulttest.NewServer(t)
		name := server.CreateKey(kind)
		first := server.Versions(name)[0]
		synctest.Test(t, func(t *testing.T) {
			c := config(server, name)
			c.Endpoint, c.Transport = "http://vault.test", inProcess{server}
			p := open(t, c)
			second := server.Rotate(name)
			underVersion := func() string { return message.KeyVersion(wrappedOf(t, seal(t, p, nil))) }
			time.Sleep(59 * time.Minute)
			require.Equal(t, first, underVersion())
			require.Equal(t, 1, server.Calls("GetKey"))
			time.Sleep(time.Minute)
			require.Equal(t, second, underVersion())
			require.Equal(t, second, underVersion())
			require.Equal(t, 2, server.Calls("GetKey"))

			// A version that expires before is replaced at once.
			setAttributes(t, server, name, second, azkeys.KeyAttributes{Expires: to.Ptr(time.Now().Add(70 * time.Minute))})
			time.Sleep(time.Hour)
			require.Equal(t, second, underVersion())
			time.Sleep(10 * time.Minute)
			_, err := p.GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, provider.ErrKeyDisabled)
			third := server.Rotate(name)
			require.Equal(t, third, underVersion())
		})
	}
}

// A vault that is asked too much says when to ask again. The provider waits as long, and not longer
// than its caller.
func TestThrottling(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	name := server.CreateKey(azurekeyvaulttest.Key{})
	sealed := seal(t, open(t, config(server, name)), nil)
	synctest.Test(t, func(t *testing.T) {
		c := config(server, name)
		c.Endpoint, c.Transport, c.MaxRetries = "http://vault.test", inProcess{server}, 1
		p := open(t, c)
		server.Reset()
		remove := server.Inject(kmstest.Fault{Operation: "UnwrapKey", Times: 1, Do: azurekeyvaulttest.Throttle(17)})
		start := time.Now()
		require.NoError(t, unseal(t, p, sealed))
		require.Equal(t, 17*time.Second, time.Since(start))
		require.Equal(t, 2, server.Calls("UnwrapKey"))
		remove()

		defer server.Inject(kmstest.Fault{Operation: "UnwrapKey", Do: azurekeyvaulttest.Throttle(17)})()
		server.Reset()
		start = time.Now()
		var attempts failures
		ctx := provider.WithTrace(t.Context(), &attempts)
		_, err := p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrappedOf(t, sealed), Size: 32})
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.ErrorContains(t, err, "too many requests")
		require.Equal(t, 17*time.Second, time.Since(start))
		require.Equal(t, 2, server.Calls("UnwrapKey"), "MaxRetries is 1")
		require.Len(t, attempts, 2)
		require.ErrorContains(t, attempts[0], "429")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrappedOf(t, sealed), Size: 32})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
	})
}

func TestLatency(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	c := config(server, server.CreateKey(azurekeyvaulttest.Key{}))
	c.MaxRetries, c.Timeout = 1, time.Second
	p := open(t, c)
	wrapped := wrappedOf(t, seal(t, p, nil))
	defer server.Inject(kmstest.Fault{Do: kmstest.Delay(time.Hour)})()
	server.Reset()
	_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.False(t, errors.Is(err, context.DeadlineExceeded), "that is not the caller's deadline")
	require.ErrorContains(t, err, "no answer within 1s")
	require.Equal(t, 2, server.Calls(""))

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, errors.Is(err, provider.ErrProviderUnavailable))
}

// The vault says about which key it answers.
func TestAnswersAboutAnotherKey(t *testing.T) {
	for _, kind := range kinds {
		server := azurekeyvaulttest.NewServer(t)
		name := server.CreateKey(kind)
		p := open(t, config(server, name))
		sealed := seal(t, p, nil)
		for _, kid := range []string{"https://test-vault.vault.azure.net/keys/other/" + server.Versions(name)[0], p.KeyID() + "/" + strings.Repeat("0", 32), p.KeyID(), "x"} {
			remove := server.Inject(kmstest.Fault{Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				value := base64.RawURLEncoding.EncodeToString(make([]byte, 80))
				fmt.Fprintf(w, `{"kid":%q,"value":%q,"key":{"kid":%[1]q,"kty":"oct-HSM"},"attributes":{}}`, kid, value)
			}})
			require.ErrorIs(t, unseal(t, p, sealed), provider.ErrInvalidKey)
			if kind.Type == "oct-HSM" {
				_, err := p.GenerateDataKey(t.Context(), nil)
				require.ErrorIs(t, err, provider.ErrInvalidKey)
			}
			_, err := p.GetKeyInfo(t.Context(), "")
			if kid != p.KeyID()+"/"+strings.Repeat("0", 32) {
				require.ErrorIs(t, err, provider.ErrInvalidKey)
			}
			remove()
		}
	}
}

// No error shows a data key, whatever the vault answers.
func TestErrorsHoldNoSecret(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	p := open(t, config(server, server.CreateKey(azurekeyvaulttest.Key{Type: "oct-HSM"})))
	for _, status := range []int{400, 401, 403, 404, 409, 418} {
		var sent string
		remove := server.Inject(kmstest.Fault{Operation: "WrapKey", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			body := make([]byte, 1000)
			n, _ := r.Body.Read(body)
			sent = string(body[:n])
			azurekeyvaulttest.Error(status, "Code", "", "refused")(w, r, next)
		}})
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.Error(t, err)
		require.Greater(t, len(sent), 100)
		_, value, _ := strings.Cut(sent, `"value":"`)
		require.NotContains(t, err.Error(), strings.TrimSuffix(value, `"}`)[:20])
		remove()
	}
}

// failures is a provider.Trace of a single goroutine.
type failures []error

func (*failures) Request() {}

func (f *failures) Failed(err error) { *f = append(*f, err) }
