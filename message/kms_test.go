package message_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// kmsKeys makes keys in a KMS, and a provider for each.
func kmsKeys(t *testing.T, server *kmstest.Server, n int) (keys []kmstest.Key, keyrings []provider.Keyring) {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := kms.New(kms.Options{
		Region: kmstest.Region, BaseEndpoint: aws.String(server.URL), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), Retryer: aws.NopRetryer{},
	})
	for range n {
		key := server.CreateKey(kmstest.Key{})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
		require.NoError(t, err)
		keys, keyrings = append(keys, key), append(keyrings, p)
	}
	server.Reset()
	return keys, keyrings
}

// A KMS takes 0.3 s for a call, and four keys of it do, too.
func TestFourKMSKeysTakeTheTimeOfOne(t *testing.T) {
	server := kmstest.NewServer(t)
	_, keyrings := kmsKeys(t, server, 4)
	server.Inject(kmstest.Fault{Do: kmstest.Delay(300 * time.Millisecond)})
	begin := time.Now()
	sealed := encrypt(t, &message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}, []byte("text"), nil)
	t.Logf("4 keys, each of 300 ms, take %v", time.Since(begin).Round(time.Millisecond))
	require.Equal(t, 4, server.Calls("Encrypt"))
	require.Equal(t, 4, server.Calls(""))
	server.Heal()
	for _, keyring := range keyrings {
		server.Reset()
		_, _, err := decrypter(keyring).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
		require.Equal(t, 1, server.Calls(""))
	}
}

// A recipient whose KMS denies or refuses ends the calls that stall.
func TestAKMSThatDeniesEndsTheOthers(t *testing.T) {
	for want, action := range map[error]kmstest.Action{
		provider.ErrAccessDenied: kmstest.Deny(), provider.ErrProviderUnavailable: kmstest.Throttle(), provider.ErrKeyNotFound: kmstest.Error("NotFoundException", "gone"),
	} {
		server := kmstest.NewServer(t)
		keys, keyrings := kmsKeys(t, server, 4)
		server.Inject(kmstest.Fault{Key: keys[2].ARN, Do: action})
		for _, i := range []int{0, 1, 3} {
			server.Inject(kmstest.Fault{Key: keys[i].ARN, Do: kmstest.Stall()})
		}
		_, err := (&message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}).Encrypt(t.Context(), nil, nil)
		require.ErrorIs(t, err, want)
		require.ErrorContains(t, err, keys[2].ARN)
	}
}

// A KMS that denies, refuses, throttles, drops or lies under one key does not keep the others from
// opening a message, by any door.
func TestAKMSThatFailsUnderOneKey(t *testing.T) {
	lie := kmstest.Answer(func(members map[string]any) {
		if _, ok := members["Plaintext"]; ok {
			members["Plaintext"] = bytes.Repeat([]byte{7}, 32)
		}
	})
	for how, action := range map[string]kmstest.Action{
		"denies": kmstest.Deny(), "throttles": kmstest.Throttle(), "drops": kmstest.Drop(), "truncates": kmstest.Truncate(), "lies": lie,
	} {
		server := kmstest.NewServer(t)
		keys, keyrings := kmsKeys(t, server, 3)
		sealed := encrypt(t, &message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}, []byte("text"), nil)
		server.Inject(kmstest.Fault{Key: keys[0].ARN, Do: action})
		server.Inject(kmstest.Fault{Key: keys[1].ARN, Do: action})
		everyDoor(t, sealed, func() []provider.Keyring { return keyrings }, func(door string, got []byte, err error) {
			require.NoError(t, err, "%s, by %s", how, door)
			require.Equal(t, "text", string(got))
		})
		_, _, err := decrypter(keyrings[:2]...).Decrypt(t.Context(), sealed, nil)
		require.Error(t, err, how)
		require.ErrorContains(t, err, keys[0].ARN, how)
		require.ErrorContains(t, err, keys[1].ARN, how)
	}
}

// Garbage data keys under a key that the reader trusts cost a bounded number of calls.
func TestGarbageDataKeysCostFewCalls(t *testing.T) {
	server := kmstest.NewServer(t)
	_, keyrings := kmsKeys(t, server, 1)
	sealed := encrypt(t, &message.Encrypter{Keyring: keyrings[0]}, []byte("text"), nil)
	h, size, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	forged := *h
	forged.EncryptedDataKeys = nil
	for i := range 15 {
		garbage := h.EncryptedDataKeys[0]
		garbage.Ciphertext = bytes.Clone(garbage.Ciphertext)
		garbage.Ciphertext[i] ^= 1
		forged.EncryptedDataKeys = append(forged.EncryptedDataKeys, garbage)
	}
	forged.EncryptedDataKeys = append(forged.EncryptedDataKeys, h.EncryptedDataKeys[0])
	server.Reset()
	_, _, err = decrypter(keyrings...).Decrypt(t.Context(), append(serialise(t, forged), sealed[size:]...), nil)
	limit, ok := errors.AsType[*header.LimitError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "MaxAttempts", limit.Limit)
	require.Equal(t, header.Limits{}.WithDefaults().MaxAttempts, server.Calls(""))
}
