package branchkey

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// kms wraps the keys of a table: AWS KMS or, for development and tests, localKMS. Items name its
// keys by ARN. Implementations are safe for concurrent use.
type kms interface {
	// KeyARN returns the ARN of the key that wraps new keys, or nothing if none may.
	KeyARN() string

	// Trusts returns the ARN under which KMS is asked about an item that names keyARN. The error
	// holds provider.ErrUntrustedKey.
	Trusts(keyARN string) (string, error)

	// Generate returns a new random key of 32 bytes, wrapped.
	Generate(ctx context.Context, keyARN string, encryptionContext map[string]string) ([]byte, error)

	// ReEncrypt moves a wrapped key to another key or another encryption context.
	ReEncrypt(ctx context.Context, blob []byte, from string, fromContext map[string]string, to string, toContext map[string]string) ([]byte, error)

	// Decrypt unwraps a key. The caller closes the result.
	Decrypt(ctx context.Context, keyARN string, blob []byte, encryptionContext map[string]string) (*provider.SecureBytes, error)
}

// localARN begins the ARNs of local keys. Its partition is none of AWS's, so no item under a local
// key can pass for one under a key of AWS KMS.
const localARN = "arn:pikokms:kms:local:000000000000:key/"

// localKMS wraps the keys of a table under local AES keys. An item names its key by the local
// provider's name.
type localKMS struct {
	keys  map[string]provider.Provider // by ARN
	first string
}

// newLocalKMS makes a localKMS on AES keys. The first wraps new keys. All unwrap, so each needs
// another name. The error holds provider.ErrInvalidKey.
func newLocalKMS(masters []local.Config) (_ *localKMS, err error) {
	k := &localKMS{keys: make(map[string]provider.Provider)}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	for _, c := range masters {
		c.Key = bytes.Clone(c.Key) // which NewProvider zeroes, and a Config may be used again
		p, err := local.NewProvider(c)
		if err != nil {
			return nil, err
		}
		keyARN := localARN + p.KeyID()
		if _, twice := k.keys[keyARN]; twice {
			return nil, errors.Join(fmt.Errorf("%w: two local keys have the name %q; give each another one", provider.ErrInvalidKey, p.KeyID()), p.Close())
		}
		k.keys[keyARN] = p
		if p.Type() != "local_aes_gcm" {
			return nil, fmt.Errorf("%w: the local key %q is no AES key", provider.ErrInvalidKey, p.KeyID())
		}
		k.first = cmp.Or(k.first, keyARN)
	}
	return k, nil
}

// Close zeroes the keys. The localKMS can't be used afterwards.
func (k *localKMS) Close() error {
	var errs []error
	for _, p := range k.keys {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// KeyARN implements kms.
func (k *localKMS) KeyARN() string { return k.first }

// Trusts implements kms.
func (k *localKMS) Trusts(keyARN string) (string, error) {
	if _, ok := k.keys[keyARN]; !ok {
		return "", fmt.Errorf("%w: it is wrapped under %q; give that local key, too", provider.ErrUntrustedKey, keyARN)
	}
	return keyARN, nil
}

// Generate implements kms.
func (k *localKMS) Generate(ctx context.Context, keyARN string, encryptionContext map[string]string) ([]byte, error) {
	if _, err := k.Trusts(keyARN); err != nil {
		return nil, err
	}
	made, err := k.keys[keyARN].GenerateDataKey(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	defer made.Close()
	return appendLocal(made.EncryptedKey), nil
}

// ReEncrypt implements kms.
func (k *localKMS) ReEncrypt(ctx context.Context, blob []byte, from string, fromContext map[string]string, to string, toContext map[string]string) ([]byte, error) {
	if _, err := k.Trusts(to); err != nil {
		return nil, err
	}
	key, err := k.Decrypt(ctx, from, blob, fromContext)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	wrapped, err := k.keys[to].WrapDataKey(ctx, key, toContext)
	if err != nil {
		return nil, err
	}
	return appendLocal(wrapped), nil
}

// Decrypt implements kms.
func (k *localKMS) Decrypt(ctx context.Context, keyARN string, blob []byte, encryptionContext map[string]string) (*provider.SecureBytes, error) {
	if _, err := k.Trusts(keyARN); err != nil {
		return nil, err
	}
	wrapped, err := parseLocal(blob)
	if err != nil {
		return nil, err
	}
	key, err := k.keys[keyARN].UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: encryptionContext, Size: branchKeySize})
	if err != nil {
		return nil, err
	}
	return key.PlaintextKey, nil
}

// appendLocal returns what an item stores of a key that a local provider wrapped: the provider ID
// and the provider information, each after its length of two bytes, and the wrapped key.
func appendLocal(k header.EncryptedDataKey) []byte {
	var b []byte
	for _, part := range [][]byte{[]byte(k.ProviderID), k.ProviderInfo} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	return append(b, k.Ciphertext...)
}

func parseLocal(blob []byte) (header.EncryptedDataKey, error) {
	var parts [2][]byte
	for i := range parts {
		if len(blob) < 2 || len(blob)-2 < int(binary.BigEndian.Uint16(blob)) {
			return header.EncryptedDataKey{}, fmt.Errorf("%w: the wrapped key is cut off", provider.ErrDecryptionFailed)
		}
		end := 2 + int(binary.BigEndian.Uint16(blob))
		parts[i], blob = blob[2:end], blob[end:]
	}
	return header.EncryptedDataKey{ProviderID: string(parts[0]), ProviderInfo: parts[1], Ciphertext: blob}, nil
}

var (
	_ kms = (*kmswrap.Wrapper)(nil)
	_ kms = (*localKMS)(nil)
)
