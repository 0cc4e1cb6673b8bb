package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestOneKeyringCallPerMessage(t *testing.T) {
	key := &counting{Keyring: newKey(t, 1, "")}
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	var messages [][]byte
	for _, way := range encryptWays {
		sealed, err := way(context.Background(), e, bytes.NewReader(pattern(1000)), nil, 100)
		require.NoError(t, err)
		messages = append(messages, sealed)
	}
	require.EqualValues(t, len(encryptWays), key.generated.Load())
	require.Zero(t, key.wrapped.Load()+key.unwrapped.Load())
	for _, sealed := range messages {
		for _, way := range decryptWays {
			_, err := way(context.Background(), decrypter(key), bytes.NewReader(sealed), nil, 100)
			require.NoError(t, err)
		}
	}
	require.EqualValues(t, len(encryptWays), key.generated.Load())
	require.EqualValues(t, len(encryptWays)*len(decryptWays), key.unwrapped.Load())
	require.Zero(t, key.wrapped.Load())
	key.requireClosed(t, len(encryptWays)*(1+len(decryptWays)))
}

func TestRequiredContext(t *testing.T) {
	inner := newKey(t, 1, "")
	stored := map[string]string{"tenant": "acme", "object": "42", "empty": ""}
	sealed := encrypt(t, &message.Encrypter{Keyring: inner}, []byte("text"), stored)
	tests := []struct {
		name     string
		required map[string]string
		ok       bool
		stored   bool // so that its refusal needs no key service
	}{
		{"none", nil, true, true},
		{"one of them", map[string]string{"tenant": "acme"}, true, true},
		{"an empty value", map[string]string{"empty": ""}, true, true},
		{"all", stored, true, true},
		{"wrong value", map[string]string{"tenant": "other"}, false, true},
		{"one right, one wrong", map[string]string{"object": "42", "tenant": "other"}, false, true},
		{"missing", map[string]string{"region": "eu"}, false, false},
		{"missing, and empty", map[string]string{"region": ""}, false, false},
		{"key in another case", map[string]string{"Tenant": "acme"}, false, false},
		{"missing, of a reserved name", map[string]string{"aws-crypto-public-key": "x"}, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, way := range decryptWays {
				key := &counting{Keyring: inner}
				got, err := way(context.Background(), decrypter(key), bytes.NewReader(sealed), tt.required, 100)
				if tt.ok {
					require.NoError(t, err, name)
					require.Equal(t, "text", string(got))
					require.EqualValues(t, 1, key.unwrapped.Load())
					continue
				}
				require.ErrorIs(t, err, provider.ErrContextMismatch, name)
				require.NotContains(t, err.Error(), "acme", "the error shows the stored value")
				require.Empty(t, got)
				if tt.stored {
					require.Zero(t, key.unwrapped.Load(), "the key service was asked all the same")
				}
			}
		})
	}
}

func TestReservedContextKeys(t *testing.T) {
	key := &counting{Keyring: newKey(t, 1, "")}
	for _, bad := range []map[string]string{{"aws-crypto-public-key": "x"}, {"aws-crypto-": "x"}, {"": "x"}, {"\xff": "x"}, {"x": string(make([]byte, 70000))}} {
		for name, way := range encryptWays {
			got, err := way(context.Background(), &message.Encrypter{Keyring: key}, bytes.NewReader(nil), bad, 100)
			require.ErrorIs(t, err, header.ErrInvalidContext, name)
			require.ErrorIs(t, err, provider.ErrEncryptionFailed, name)
			require.Empty(t, got)
		}
	}
	key.requireClosed(t, 0)
}

func TestFrameLengths(t *testing.T) {
	key := &counting{Keyring: newKey(t, 1, "")}
	for _, length := range []int{-1, maxFrameLength + 1, math.MaxInt} {
		_, err := (&message.Encrypter{Keyring: key, FrameLength: length}).Encrypt(context.Background(), nil, nil)
		require.ErrorIs(t, err, provider.ErrEncryptionFailed)
	}
	require.Zero(t, key.generated.Load())
	for length, want := range map[int]uint32{0: 65536, 1: 1, maxFrameLength: maxFrameLength} {
		r, err := (&message.Encrypter{Keyring: key, FrameLength: length}).NewReader(context.Background(), bytes.NewReader(nil), nil)
		require.NoError(t, err)
		require.Equal(t, want, r.Header().FrameLength)
	}
}

func TestRecipients(t *testing.T) {
	alpha, beta, gamma := newKey(t, 1, "alpha"), newKey(t, 2, "beta"), newKey(t, 3, "gamma")
	betasDouble := newKey(t, 4, "beta")
	first, second := &counting{Keyring: alpha}, &counting{Keyring: beta}
	e := &message.Encrypter{Keyring: first, Recipients: []provider.Wrapper{second}}
	sealed := encrypt(t, e, []byte("text"), map[string]string{"tenant": "acme"})
	for _, keyring := range []*counting{first, second} {
		require.EqualValues(t, 1, keyring.wrapped.Load())
		require.Zero(t, keyring.generated.Load(), "the data key is made before a key service is asked")
		keyring.requireClosed(t, 1)
	}

	tests := []struct {
		name     string
		keyrings []provider.Keyring
		want     error
	}{
		{"first alone", []provider.Keyring{alpha}, nil},
		{"second alone", []provider.Keyring{beta}, nil},
		{"both", []provider.Keyring{alpha, beta}, nil},
		{"a stranger before", []provider.Keyring{gamma, beta}, nil},
		{"a false one before", []provider.Keyring{betasDouble, alpha}, nil},
		{"false one alone", []provider.Keyring{betasDouble}, provider.ErrDecryptionFailed},
		{"false one and a stranger", []provider.Keyring{gamma, betasDouble}, provider.ErrDecryptionFailed},
		{"stranger alone", []provider.Keyring{gamma}, provider.ErrUntrustedKey},
		{"none", nil, provider.ErrUntrustedKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, way := range decryptWays {
				got, err := way(context.Background(), decrypter(tt.keyrings...), bytes.NewReader(sealed), nil, 100)
				if tt.want == nil {
					require.NoError(t, err, name)
					require.Equal(t, "text", string(got))
					continue
				}
				require.ErrorIs(t, err, tt.want, name)
				require.Empty(t, got)
				if tt.want == provider.ErrUntrustedKey {
					require.ErrorContains(t, err, `"alpha" of provider "piko"`)
					require.ErrorContains(t, err, `"beta" of provider "piko"`)
				} else {
					require.NotErrorIs(t, err, provider.ErrUntrustedKey)
				}
			}
		})
	}
}

// broken is a keyring whose methods all fail.
type broken struct{ err error }

func (b broken) GenerateDataKey(context.Context, map[string]string) (*provider.DataKey, error) {
	return nil, b.err
}

func (b broken) WrapDataKey(context.Context, *provider.SecureBytes, map[string]string) (header.EncryptedDataKey, error) {
	return header.EncryptedDataKey{}, b.err
}

func (b broken) UnwrapDataKey(context.Context, *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	return nil, b.err
}

func TestKeyringErrors(t *testing.T) {
	key := &counting{Keyring: newKey(t, 1, "")}
	down := broken{provider.ErrProviderUnavailable}
	sealed := encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)
	for _, e := range []*message.Encrypter{{Keyring: down}, {Keyring: key, Recipients: []provider.Wrapper{down}}, {Keyring: down, Recipients: []provider.Wrapper{key}}} {
		for name, way := range encryptWays {
			got, err := way(context.Background(), e, bytes.NewReader(nil), nil, 100)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable, name)
			require.Empty(t, got)
		}
	}
	key.requireClosed(t, 1+2*len(encryptWays))

	for name, way := range decryptWays {
		_, err := way(context.Background(), decrypter(down), bytes.NewReader(sealed), nil, 100)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable, name)
		got, err := way(context.Background(), decrypter(down, key), bytes.NewReader(sealed), nil, 100)
		require.NoError(t, err, "the second keyring has the key")
		require.Equal(t, "text", string(got))
		_, err = way(context.Background(), decrypter(down, broken{provider.ErrAccessDenied}), bytes.NewReader(sealed), nil, 100)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable, name)
		require.ErrorIs(t, err, provider.ErrAccessDenied, name)
	}
}

// wrongSize gives data keys of another algorithm's size.
type wrongSize struct{ provider.Keyring }

func (w wrongSize) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := provider.NewSecureBytes(make([]byte, 16))
	if err != nil {
		return nil, err
	}
	wrapped, err := w.Keyring.WrapDataKey(ctx, key, encryptionContext)
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped}, err
}

// other is a keyring that unwraps every data key to that of another message.
type other struct {
	provider.Keyring
	key []byte
}

func (o other) UnwrapDataKey(context.Context, *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := provider.NewSecureBytes(bytes.Clone(o.key))
	return &provider.DataKey{PlaintextKey: key}, err
}

func TestDataKeysThatDoNotFit(t *testing.T) {
	key := newKey(t, 1, "")
	_, err := (&message.Encrypter{Keyring: wrongSize{key}}).Encrypt(context.Background(), nil, nil)
	require.ErrorIs(t, err, provider.ErrEncryptionFailed)

	sealed := encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)
	for name, way := range decryptWays {
		got, err := way(context.Background(), decrypter(other{key, make([]byte, 32)}), bytes.NewReader(sealed), nil, 100)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed, name)
		require.ErrorContains(t, err, "commitment", name)
		require.Empty(t, got)
		_, err = way(context.Background(), decrypter(other{key, make([]byte, 16)}), bytes.NewReader(sealed), nil, 100)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed, name)
	}
}

func TestLimits(t *testing.T) {
	inner := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: inner, Recipients: []provider.Wrapper{newKey(t, 2, "second")}, FrameLength: 64}
	sealed := encrypt(t, e, pattern(100), map[string]string{"a": "1", "b": "2"})
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	tests := []struct {
		name   string
		limits header.Limits
		ok     bool
	}{
		{"all exact", header.Limits{MaxSize: h.Size(), MaxPairs: 2, MaxEncryptedDataKeys: 2, MaxFrameLength: 64}, true},
		{"MaxSize", header.Limits{MaxSize: h.Size() - 1}, false},
		{"MaxPairs", header.Limits{MaxPairs: 1}, false},
		{"MaxEncryptedDataKeys", header.Limits{MaxEncryptedDataKeys: 1}, false},
		{"MaxFrameLength", header.Limits{MaxFrameLength: 63}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, way := range decryptWays {
				key := &counting{Keyring: inner}
				d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}, Limits: tt.limits}
				got, err := way(context.Background(), d, bytes.NewReader(sealed), nil, 100)
				if tt.ok {
					require.NoError(t, err, name)
					continue
				}
				require.ErrorIs(t, err, header.ErrLimit, name)
				require.ErrorIs(t, err, provider.ErrInvalidCiphertext, name)
				require.ErrorContains(t, err, tt.name)
				require.Empty(t, got)
				require.Zero(t, key.unwrapped.Load())
			}
		})
	}
}

func TestInputsThatAreNoMessage(t *testing.T) {
	key := &counting{Keyring: newKey(t, 1, "")}
	for input, want := range map[string]error{
		"":                 provider.ErrInvalidCiphertext,
		"x":                header.ErrNotMessage,
		"plain text":       header.ErrNotMessage,
		"\x02\x05\x78\x00": io.ErrUnexpectedEOF,
		"\x01\x80\x03\x78": io.ErrUnexpectedEOF,
		"\x02\x04\x78":     io.ErrUnexpectedEOF,
	} {
		for name, way := range decryptWays {
			for _, piece := range []int{1, 100} {
				_, err := way(context.Background(), decrypter(key), bytes.NewReader([]byte(input)), nil, piece)
				require.ErrorIs(t, err, want, "%s of %q", name, input)
				require.ErrorIs(t, err, provider.ErrInvalidCiphertext, "%s of %q", name, input)
				require.False(t, errors.Is(err, io.EOF), "an empty input passes for an end")
			}
		}
	}
	require.Zero(t, key.unwrapped.Load())
}

func TestKeyName(t *testing.T) {
	const suffix = "\x00\x00\x00\x80\x00\x00\x00\x0cIV is 12 byt"
	for _, tt := range []struct{ provider, info, want string }{
		{"aws-kms", "arn:aws:kms:eu-west-2:111122223333:key/1", "arn:aws:kms:eu-west-2:111122223333:key/1"},
		{"aws-kms", "x" + suffix, `x\x00\x00\x00\x80\x00\x00\x00\fIV is 12 byt`},
		{"piko", "two\nlines, \x1b[31mred\xff", `two\nlines, \x1b[31mred\xff`},
		{"piko", "naïve \u202e", `naïve \u202e`},
		{"raw-ecdh", "\x01\x00\x00\x00\x03\x02\xab\xcd\x00\x00\x00\x02\x03\xff", "ECDH public key 02abcd"},
		{"raw-ecdh", "\x01\x00\x00\x00\x03\x02\xab\xcd", "ECDH public key 02abcd"},
		{"raw-ecdh", "\x01\x00\x00\x00\x04\x02\xab\xcd", `\x01\x00\x00\x00\x04\x02\xab\xcd`},
		{"raw-ecdh", "\x01\x00\x00\x00\x00", `\x01\x00\x00\x00\x00`},
		{"aws-kms-ecdh", "\x01\x00\x00\x00\x03\x02\xab\xcd\x00\x00\x00\x02\x03\xff", "ECDH public key 02abcd"},
		{"raw-ecdh", "\x01\xff\xff\xff\xff\x02", `\x01\xff\xff\xff\xff\x02`},
		{"raw-ecdh", "", ""},
		{"piko-hpke", "\x01\x64\x7aFINGERPRINT-KEY-", "HPKE public key 46494e4745525052494e542d4b45592d"},
		{"piko-hpke", "\x02\x64\x7aFINGERPRINT-KEY-", "\\x02dzFINGERPRINT-KEY-"},
		{"aws-kms-ml-kem", "\x01\x00\x05arn:x", "arn:x"},
		{"piko", "local" + suffix, "local"},
		{"piko", suffix, ""},
		{"piko", "an RSA key", "an RSA key"},
		{"piko", "a long name of an RSA key of which nothing is cut", "a long name of an RSA key of which nothing is cut"},
		{"piko", "", ""},
	} {
		got := message.KeyName(header.EncryptedDataKey{ProviderID: tt.provider, ProviderInfo: []byte(tt.info)})
		require.Equal(t, tt.want, got)
	}
}

func TestTooManyRecipients(t *testing.T) {
	p := newKey(t, 1, "")
	e := message.Encrypter{Keyring: p}
	for i := range (header.Limits{}).WithDefaults().MaxEncryptedDataKeys - 1 {
		e.Recipients = append(e.Recipients, newKey(t, 2, fmt.Sprint("other ", i)))
	}
	_, err := e.Encrypt(t.Context(), nil, nil)
	require.NoError(t, err)
	e.Recipients = append(e.Recipients, p)
	_, err = e.Encrypt(t.Context(), nil, nil)
	require.ErrorIs(t, err, provider.ErrEncryptionFailed)
	require.ErrorContains(t, err, "16")
}
