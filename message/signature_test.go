package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

const signedSuite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384

func TestSignedEveryWayWithEveryOther(t *testing.T) {
	race.SkipShort(t)
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

// The last content is held back until the signature is verified, also if the final frame is empty
// and the frame before it has the last content.
func TestSignatureIsWhatEndsASignedMessage(t *testing.T) {
	for size, released := range map[int]int{50: 0, 100: 0, 200: 100, 250: 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { testSignatureEnds(t, size, released) })
	}
}

func testSignatureEnds(t *testing.T, size, released int) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 100, Suite: signedSuite}
	sealed, another := encrypt(t, e, pattern(size), nil), encrypt(t, e, pattern(size), nil)
	footer := func(b []byte) int {
		h, start, err := header.Parse(b, header.Limits{})
		require.NoError(t, err)
		body, err := frame.EncryptedSize(int64(size), int(h.FrameLength))
		require.NoError(t, err)
		return start + int(body)
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
			for _, piece := range []int{7, 1000} {
				got, err := decrypt(context.Background(), decrypter(key), bytes.NewReader(changed), nil, piece)
				require.Error(t, err, "%s, %s", name, way)
				require.True(t, errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext), "%s: %v", name, err)
				require.True(t, bytes.Equal(pattern(size)[:released], got), "%s, %s: %d bytes are released", name, way, len(got))
			}
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
	}
	require.Equal(t, "CommitmentPolicy(3)", message.CommitmentPolicy(3).String())
	require.Equal(t, "CommitmentPolicy(-1)", message.CommitmentPolicy(-1).String())
}

// lying makes the header of a message of suite 0478 with a content type and a frame length.
func lying(t *testing.T, key provider.Keyring, content header.ContentType, frameLength uint32, pairs map[string]string) []byte {
	t.Helper()
	made, err := key.GenerateDataKey(t.Context(), pairs)
	require.NoError(t, err)
	defer made.Close()
	h := &header.Header{
		Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: make([]byte, 32), ContentType: content, FrameLength: frameLength,
		EncryptedDataKeys: []header.EncryptedDataKey{made.EncryptedKey}, EncryptionContext: pairs,
	}
	require.NoError(t, made.PlaintextKey.WithAccess(func(key []byte) error {
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		h.Commitment = commitment
		return h.Seal(aead, nil)
	}))
	return bytes.Clone(h.Bytes())
}

// unframed makes a message of suite 0478 whose body states a size, which its writer need not have.
func unframed(t *testing.T, key provider.Keyring, stated uint64, body []byte) []byte {
	t.Helper()
	b := append(lying(t, key, header.Unframed, 0, nil), make([]byte, 12)...)
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
	for _, stated := range []uint64{maxFrameLength + 1, 1 << 40, 1<<64 - 1} {
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
	requireLittleMemory(t, d, unframed(t, key, maxFrameLength, make([]byte, 1000)), frame.ErrTruncated)
}

// requireLittleMemory checks that no way to decrypt a message takes memory that its few bytes do
// not justify.
func requireLittleMemory(t *testing.T, d *message.Decrypter, sealed []byte, want error) {
	t.Helper()
	for name, way := range decryptWays {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := way(context.Background(), d, bytes.NewReader(sealed), nil, 100)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, want, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+4*len(sealed)), name)
	}
}

// A frame length of 64 MiB, which anyone can state who has the public half of a recovery key, takes
// no memory until a frame arrives.
func TestStatedFrameLengthTakesNoMemory(t *testing.T) {
	key := newKey(t, 1, "")
	for _, parallelism := range []int{0, 1} {
		d := decrypter(key)
		d.Parallelism = parallelism
		for _, length := range []uint32{1 << 20, 2600 << 10, maxFrameLength} {
			start := lying(t, key, header.Framed, length, nil)
			regular := []byte{0, 0, 0, 1}
			requireLittleMemory(t, d, append(bytes.Clone(start), regular...), frame.ErrTruncated)
			requireLittleMemory(t, d, append(append(bytes.Clone(start), regular...), make([]byte, 200_000)...), frame.ErrTruncated)
			final := append([]byte{255, 255, 255, 255, 0, 0, 0, 1}, make([]byte, 12)...)
			requireLittleMemory(t, d, append(append(bytes.Clone(start), final...), byte(length>>24), byte(length>>16), byte(length>>8), byte(length), 1, 2, 3), frame.ErrTruncated)
			requireLittleMemory(t, d, append(append(bytes.Clone(start), final...), make([]byte, 4+16)...), frame.ErrAuthentication)
		}
	}

	// Random access knows the size of the object; one of 64 MiB that gives a few bytes only is the
	// source's lie.
	start := lying(t, key, header.Framed, maxFrameLength, nil)
	for _, size := range []int64{int64(len(start)) + frame.FinalOverhead, int64(len(start)) + maxFrameLength + frame.FinalOverhead} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decrypter(key).Open(t.Context(), bytes.NewReader(append(bytes.Clone(start), make([]byte, frame.FinalOverhead)...)), size, nil)
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
	}
}

// Long frames are read as they were written, by every way, and in ranges.
func TestLongFrames(t *testing.T) {
	race.SkipShort(t)
	key := newKey(t, 1, "")
	for _, length := range []int{65_536 + 1, 200_000, 3 << 20} {
		for _, suite := range []header.Suite{0, signedSuite} {
			plaintext := pattern(2*length + length/3)
			sealed := encrypt(t, &message.Encrypter{Keyring: key, FrameLength: length, Suite: suite}, plaintext, nil)
			for name, way := range decryptWays {
				got, err := way(t.Context(), decrypter(key), bytes.NewReader(sealed), nil, 10_000)
				require.NoError(t, err, name)
				require.True(t, bytes.Equal(plaintext, got), name)
			}
			if suite != 0 {
				continue
			}
			r, err := decrypter(key).Open(t.Context(), bytes.NewReader(sealed), int64(len(sealed)), nil)
			require.NoError(t, err)
			got := make([]byte, len(plaintext)-length/2)
			_, err = r.ReadAt(got, int64(length/2))
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext[length/2:], got))
		}
	}
}
