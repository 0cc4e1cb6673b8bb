package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// meeting is a keyring that answers once all keyrings of a message have been asked, or fails.
type meeting struct {
	provider.Keyring
	arrived *atomic.Int32
	all     chan struct{} // closed when all have arrived
	of      int32
	err     error
}

func (m *meeting) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if m.arrived.Add(1) == m.of {
		close(m.all)
	}
	select {
	case <-m.all:
	case <-ctx.Done():
		return header.EncryptedDataKey{}, ctx.Err()
	}
	if m.err != nil {
		return header.EncryptedDataKey{}, m.err
	}
	return m.Keyring.WrapDataKey(ctx, key, encryptionContext)
}

func meetings(t *testing.T, n int, err error) []provider.Keyring {
	t.Helper()
	arrived, all := new(atomic.Int32), make(chan struct{})
	keyrings := make([]provider.Keyring, n)
	for i := range keyrings {
		keyrings[i] = &meeting{Keyring: newKey(t, byte(i+1), fmt.Sprint("key", i)), arrived: arrived, all: all, of: int32(n), err: err}
	}
	return keyrings
}

// Four keyrings take the time of one: each of these waits until all four are asked.
func TestRecipientsAreWrappedSideBySide(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keyrings := meetings(t, 4, nil)
	sealed, err := (&message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}).Encrypt(ctx, []byte("text"), map[string]string{"a": "b"})
	require.NoError(t, err)
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	for i, key := range h.EncryptedDataKeys {
		require.Equal(t, fmt.Sprint("key", i), message.KeyName(key), "the order is the keyrings'")
		got, _, err := decrypter(newKey(t, byte(i+1), fmt.Sprint("key", i))).Decrypt(ctx, sealed, nil)
		require.NoError(t, err)
		require.Equal(t, "text", string(got))
	}
}

// The first error ends the others, which would wait for ever, and is what the caller gets.
func TestARecipientThatFailsEndsTheOthers(t *testing.T) {
	denied := errors.New("denied")
	for at := range 4 {
		keyrings := meetings(t, 5, nil)[:4] // the fifth never comes
		keyrings[at] = broken{denied}
		_, err := (&message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}).Encrypt(t.Context(), nil, nil)
		require.ErrorIs(t, err, denied)
		require.NotErrorIs(t, err, context.Canceled)
	}
	ctx, cancel := context.WithCancel(t.Context())
	keyrings := meetings(t, 5, nil)[:4]
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := (&message.Encrypter{Keyring: keyrings[0], Recipients: wrappers(keyrings[1:])}).Encrypt(ctx, nil, nil)
	require.ErrorIs(t, err, context.Canceled)
}

type panicking struct{ provider.Keyring }

func (panicking) WrapDataKey(context.Context, *provider.SecureBytes, map[string]string) (header.EncryptedDataKey, error) {
	panic("keyring")
}

func TestARecipientThatPanicsPanicsInItsCaller(t *testing.T) {
	key := newKey(t, 1, "")
	require.PanicsWithValue(t, "keyring", func() {
		_, _ = (&message.Encrypter{Keyring: key, Recipients: []provider.Wrapper{panicking{key}}}).Encrypt(t.Context(), nil, nil)
	})
}

// large wraps to a ciphertext of a size.
type large struct {
	provider.Keyring
	size int
}

func (l large) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped, err := l.Keyring.WrapDataKey(ctx, key, encryptionContext)
	wrapped.Ciphertext = append(wrapped.Ciphertext, make([]byte, l.size)...)
	return wrapped, err
}

// What is written is read by default, and what no default reader takes is refused before a key
// service is asked, as far as that can be told.
func TestWritersKeepToTheLimitsOfReaders(t *testing.T) {
	pairs := func(n, size int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprint(i)] = string(bytes.Repeat([]byte{'x'}, size))
		}
		return m
	}
	ours := newKey(t, 1, "")
	recipients := func(k provider.Wrapper, n int) []provider.Wrapper { return slices.Repeat([]provider.Wrapper{k}, n) }
	others := make([]provider.Wrapper, 15)
	for i := range others {
		others[i] = newKey(t, 2, fmt.Sprint("other ", i))
	}
	tests := []struct {
		name  string
		e     message.Encrypter
		pairs map[string]string
		want  error // nil if it is written
		text  string
		asked bool // the key service is asked nevertheless
	}{
		{"1,024 pairs", message.Encrypter{}, pairs(1024, 1), nil, "", false},
		{"1,025 pairs", message.Encrypter{}, pairs(1025, 1), header.ErrInvalidContext, "1025 pairs, readers take 1024", false},
		{"1,023 pairs, signed", message.Encrypter{Suite: signedSuite}, pairs(1023, 1), nil, "", false},
		{"1,024 pairs, signed", message.Encrypter{Suite: signedSuite}, pairs(1024, 1), header.ErrLimit, "1025 encryption context pairs, at most 1024 are taken", false},
		{"1,024 pairs, signed, one of them required", message.Encrypter{Suite: signedSuite, Required: []string{"1"}}, pairs(1024, 1), nil, "", false},
		{"65,535 bytes of pairs", message.Encrypter{}, pairs(1, 65_535-2-2-1-2), nil, "", false},
		{"65,536 bytes of pairs", message.Encrypter{}, pairs(1, 65_535-2-2-1-1), header.ErrInvalidContext, "65536 bytes serialised", false},
		{"65,535 bytes of pairs, signed", message.Encrypter{Suite: signedSuite}, pairs(1, 65_535-2-2-1-2), header.ErrInvalidContext, "bytes serialised", false},
		{"16 keys", message.Encrypter{Recipients: others}, nil, nil, "", false},
		{"8 keys of one name", message.Encrypter{Recipients: recipients(ours, 7)}, nil, nil, "", false},
		{"9 keys of one name", message.Encrypter{Recipients: recipients(ours, 8)}, nil, header.ErrLimit, "give each key a name of its own", true},
		{"17 keys", message.Encrypter{Recipients: recipients(ours, 16)}, nil, header.ErrLimit, "17 encrypted data keys, at most 16 are taken", false},
		{"256 KiB", message.Encrypter{Recipients: recipients(large{ours, 60_000}, 5)}, nil, header.ErrLimit, "it has over 262144 bytes", true},
		{"a key that the format can't hold", message.Encrypter{Recipients: recipients(large{ours, 65_536}, 1)}, nil, header.ErrMalformed, "the format holds 65535", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := &counting{Keyring: ours}
			tt.e.Keyring = key
			sealed, err := tt.e.Encrypt(t.Context(), []byte("text"), tt.pairs)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				require.ErrorIs(t, err, provider.ErrEncryptionFailed)
				require.ErrorContains(t, err, tt.text)
				require.NotContains(t, err.Error(), "Limits.", "the limits of writers are not set")
				require.Equal(t, tt.asked, key.generated.Load()+key.wrapped.Load() > 0)
				return
			}
			require.NoError(t, err)
			stated := map[string]string{}
			for _, name := range tt.e.Required {
				stated[name] = tt.pairs[name]
			}
			got, _, err := decrypter(ours).Decrypt(t.Context(), sealed, stated)
			require.NoError(t, err)
			require.Equal(t, "text", string(got))
		})
	}
}
