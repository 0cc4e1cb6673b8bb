package crypto_provider_aws_kms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// pikosDefault is the key ID that Piko's crypto service states until its keys are rotated.
const pikosDefault = "default"

func config(server *kmstest.Server, keyID string) crypto_provider_aws_kms.Config {
	return crypto_provider_aws_kms.Config{KeyID: keyID, Region: kmstest.Region, EndpointURL: server.URL, UseStaticCredentials: true}
}

func open(t *testing.T, c crypto_provider_aws_kms.Config) crypto.EncryptionProvider {
	t.Helper()
	p, err := crypto_provider_aws_kms.NewProvider(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.(io.Closer).Close()) })
	return p
}

// client is what Piko's own provider asks KMS with.
func client(server *kmstest.Server) *kms.Client {
	return kms.New(kms.Options{Region: kmstest.Region, BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
}

func encryptStream(t *testing.T, p crypto.EncryptionProvider, keyID, plaintext string) []byte {
	t.Helper()
	var stored bytes.Buffer
	w, err := p.EncryptStream(t.Context(), &stored, &crypto.EncryptRequest{KeyID: keyID})
	require.NoError(t, err)
	_, err = io.WriteString(w, plaintext)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return stored.Bytes()
}

func decryptStream(t *testing.T, p crypto.EncryptionProvider, stored []byte) (string, error) {
	t.Helper()
	r, err := p.DecryptStream(t.Context(), bytes.NewReader(stored))
	if err != nil {
		require.Nil(t, r)
		return "", err
	}
	plaintext, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return string(plaintext), err
}

func TestStrings(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/app-data"})
	p := open(t, config(server, "alias/app-data"))
	require.Equal(t, crypto.ProviderTypeAWSKMS, p.Type())
	require.NoError(t, p.HealthCheck(t.Context()))
	for _, keyID := range []string{"", pikosDefault, "alias/app-data", key.ID, key.ARN} {
		for _, plaintext := range []string{"s", strings.Repeat("x", 4096), strings.Repeat("x", 4097), strings.Repeat("x", 1<<20)} {
			encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: plaintext, KeyID: keyID})
			require.NoError(t, err, keyID)
			require.Equal(t, &crypto.EncryptResponse{Ciphertext: encrypted.Ciphertext, KeyID: key.ARN, Provider: crypto.ProviderTypeAWSKMS}, encrypted)
			for _, named := range []string{keyID, encrypted.KeyID} {
				decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: named})
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted.Plaintext)
			}
		}
	}

	_, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret", KeyID: "another"})
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{})
	require.ErrorIs(t, err, crypto.ErrEmptyPlaintext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{})
	require.ErrorIs(t, err, crypto.ErrEmptyCiphertext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "*"})
	require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "AAAA"})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
}

// Piko's own provider has KMS encrypt and decrypt, in base64 and without a context.
func TestStringsOfPikosOwnProvider(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := open(t, config(server, key.ARN))

	theirs, err := client(server).Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String(key.ARN), Plaintext: []byte("before")})
	require.NoError(t, err)
	decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(theirs.CiphertextBlob), KeyID: *theirs.KeyId})
	require.NoError(t, err)
	require.Equal(t, "before", decrypted.Plaintext)

	ours, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "after", KeyID: pikosDefault})
	require.NoError(t, err)
	blob, err := base64.StdEncoding.DecodeString(ours.Ciphertext)
	require.NoError(t, err)
	opened, err := client(server).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob})
	require.NoError(t, err)
	require.Equal(t, "after", string(opened.Plaintext))
}

// After RotateKey Piko's crypto service names the new key in every request to encrypt, and requests
// to decrypt name the key of the response, or none for a batch's data key.
func TestRotateKey(t *testing.T) {
	server := kmstest.NewServer(t)
	before, after := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Alias: "alias/second"})
	p := open(t, config(server, before.ARN))
	old, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "old", KeyID: pikosDefault})
	require.NoError(t, err)
	oldBatch, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: pikosDefault, KeySpec: "AES_256"})
	require.NoError(t, err)
	oldStream := encryptStream(t, p, pikosDefault, "old stream")

	for _, keyID := range []string{after.ID, after.ARN, "alias/second"} {
		for _, plaintext := range []string{"new", strings.Repeat("new", 2000)} {
			encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: plaintext, KeyID: keyID})
			require.NoError(t, err)
			require.Equal(t, after.ARN, encrypted.KeyID)
			decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: encrypted.KeyID})
			require.NoError(t, err)
			require.Equal(t, plaintext, decrypted.Plaintext)
		}
		batch, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: keyID, KeySpec: "AES_256"})
		require.NoError(t, err)
		require.Equal(t, after.ARN, batch.KeyID)
		requireDataKey(t, p, batch)
		stored := encryptStream(t, p, keyID, "new stream")
		require.Contains(t, string(stored), after.ARN)
		plaintext, err := decryptStream(t, p, stored)
		require.NoError(t, err)
		require.Equal(t, "new stream", plaintext)
	}

	requireDataKey(t, p, oldBatch)
	decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: old.Ciphertext, KeyID: old.KeyID})
	require.NoError(t, err)
	require.Equal(t, "old", decrypted.Plaintext)

	// After a restart with the new key, the old one is trusted because the configuration says so.
	c := config(server, after.ARN)
	restarted := open(t, c)
	server.Reset()
	_, err = restarted.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: old.Ciphertext, KeyID: old.KeyID})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	require.ErrorContains(t, err, "TrustedKeys")
	_, err = decryptStream(t, restarted, oldStream)
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	require.Zero(t, server.Calls(""), "KMS is not asked about a key that a ciphertext names")
	c.TrustedKeys = []string{before.ARN}
	restarted = open(t, c)
	decrypted, err = restarted.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: old.Ciphertext, KeyID: old.KeyID})
	require.NoError(t, err)
	require.Equal(t, "old", decrypted.Plaintext)
	plaintext, err := decryptStream(t, restarted, oldStream)
	require.NoError(t, err)
	require.Equal(t, "old stream", plaintext)
}

// requireDataKey does what Piko does when it reads a batch: Decrypt, without a key ID.
func requireDataKey(t *testing.T, p crypto.EncryptionProvider, key *crypto.DataKey) {
	t.Helper()
	opened, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: key.EncryptedKey})
	require.NoError(t, err)
	require.NoError(t, key.PlaintextKey.WithAccess(func(plain []byte) error {
		if len(plain) != 32 || string(plain) != opened.Plaintext {
			return errors.New("the data key comes back changed")
		}
		return nil
	}))
	require.NoError(t, key.Close())
}

func TestStreams(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := open(t, config(server, key.ARN))
	for _, size := range []int{0, 1, 65_535, 65_536, 65_537, 1 << 20} {
		plaintext := strings.Repeat("u", size)
		server.Reset()
		stored := encryptStream(t, p, pikosDefault, plaintext)
		require.True(t, header.Sniff(stored), "it is a message")
		got, err := decryptStream(t, p, stored)
		require.NoError(t, err)
		require.True(t, got == plaintext)
		require.Equal(t, 2, server.Calls(""), "one call each way")

		for _, damaged := range [][]byte{stored[:len(stored)-1], stored[:len(stored)/2], append(bytes.Clone(stored), 0), flipped(stored)} {
			_, err = decryptStream(t, p, damaged)
			require.Error(t, err)
			require.True(t, errors.Is(err, crypto.ErrInvalidCiphertext) || errors.Is(err, crypto.ErrDecryptionFailed), err)
		}
	}
	_, err := decryptStream(t, p, []byte("\x02\x00\x00\x00\x02{}"))
	require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "AllowPikoV2")
	w, err := p.EncryptStream(t.Context(), io.Discard, &crypto.EncryptRequest{KeyID: "another"})
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	require.Nil(t, w)
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

// An attacker who has the application encrypt 32 characters of their choice knows a data key and
// its wrapped form. A message made of the two is no stream.
func TestAStringIsNoDataKeyOfAStream(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := open(t, config(server, key.ARN))
	chosen := strings.Repeat("k", 32)
	encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: chosen, KeyID: pikosDefault})
	require.NoError(t, err)
	blob, err := base64.StdEncoding.DecodeString(encrypted.Ciphertext)
	require.NoError(t, err)

	for _, pairs := range []map[string]string{nil, {provider.PairUse: provider.UseStream}} {
		e := message.Encrypter{Keyring: forger{plain: []byte(chosen), wrapped: header.EncryptedDataKey{ProviderID: "aws-kms", ProviderInfo: []byte(key.ARN), Ciphertext: blob}}}
		forged, err := e.Encrypt(t.Context(), []byte("the attacker's"), pairs)
		require.NoError(t, err)
		_, err = decryptStream(t, p, forged)
		require.Error(t, err)
		require.True(t, errors.Is(err, crypto.ErrContextMismatch) || errors.Is(err, crypto.ErrDecryptionFailed), err)
	}
}

// Nor is a stream's data key handed out as a string.
func TestAStreamsDataKeyIsNoString(t *testing.T) {
	server := kmstest.NewServer(t)
	p := open(t, config(server, server.CreateKey(kmstest.Key{}).ARN))
	h, _, err := header.Parse(encryptStream(t, p, pikosDefault, "secret"), header.Limits{})
	require.NoError(t, err)
	wrapped := base64.StdEncoding.EncodeToString(h.EncryptedDataKeys[0].Ciphertext)
	for _, pairs := range []map[string]string{nil, h.EncryptionContext} {
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: wrapped, Context: pairs})
		require.Error(t, err)
	}
	_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x", Context: h.EncryptionContext})
	require.ErrorIs(t, err, crypto.ErrContextMismatch)
	_, err = p.EncryptStream(t.Context(), io.Discard, &crypto.EncryptRequest{Context: map[string]string{provider.PairUse: "x"}})
	require.ErrorIs(t, err, crypto.ErrContextMismatch)
}

// The data key of a batch is handed out as a string, and a string serves as one, since Piko passes
// both to Decrypt in the same form. docs/THREATS.md says so.
func TestTheDataKeyOfABatchIsAString(t *testing.T) {
	server := kmstest.NewServer(t)
	p := open(t, config(server, server.CreateKey(kmstest.Key{}).ARN))
	made, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeySpec: "AES_256"})
	require.NoError(t, err)
	requireDataKey(t, p, made)
	for _, spec := range []string{"AES_128", ""} {
		made, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeySpec: spec})
		require.NoError(t, err)
		opened, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: made.EncryptedKey, KeyID: made.KeyID})
		require.NoError(t, err)
		require.Len(t, opened.Plaintext, map[string]int{"AES_128": 16, "": 32}[spec])
		require.NoError(t, made.Close())
	}
	_, err = p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeySpec: "RSA_2048"})
	require.ErrorIs(t, err, crypto.ErrInvalidKey)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: made.EncryptedKey, Context: map[string]string{"column": "name"}})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed, "but under no encryption context")

	chosen, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: strings.Repeat("k", 32)})
	require.NoError(t, err)
	opened, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: chosen.Ciphertext})
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("k", 32), opened.Plaintext, "which Piko takes for the data key of a batch that names it")
}

// forger makes messages under a data key that an attacker knows.
type forger struct {
	provider.Keyring
	plain   []byte
	wrapped header.EncryptedDataKey
}

func (f forger) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := provider.NewSecureBytes(bytes.Clone(f.plain))
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: f.wrapped}, err
}

func TestKeyInfo(t *testing.T) {
	server := kmstest.NewServer(t)
	key, other := server.CreateKey(kmstest.Key{Description: "Piko's"}), server.CreateKey(kmstest.Key{})
	p := open(t, config(server, key.ARN))
	for _, keyID := range []string{"", pikosDefault, key.ID} {
		info, err := p.GetKeyInfo(t.Context(), keyID)
		require.NoError(t, err)
		require.Equal(t, key.ID, info.KeyID)
		require.Equal(t, crypto.ProviderTypeAWSKMS, info.Provider)
		require.Equal(t, "AWS_KMS_RSAES_OAEP_SHA_256", info.Algorithm, "Piko's text")
		require.Equal(t, "SYMMETRIC_DEFAULT", info.Metadata["key_spec"])
		require.Equal(t, key.ARN, info.Metadata["arn"])
		require.Equal(t, kmstest.Account, info.Metadata["account_id"])
		require.Equal(t, "CUSTOMER", info.Metadata["key_manager"])
		require.Equal(t, "Piko's", info.Description)
		require.Equal(t, "AWS_KMS", info.Origin)
		require.False(t, info.CreatedAt.IsZero())
		require.True(t, info.CanEncrypt())
	}
	_, err := client(server).ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: aws.String(other.ARN)})
	require.NoError(t, err)
	info, err := p.GetKeyInfo(t.Context(), other.ARN)
	require.NoError(t, err)
	require.Equal(t, crypto.KeyStatusDestroyed, info.Status)
	require.NotNil(t, info.DeletionDate)
	for state, want := range map[string]crypto.KeyStatus{
		"Enabled": crypto.KeyStatusActive, "Updating": crypto.KeyStatusActive,
		"Disabled": crypto.KeyStatusDisabled, "PendingImport": crypto.KeyStatusDisabled, "Unavailable": crypto.KeyStatusDisabled,
		"PendingReplicaDeletion": crypto.KeyStatusDestroyed,
	} {
		server.SetState(other.ARN, state)
		info, err := p.GetKeyInfo(t.Context(), other.ARN)
		require.NoError(t, err)
		require.Equal(t, want, info.Status, state)
	}
	_, err = p.GetKeyInfo(t.Context(), "another")
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
}

func TestConfig(t *testing.T) {
	c := crypto_provider_aws_kms.Config{KeyID: "alias/app-data", Region: "eu-west-1"}
	require.NoError(t, c.Validate())
	require.Equal(t, 3, c.WithDefaults().MaxRetries)
	require.Zero(t, c.MaxRetries, "WithDefaults changes a copy")
	c.MaxRetries = 5
	require.Equal(t, 5, c.WithDefaults().MaxRetries)
	for text, c := range map[string]crypto_provider_aws_kms.Config{
		"KeyID is required":             {Region: "eu-west-1"},
		"Region is required":            {KeyID: "alias/app-data"},
		"maxRetries cannot be negative": {KeyID: "alias/app-data", Region: "eu-west-1", MaxRetries: -1},
	} {
		require.ErrorIs(t, c.Validate(), crypto.ErrInvalidKey)
		require.ErrorContains(t, c.Validate(), text)
		_, err := crypto_provider_aws_kms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, crypto.ErrInvalidKey)
		require.ErrorContains(t, err, text)
	}
}

func TestMaxRetriesDoesNotCountTheFirstCall(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	for _, static := range []bool{false, true} {
		c := config(server, key.ARN)
		c.MaxRetries, c.UseStaticCredentials = 1, static
		p := open(t, c)
		remove := server.Inject(kmstest.Fault{Operation: "Encrypt", Do: kmstest.Error("KMSInternalException", "down")})
		server.Reset()
		_, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x"})
		require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
		require.Equal(t, 2, server.Calls("Encrypt"), fmt.Sprint("static credentials: ", static))
		remove()
	}
}

func TestUseStaticCredentials(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	c := config(server, key.ARN)
	require.NoError(t, open(t, c).HealthCheck(t.Context()))
	c.UseStaticCredentials = false
	_, err := crypto_provider_aws_kms.NewProvider(t.Context(), c)
	require.ErrorContains(t, err, "credentials")
	c.UseStaticCredentials, c.EndpointURL = true, ""
	_, err = crypto_provider_aws_kms.NewProvider(t.Context(), c)
	require.ErrorContains(t, err, "credentials", "they are not for AWS itself")
}

func TestEnableMetrics(t *testing.T) {
	server := kmstest.NewServer(t)
	c := config(server, server.CreateKey(kmstest.Key{}).ARN)
	before := otel.GetMeterProvider()
	t.Cleanup(func() { otel.SetMeterProvider(before) })
	for _, enabled := range []bool{false, true} {
		m := &meter{}
		otel.SetMeterProvider(m)
		c.EnableMetrics = enabled
		_, err := open(t, c).Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x"})
		require.NoError(t, err)
		require.Equal(t, enabled, m.recorded.Load())
	}
}

// meter is OpenTelemetry's, and notes whether the duration of a call was recorded.
type meter struct {
	noop.MeterProvider
	recorded atomic.Bool
}

func (m *meter) Meter(string, ...metric.MeterOption) metric.Meter { return measured{meter: m} }

type measured struct {
	noop.Meter
	meter *meter
}

func (m measured) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return duration{meter: m.meter, counts: name == "pikokms.key_service.duration"}, nil
}

type duration struct {
	noop.Float64Histogram
	meter  *meter
	counts bool
}

func (d duration) Record(context.Context, float64, ...metric.RecordOption) {
	if d.counts {
		d.meter.recorded.Store(true)
	}
}

func TestOutageAtBoot(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	c := config(server, "alias/none")
	_, err := crypto_provider_aws_kms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	c.KeyID, c.EndpointURL, c.MaxRetries = key.ARN, "http://127.0.0.1:1", 1
	p, err := crypto_provider_aws_kms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
	require.Nil(t, p)
}

// With CheckLater an application starts while KMS is down, and encrypts once KMS is back.
func TestCheckLater(t *testing.T) {
	server := kmstest.NewServer(t)
	c := config(server, server.CreateKey(kmstest.Key{}).ARN)
	c.MaxRetries = 1
	down := c
	down.EndpointURL = "http://127.0.0.1:1"
	_, err := crypto_provider_aws_kms.NewProvider(t.Context(), down)
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)

	down.CheckLater = true
	_, err = open(t, down).Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "text"})
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)

	c.CheckLater = true
	p := open(t, c)
	require.Zero(t, server.Calls("DescribeKey"))
	sealed, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "text"})
	require.NoError(t, err)
	got, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: sealed.Ciphertext})
	require.NoError(t, err)
	require.Equal(t, "text", got.Plaintext)
}
