package pikokms_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/providertest"
)

func TestKMSConformance(t *testing.T) {
	p, client, _ := newProvider(t)
	stranger, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).Arn, Client: client})
	require.NoError(t, err)
	providertest.Run(t,
		func(*testing.T) provider.EncryptionProvider { return p },
		func(*testing.T) provider.EncryptionProvider { return stranger })
}

func TestKMSKeyForms(t *testing.T) {
	client, _ := newClient(t)
	key := newKey(t, client, &kms.CreateKeyInput{Description: aws.String("key forms")})
	alias := "alias/forms-" + strings.ToLower(rand.Text())
	_, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: key.KeyId})
	require.NoError(t, err)

	forms := []string{*key.KeyId, *key.Arn, alias, strings.Replace(*key.Arn, "key/"+*key.KeyId, alias, 1)}
	var stored [][]byte
	for _, form := range forms {
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: form, Region: region, Endpoint: endpoint(t)})
		require.NoError(t, err, form)
		require.Equal(t, *key.Arn, p.KeyID())
		for _, keyID := range []string{"", form, *key.Arn} {
			_, err = envelope.Seal(t.Context(), p.(provider.KeySelector).Under(keyID), "x", nil)
			require.NoError(t, err)
		}
		info, err := p.GetKeyInfo(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, "key forms", info.Description)
		require.Equal(t, *key.Arn, info.Metadata["arn"])

		e := message.Encrypter{Keyring: p}
		ciphertext, err := e.Encrypt(t.Context(), []byte(form), nil)
		require.NoError(t, err)
		stored = append(stored, ciphertext)
	}
	// Whatever the key was called, messages carry its ARN, and every form reads what another wrote.
	for _, form := range forms {
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: form, Client: client})
		require.NoError(t, err)
		for i, ciphertext := range stored {
			d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
			plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
			require.NoError(t, err)
			require.Equal(t, forms[i], string(plaintext))
			h, _, err := header.Parse(ciphertext, header.Limits{})
			require.NoError(t, err)
			require.Equal(t, *key.Arn, string(h.EncryptedDataKeys[0].ProviderInfo))
		}
	}
}

func TestKMSCallsPerOperation(t *testing.T) {
	p, client, counter := newProvider(t)
	pairs := map[string]string{"tenant": "42"}
	for _, size := range []int{0, 1 << 10, 10 << 20} {
		var stored bytes.Buffer
		w, err := (&message.Encrypter{Keyring: p}).NewWriter(t.Context(), &stored, pairs)
		require.NoError(t, err)
		_, err = w.Write(make([]byte, size))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Equal(t, map[string]int{"GenerateDataKey": 1}, counter.take(), "encrypting a stream of %d bytes", size)

		r, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).NewReader(t.Context(), &stored, nil)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, r)
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.Equal(t, map[string]int{"Decrypt": 1}, counter.take(), "decrypting a stream of %d bytes", size)
	}

	// A value of up to 4,096 bytes goes to KMS itself, a larger one under a data key.
	for size, operation := range map[int]string{1: "Encrypt", 4096: "Encrypt", 4097: "GenerateDataKey"} {
		encrypted, err := envelope.Seal(t.Context(), p, strings.Repeat("x", size), pairs)
		require.NoError(t, err)
		require.Equal(t, map[string]int{operation: 1}, counter.take())
		_, err = envelope.Open(t.Context(), p, encrypted.Ciphertext, pairs)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"Decrypt": 1}, counter.take())
	}

	// What a header says is not believed: KMS hears nothing of keys that the provider is not
	// configured for, of headers over the limits, nor when a stated pair is missing.
	stranger, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).Arn, Client: client})
	require.NoError(t, err)
	e := message.Encrypter{Keyring: stranger}
	foreign, err := e.Encrypt(t.Context(), []byte("secret"), nil)
	require.NoError(t, err)
	e = message.Encrypter{Keyring: p}
	own, err := e.Encrypt(t.Context(), []byte("secret"), pairs)
	require.NoError(t, err)
	counter.take()
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	_, _, err = d.Decrypt(t.Context(), foreign, nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, stranger.KeyID())
	_, _, err = d.Decrypt(t.Context(), own, map[string]string{"tenant": "43"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	d.Limits.MaxSize = 100
	_, _, err = d.Decrypt(t.Context(), own, nil)
	require.ErrorIs(t, err, header.ErrLimit)
	require.Empty(t, counter.take())
}

func TestKMSTamperedHeader(t *testing.T) {
	p, _, counter := newProvider(t)
	e := message.Encrypter{Keyring: p}
	stored, err := e.Encrypt(t.Context(), []byte("secret"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	h, size, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	counter.take()

	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	for at := range size {
		changed := bytes.Clone(stored)
		changed[at] ^= 0x01
		_, _, err := d.Decrypt(t.Context(), changed, nil)
		require.Error(t, err, "byte %d", at)
		require.NotErrorIs(t, err, provider.ErrProviderUnavailable, "byte %d: a changed byte is no outage", at)
	}
	t.Logf("%d changed header bytes refused with %v calls of KMS", size, counter.take())

	// The context that KMS authenticates is the header's.
	h.EncryptionContext["tenant"] = "43"
	aead, _, err := h.Suite.DeriveKeys(make([]byte, 32), h.MessageID)
	require.NoError(t, err)
	require.NoError(t, h.Seal(aead, nil))
	_, _, err = d.Decrypt(t.Context(), append(bytes.Clone(h.Bytes()), stored[size:]...), nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

func TestKMSKeyStates(t *testing.T) {
	p, client, _ := newProvider(t)
	e := message.Encrypter{Keyring: p}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	stored, err := e.Encrypt(t.Context(), []byte("secret"), nil)
	require.NoError(t, err)
	refused := func(want error) {
		t.Helper()
		_, err := e.Encrypt(t.Context(), []byte("more"), nil)
		require.ErrorIs(t, err, want)
		_, _, err = d.Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, want)
		_, err = envelope.Seal(t.Context(), p, "more", nil)
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, provider.Check(t.Context(), p), want)
		_, err = awskms.NewProvider(t.Context(), awskms.Config{KeyID: p.KeyID(), Client: client})
		require.ErrorIs(t, err, want)
	}

	_, err = client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(p.KeyID())})
	require.NoError(t, err)
	refused(provider.ErrKeyDisabled)
	info, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.ErrorIs(t, info.Err, provider.ErrKeyDisabled)

	_, err = client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String(p.KeyID())})
	require.NoError(t, err)
	plaintext, _, err := d.Decrypt(t.Context(), stored, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plaintext))

	_, err = client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: aws.String(p.KeyID()), PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	refused(provider.ErrKeyPendingDeletion)
	info, err = p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.ErrorIs(t, info.Err, provider.ErrKeyPendingDeletion)
	require.NotNil(t, info.DeletionDate)
}

func TestKMSRotationKeepsOldObjectsReadable(t *testing.T) {
	p, client, _ := newProvider(t)
	e := message.Encrypter{Keyring: p}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	var stored [][]byte
	for i := range 3 {
		ciphertext, err := e.Encrypt(t.Context(), fmt.Appendf(nil, "generation %d", i), nil)
		require.NoError(t, err)
		stored = append(stored, ciphertext)
		_, err = client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: aws.String(p.KeyID())})
		require.NoError(t, err)
		for j, ciphertext := range stored {
			plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("generation %d", j), string(plaintext))
		}
	}
}

func TestKMSBootErrors(t *testing.T) {
	client, _ := newClient(t)
	arn := *newKey(t, client, &kms.CreateKeyInput{}).Arn
	rsa := newKey(t, client, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
	hmac := newKey(t, client, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	for name, c := range map[string]struct {
		config awskms.Config
		want   error
		says   string
	}{
		"missing key":   {awskms.Config{KeyID: "00000000-0000-0000-0000-000000000000"}, provider.ErrKeyNotFound, "eu-west-1"},
		"missing alias": {awskms.Config{KeyID: "alias/nobody"}, provider.ErrKeyNotFound, "alias/nobody"},
		"RSA to sign":   {awskms.Config{KeyID: *rsa.Arn}, provider.ErrKeyUsage, "RSA_2048"},
		"HMAC":          {awskms.Config{KeyID: *hmac.Arn}, provider.ErrKeyUsage, "GENERATE_VERIFY_MAC"},
		"other Region":  {awskms.Config{KeyID: strings.Replace(arn, region, "us-east-1", 1)}, provider.ErrInvalidKey, "us-east-1"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Region, c.config.Endpoint = region, endpoint(t)
			_, err := awskms.NewProvider(t.Context(), c.config)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// Messages under an RSA key of KMS, whose public half is asked for once.
func TestKMSRSAKey(t *testing.T) {
	client, calls := newClient(t)
	key := newKey(t, client, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *key.KeyId, Client: client})
	require.NoError(t, err)
	calls.take()
	e := message.Encrypter{Keyring: p}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	for range 3 {
		stored, err := e.Encrypt(t.Context(), []byte("content"), map[string]string{"tenant": "42"})
		require.NoError(t, err)
		plaintext, _, err := d.Decrypt(t.Context(), stored, nil)
		require.NoError(t, err)
		require.Equal(t, "content", string(plaintext))
	}
	require.Equal(t, map[string]int{"GetPublicKey": 1, "Decrypt": 3}, calls.take())
}
