package message_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/internal/signature"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// pkcs1 is a recipient under PKCS #1 v1.5 padding, which pikokms reads and does not write.
type pkcs1 struct {
	provider.Keyring // on the private key
	name             string
	key              *rsa.PrivateKey
}

func newPKCS1(t *testing.T, name string) *pkcs1 {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	p, err := local.NewProvider(local.Config{Key: text, Name: name, PKCS1v15: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return &pkcs1{p, name, key}
}

func (p *pkcs1) WrapDataKey(_ context.Context, key *provider.SecureBytes, _ map[string]string) (wrapped header.EncryptedDataKey, err error) {
	err = key.WithAccess(func(plain []byte) (err error) {
		//lint:ignore SA1019 others write it
		wrapped.Ciphertext, err = rsa.EncryptPKCS1v15(rand.Reader, &p.key.PublicKey, plain)
		return err
	})
	wrapped.ProviderID, wrapped.ProviderInfo = "piko", []byte(p.name)
	return wrapped, err
}

// confused is a keyring that trusts every data key, and returns another message's data key for
// some. That may be due to a grant that allows too much, or to a key service that mixes up answers.
type confused struct {
	provider.Keyring
	right func(call int) bool
	calls int
}

func (c *confused) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	c.calls++
	if c.right(c.calls) {
		return c.Keyring.UnwrapDataKey(ctx, request)
	}
	key, err := provider.NewSecureBytes(bytes.Repeat([]byte{7}, request.Size))
	return &provider.DataKey{PlaintextKey: key}, err
}

// everyDoor opens a message through every door of a Decrypter.
func everyDoor(t *testing.T, sealed []byte, keyrings func() []provider.Keyring, check func(door string, got []byte, err error)) {
	t.Helper()
	decrypter := func() *message.Decrypter {
		return &message.Decrypter{Keyrings: unwrappers(keyrings()), CommitmentPolicy: message.RequireEncryptAllowDecrypt}
	}
	for name, way := range decryptWays {
		got, err := way(t.Context(), decrypter(), bytes.NewReader(sealed), nil, 100)
		check(name, got, err)
	}
	got, _, err := decrypter().Decrypt(t.Context(), sealed, nil)
	check("Decrypt", got, err)
	r, err := decrypter().Open(t.Context(), bytes.NewReader(sealed), int64(len(sealed)), nil)
	if err == nil {
		got, err = io.ReadAll(r)
	}
	check("Open", got, err)
	renewed := newKey(t, 9, "renewed")
	m, err := message.Rewrap(t.Context(), bytes.NewReader(sealed), decrypter(), &message.Encrypter{Keyring: renewed}, nil)
	if err == nil {
		var moved []byte
		moved, err = io.ReadAll(m)
		require.NoError(t, err)
		got, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{renewed}}).Decrypt(t.Context(), moved, nil)
	}
	check("Rewrap", got, err)
}

// A message opens if one of its data keys fits, whatever the others unwrap to.
func TestADataKeyThatDoesNotFitIsNotTheEnd(t *testing.T) {
	ours, twin, other := newKey(t, 1, "key"), newKey(t, 2, "key"), newKey(t, 3, "other")
	rsaOurs, rsaTwin := newPKCS1(t, "rsa"), newPKCS1(t, "rsa")
	never := func(int) bool { return false }
	tests := []struct {
		name       string
		recipients []provider.Keyring
		keyrings   func() []provider.Keyring
	}{
		{"PKCS #1 recipient that is not ours", []provider.Keyring{rsaTwin, ours}, func() []provider.Keyring { return []provider.Keyring{rsaOurs, ours} }},
		{"PKCS #1 recipients of one name", []provider.Keyring{rsaTwin, rsaOurs}, func() []provider.Keyring { return []provider.Keyring{rsaOurs} }},
		{"PKCS #1 keyrings of one name", []provider.Keyring{rsaOurs}, func() []provider.Keyring { return []provider.Keyring{rsaTwin, rsaOurs} }},
		{"AES recipients of one name", []provider.Keyring{twin, ours}, func() []provider.Keyring { return []provider.Keyring{ours} }},
		{"AES keyrings of one name", []provider.Keyring{ours}, func() []provider.Keyring { return []provider.Keyring{twin, ours} }},
		{"a keyring that mixes data keys up", []provider.Keyring{other, ours}, func() []provider.Keyring {
			return []provider.Keyring{&confused{Keyring: ours, right: func(call int) bool { return call == 2 }}}
		}},
		{"a keyring that is always wrong before a right one", []provider.Keyring{other, ours}, func() []provider.Keyring {
			return []provider.Keyring{&confused{Keyring: ours, right: never}, ours}
		}},
	}
	doors := 0
	for _, tt := range tests {
		for _, suite := range []header.Suite{0, signedSuite} {
			e := &message.Encrypter{Keyring: tt.recipients[0], Recipients: wrappers(tt.recipients[1:]), Suite: suite}
			if len(tt.recipients) == 1 {
				e.Recipients = []provider.Wrapper{newKey(t, 5, "nobody's")}
			}
			sealed := encrypt(t, e, []byte("text"), nil)
			everyDoor(t, sealed, tt.keyrings, func(door string, got []byte, err error) {
				if door == "Open" && suite == signedSuite {
					require.ErrorIs(t, err, header.ErrUnsupported)
					return
				}
				doors++
				require.NoError(t, err, "%s, by %s", tt.name, door)
				require.Equal(t, "text", string(got))
			})
		}
	}
	t.Logf("%d cases by all doors: %d", len(tests), doors)
}

// The data keys that do not fit are zeroed, and Verified reports that to their keyring.
func TestDataKeysThatDoNotFitAreClosed(t *testing.T) {
	ours, other := newKey(t, 1, "key"), newKey(t, 3, "other")
	sealed := encrypt(t, &message.Encrypter{Keyring: other, Recipients: []provider.Wrapper{ours}}, []byte("text"), nil)
	wrong := &counting{Keyring: &confused{Keyring: ours, right: func(int) bool { return false }}}
	told := &following{Keyring: wrong}
	_, _, err := decrypter(told, ours).Decrypt(t.Context(), sealed, nil)
	require.NoError(t, err)
	wrong.requireClosed(t, 2)
	require.Equal(t, []bool{false, false}, told.fits)
}

// following records what Verified reports about its data keys.
type following struct {
	provider.Keyring
	fits []bool
}

func (f *following) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := f.Keyring.UnwrapDataKey(ctx, request)
	if err == nil {
		key.Verified = func(fits bool) { f.fits = append(f.fits, fits) }
	}
	return key, err
}

// An attacker who changes a data key under PKCS #1 v1.5 padding must not learn whether its padding
// was right (RFC 3218, section 2.3.2).
func TestPaddingIsNoOracle(t *testing.T) {
	race.SkipShort(t)
	ours := newPKCS1(t, "rsa")
	sealed := encrypt(t, &message.Encrypter{Keyring: ours, Recipients: []provider.Wrapper{newKey(t, 5, "nobody's")}}, []byte("text"), nil)
	h, size, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	with := func(wrapped []byte) []byte {
		changed := *h
		changed.EncryptedDataKeys = []header.EncryptedDataKey{{ProviderID: "piko", ProviderInfo: []byte("rsa"), Ciphertext: wrapped}}
		return append(serialise(t, changed), sealed[size:]...)
	}
	wrap := func(n int) []byte {
		//lint:ignore SA1019 others write it
		wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, &ours.key.PublicKey, make([]byte, n))
		require.NoError(t, err)
		return wrapped
	}
	garbage := bytes.Repeat([]byte{1}, 256)
	texts := make(map[string]bool)
	for _, wrapped := range [][]byte{wrap(32), wrap(16), wrap(0), garbage} {
		everyDoor(t, with(wrapped), func() []provider.Keyring { return []provider.Keyring{ours} }, func(door string, got []byte, err error) {
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, door)
			texts[err.Error()] = true
		})
	}
	require.Len(t, texts, 1, "the errors tell right padding from wrong: %v", texts)
}

// underMany returns a message with a data key under each keyring, more of one name than an
// Encrypter writes.
func underMany(t *testing.T, keyrings []provider.Keyring, text string) []byte {
	t.Helper()
	raw := bytes.Repeat([]byte{9}, 32)
	h := &header.Header{
		Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: bytes.Repeat([]byte{7}, 32), ContentType: header.Framed, FrameLength: header.DefaultFrameLength,
	}
	for _, keyring := range keyrings {
		key, err := provider.NewSecureBytes(bytes.Clone(raw))
		require.NoError(t, err)
		wrapped, err := keyring.WrapDataKey(t.Context(), key, nil)
		require.NoError(t, errors.Join(err, key.Close()))
		h.EncryptedDataKeys = append(h.EncryptedDataKeys, wrapped)
	}
	aead, commitment, err := h.Suite.DeriveKeys(raw, h.MessageID)
	require.NoError(t, err)
	h.Commitment = commitment
	require.NoError(t, h.Seal(aead, nil))
	body, err := io.ReadAll(frame.NewSealReader(strings.NewReader(text), frame.Config{AEAD: aead, MessageID: h.MessageID, Length: header.DefaultFrameLength}))
	require.NoError(t, err)
	return append(bytes.Clone(h.Bytes()), body...)
}

// If none of a message's many data keys fits, few calls of the key service are made.
func TestAttemptsAreBounded(t *testing.T) {
	ours := newKey(t, 1, "key")
	twins := make([]provider.Keyring, 15)
	for i := range twins {
		twins[i] = newKey(t, byte(10+i), "key")
	}
	sealed := underMany(t, append(twins, ours), "text")
	for most, calls := range map[int]int32{0: int32(header.Limits{}.WithDefaults().MaxAttempts), 1: 1, 15: 15} {
		for name, way := range decryptWays {
			key := &counting{Keyring: ours}
			d := decrypter(key)
			d.Limits.MaxAttempts = most
			_, err := way(t.Context(), d, bytes.NewReader(sealed), nil, 100)
			require.ErrorIs(t, err, header.ErrLimit, name)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, name)
			require.ErrorContains(t, err, "Limits.MaxAttempts sets the limit")
			require.Equal(t, calls, key.unwrapped.Load(), name)
		}
	}
	d := decrypter(ours)
	d.Limits.MaxAttempts = 16
	got, _, err := d.Decrypt(t.Context(), sealed, nil)
	require.NoError(t, err)
	require.Equal(t, "text", string(got))

	// Keyrings that trust none of its keys do not count.
	strangers := make([]provider.Keyring, 20)
	for i := range strangers {
		strangers[i] = newKey(t, byte(10+i), "stranger")
	}
	sealed = encrypt(t, &message.Encrypter{Keyring: ours}, []byte("text"), nil)
	_, _, err = decrypter(append(strangers, ours)...).Decrypt(t.Context(), sealed, nil)
	require.NoError(t, err)
}

func TestErrorsOfDataKeysReadWell(t *testing.T) {
	ours, twin := newKey(t, 1, "key"), newKey(t, 2, "key")
	sealed := encrypt(t, &message.Encrypter{Keyring: twin, Recipients: []provider.Wrapper{newKey(t, 3, "key"), newKey(t, 4, "other")}}, nil, nil)
	_, _, err := decrypter(ours).Decrypt(t.Context(), sealed, nil)
	require.Equal(t, 1, bytes.Count([]byte(err.Error()), []byte("decryption failed:")), "%v", err)
	require.ErrorContains(t, err, "or the message requires a pair that was not stated")
	require.ErrorContains(t, err, `no provider is configured for "other"`)

	// Only the header's tag knows of this required pair.
	required := encrypt(t, &message.Encrypter{Keyring: ours, Required: []string{"a"}}, nil, map[string]string{"a": "b"})
	_, _, err = decrypter(ours).Decrypt(t.Context(), required, nil)
	require.ErrorContains(t, err, "or the message requires a pair that was not stated")

	// A data key that is certainly another message's.
	_, _, err = decrypter(other{ours, make([]byte, 32)}).Decrypt(t.Context(), sealed, nil)
	require.ErrorContains(t, err, "key commitment is another")
	require.NotContains(t, err.Error(), "pair that was not stated")

	// Signatures are no part of the header.
	signed := encrypt(t, &message.Encrypter{Keyring: ours, Suite: signedSuite}, []byte("text"), nil)
	bad := bytes.Clone(signed)
	bad[len(bad)-1] ^= 1
	_, _, err = decrypter(ours).Decrypt(t.Context(), bad, nil)
	require.ErrorIs(t, err, header.ErrSignature)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	require.NotContains(t, err.Error(), "header")
	_, _, err = decrypter(ours).Decrypt(t.Context(), signed[:len(signed)-1], nil)
	require.ErrorIs(t, err, signature.ErrFooter)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NotContains(t, err.Error(), "header")

	// Keys that are known and can't be used.
	h, size, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	agreed := header.EncryptedDataKey{ProviderID: "aws-kms-ml-kem", ProviderInfo: []byte("\x01\x00\x03arn")}
	lattice := *h
	lattice.EncryptedDataKeys = []header.EncryptedDataKey{agreed}
	_, _, err = decrypter(ours).Decrypt(t.Context(), append(serialise(t, lattice), sealed[size:]...), nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, `"arn" of provider "aws-kms-ml-kem", which pikokms does not support`)
	require.NotContains(t, err.Error(), "configure a provider")
	lattice.EncryptedDataKeys = []header.EncryptedDataKey{agreed, {ProviderID: "piko", ProviderInfo: bytes.Repeat([]byte("x\n"), 5000)}}
	_, _, err = decrypter(ours).Decrypt(t.Context(), append(serialise(t, lattice), sealed[size:]...), nil)
	require.ErrorContains(t, err, "configure a provider for one of them")
	require.Less(t, len(err.Error()), 700)
	require.NotContains(t, err.Error(), "\n")
}

// givingUp is a keyring that trusts no key, and whose caller gives up during the call.
type givingUp struct {
	provider.Keyring
	cancel context.CancelFunc
}

func (g givingUp) UnwrapDataKey(context.Context, *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	g.cancel()
	return nil, fmt.Errorf("another's: %w", provider.ErrUntrustedKey)
}

// answering is a keyring whose key service answers until its caller gives up.
type answering struct{ provider.Keyring }

func (w answering) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return w.Keyring.UnwrapDataKey(ctx, request)
}

// A caller who gives up while one keyring says that it trusts no key of the message is not told
// that none does.
func TestGivingUpIsNoMissingKey(t *testing.T) {
	ours := newKey(t, 1, "")
	sealed := encrypt(t, &message.Encrypter{Keyring: ours}, []byte("text"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := decrypter(givingUp{ours, cancel}, answering{ours})
	_, _, err := d.Decrypt(ctx, sealed, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, provider.ErrUntrustedKey)
}
