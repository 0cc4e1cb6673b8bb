package message_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

const signedSuite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384

func TestSignedEveryWayWithEveryOther(t *testing.T) {
	key := newKey(t, 1, "")
	pairs := map[string]string{"tenant": "42"}
	for _, size := range []int{0, 1, 99, 100, 101, 300} {
		for sealing, encryptWay := range encryptWays {
			e := &message.Encrypter{Keyring: key, FrameLength: 100, Suite: signedSuite}
			sealed, err := encryptWay(context.Background(), e, bytes.NewReader(pattern(size)), pairs, 7)
			require.NoError(t, err)
			h, _, err := header.Parse(sealed, header.Limits{})
			require.NoError(t, err)
			require.Equal(t, signedSuite, h.Suite)
			require.Len(t, h.EncryptionContext, 2)
			for opening, decryptWay := range decryptWays {
				for _, piece := range []int{1, 64, 10_000} {
					got, err := decryptWay(context.Background(), decrypter(key), bytes.NewReader(sealed), pairs, piece)
					require.NoError(t, err, "%s, %s", sealing, opening)
					require.True(t, bytes.Equal(pattern(size), got))
				}
			}
		}
	}
}

// The last frame's plaintext is held back until the signature is verified.
func TestSignatureIsWhatEndsASignedMessage(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 100, Suite: signedSuite}
	sealed, another := encrypt(t, e, pattern(250), nil), encrypt(t, e, pattern(250), nil)
	footer := func(b []byte) int {
		h, size, err := header.Parse(b, header.Limits{})
		require.NoError(t, err)
		body, err := frame.EncryptedSize(250, int(h.FrameLength))
		require.NoError(t, err)
		return size + int(body)
	}
	start := footer(sealed)
	with := func(footer []byte) []byte { return append(bytes.Clone(sealed[:start]), footer...) }
	for name, changed := range map[string][]byte{
		"no footer":           with(nil),
		"half a length":       with(sealed[start : start+1]),
		"no signature":        with([]byte{0, 0}),
		"cut signature":       sealed[:len(sealed)-1],
		"another's signature": with(another[footer(another):]),
		"longer":              with(append(bytes.Clone(sealed[start:]), 0)),
		"much longer":         with(append(bytes.Clone(sealed[start:]), make([]byte, 5000)...)),
		"two footers":         with(append(bytes.Clone(sealed[start:]), sealed[start:]...)),
	} {
		for way, decrypt := range decryptWays {
			got, err := decrypt(context.Background(), decrypter(key), bytes.NewReader(changed), nil, 1000)
			require.Error(t, err, "%s, %s", name, way)
			require.True(t, errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext), "%s: %v", name, err)
			require.True(t, bytes.Equal(pattern(250)[:200], got), "%s, %s: %d bytes are released", name, way, len(got))
		}
	}
}

func TestNoUnsignedMessageWithAVerificationKey(t *testing.T) {
	key := newKey(t, 1, "")
	signed := encrypt(t, &message.Encrypter{Keyring: key, Suite: signedSuite}, []byte("text"), nil)
	h, size, err := header.Parse(signed, header.Limits{})
	require.NoError(t, err)
	h.Suite = header.AES256GCMHKDFSHA512CommitKey
	unsigned := serialise(t, *h)
	counted := &counting{Keyring: key}
	_, _, err = decrypter(counted).Decrypt(context.Background(), append(unsigned, signed[size:]...), nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "has no signature")
	require.Zero(t, counted.unwrapped.Load())
}

func TestCommitmentPolicy(t *testing.T) {
	key := newKey(t, 1, "")
	for policy, writes := range map[message.CommitmentPolicy]bool{
		message.RequireEncryptRequireDecrypt: true, message.RequireEncryptAllowDecrypt: true, message.ForbidEncryptAllowDecrypt: false, 7: false,
	} {
		for _, suite := range header.Suites() {
			_, err := (&message.Encrypter{Keyring: key, Suite: suite, CommitmentPolicy: policy}).Encrypt(context.Background(), nil, nil)
			switch {
			case writes && suite.Commits():
				require.NoError(t, err)
			case suite.Commits():
				require.ErrorIs(t, err, message.ErrCommitmentPolicy)
				require.ErrorContains(t, err, policy.String())
			default:
				require.ErrorIs(t, err, header.ErrUnsupported)
				require.ErrorIs(t, err, provider.ErrEncryptionFailed)
			}
		}
		got, err := message.ParseCommitmentPolicy(policy.String())
		if policy == 7 {
			require.ErrorIs(t, err, message.ErrCommitmentPolicy)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, policy, got)
	}
	for text, want := range map[string]message.CommitmentPolicy{
		"require-encrypt-require-decrypt": message.RequireEncryptRequireDecrypt,
		"REQUIRE_ENCRYPT_ALLOW_DECRYPT":   message.RequireEncryptAllowDecrypt,
		"forbidencryptallowdecrypt":       message.ForbidEncryptAllowDecrypt,
	} {
		got, err := message.ParseCommitmentPolicy(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "require", "RequireEncryptForbidDecrypt"} {
		_, err := message.ParseCommitmentPolicy(text)
		require.ErrorIs(t, err, message.ErrCommitmentPolicy)
		require.ErrorContains(t, err, "known are RequireEncryptRequireDecrypt, ")
	}
}

// unframed makes a message of suite 0478 whose body states a size, which its writer need not have.
func unframed(t *testing.T, key provider.Keyring, stated uint64, body []byte) []byte {
	t.Helper()
	made, err := key.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{})
	require.NoError(t, err)
	defer made.Close()
	h := &header.Header{Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: make([]byte, 32), ContentType: header.Unframed, EncryptedDataKeys: []header.EncryptedDataKey{made.EncryptedKey}}
	require.NoError(t, made.PlaintextKey.WithAccess(func(key []byte) error {
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		h.Commitment = commitment
		return h.Seal(aead, nil)
	}))
	b := append(bytes.Clone(h.Bytes()), make([]byte, 12)...)
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(stated>>shift))
	}
	return append(b, body...)
}

// An unframed message is held in memory, so its size is bounded, and memory grows only with the
// bytes that are there.
func TestUnframedMessagesAreBounded(t *testing.T) {
	key := newKey(t, 1, "")
	d := decrypter(key)
	for _, stated := range []uint64{header.MaxFrameLength + 1, 1 << 40, 1<<64 - 1} {
		for name, way := range decryptWays {
			_, err := way(context.Background(), d, bytes.NewReader(unframed(t, key, stated, nil)), nil, 100)
			require.ErrorIs(t, err, frame.ErrTooLarge, name)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext, name)
		}
	}
	d.Limits.MaxFrameLength = 1000
	_, _, err := d.Decrypt(context.Background(), unframed(t, key, 1001, nil), nil)
	require.ErrorIs(t, err, frame.ErrTooLarge)

	d.Limits.MaxFrameLength = 0
	lying := unframed(t, key, header.MaxFrameLength, make([]byte, 1000))
	for name, way := range decryptWays {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := way(context.Background(), d, bytes.NewReader(lying), nil, 100)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, frame.ErrTruncated, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
}
