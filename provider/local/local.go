// Package local is the encryption provider that needs no key service: AES-GCM under a key in a file.
//
// It wraps data keys as the AWS Encryption SDK's raw AES keyring does (specification: framework/raw-aes-keyring.md), so
// AWS's SDKs open its messages with the same key, namespace and name. It serves development, tests and single machines,
// and can be a second recipient of messages that are otherwise under a key service.
//
// Each wrap draws a random 12-byte IV; one key may wrap 2³² data keys (NIST SP 800-38D, section 8.3).
package local

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// KeySize is the size in bytes of the keys that Generate makes, before base64. Keys of 16 and 24 bytes are taken too.
const KeySize = 32

// Defaults of Config.
const (
	DefaultNamespace = "piko"
	DefaultName      = "local"
)

// Config says where the key is and how messages name it.
type Config struct {
	KeyFile   string // a file of base64 text that Generate made, readable by its owner alone
	Key       []byte // the key itself, instead of KeyFile: moved to secure memory and zeroed
	Namespace string // the raw AES keyring's key namespace, default "piko"
	Name      string // the raw AES keyring's key name, default "local"
}

// Provider implements provider.EncryptionProvider. It is safe for concurrent use.
type Provider struct {
	key             *provider.SecureBytes
	namespace, name string
	created         time.Time
}

// Generate makes a new random key and writes it to a new file that only its owner can read. An existing file is kept and
// is an error that holds fs.ErrExist.
func Generate(path string) error {
	key := make([]byte, KeySize)
	defer clear(key)
	_, _ = rand.Read(key) // never fails
	text := make([]byte, base64.StdEncoding.EncodedLen(KeySize)+1)
	defer clear(text)
	base64.StdEncoding.Encode(text, key)
	text[len(text)-1] = '\n'

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("local: key file %s is kept, choose another name: %w", path, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("local: making the key file: %w", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("local: writing key file %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

// NewProvider reads the key. The error holds provider.ErrInvalidKey, or fs.ErrNotExist for a missing key file; no error
// shows a part of the key.
func NewProvider(c Config) (*Provider, error) {
	p := &Provider{namespace: c.Namespace, name: c.Name, created: time.Now()}
	if p.namespace == "" {
		p.namespace = DefaultNamespace
	}
	if p.name == "" {
		p.name = DefaultName
	}
	if strings.HasPrefix(p.namespace, "aws-kms") {
		return nil, fmt.Errorf("%w: namespace %q is reserved for AWS KMS", provider.ErrInvalidKey, p.namespace)
	}
	if !utf8.ValidString(p.namespace) || !utf8.ValidString(p.name) || len(p.namespace) > 1024 || len(p.name) > 1024 {
		return nil, fmt.Errorf("%w: namespace and name must be UTF-8 of at most 1,024 bytes", provider.ErrInvalidKey)
	}
	key := c.Key
	switch {
	case c.KeyFile == "" && key == nil:
		return nil, fmt.Errorf("%w: neither a key file nor a key is given", provider.ErrInvalidKey)
	case c.KeyFile != "" && key != nil:
		return nil, fmt.Errorf("%w: both a key file and a key are given", provider.ErrInvalidKey)
	case c.KeyFile != "":
		var err error
		if key, p.created, err = readKeyFile(c.KeyFile); err != nil {
			return nil, err
		}
	}
	defer clear(key)
	switch len(key) {
	case 16, 24, 32:
	default:
		return nil, fmt.Errorf("%w: it has %d bytes, AES takes 16, 24 or 32", provider.ErrInvalidKey, len(key))
	}
	var err error
	p.key, err = provider.NewSecureBytes(key)
	return p, err
}

func readKeyFile(path string) ([]byte, time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, time.Time{}, fmt.Errorf("local: key file %s does not exist; make one with local.Generate or `pikokms keygen`: %w", path, fs.ErrNotExist)
		}
		return nil, time.Time{}, fmt.Errorf("local: opening the key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("local: key file %s: %w", path, err)
	}
	// Windows has no such mode bits: its files inherit the folder's access list.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, time.Time{}, fmt.Errorf("%w: key file %s has mode %04o, others may use it; run chmod 600 on it", provider.ErrInvalidKey, path, info.Mode().Perm())
	}
	const most = 1024
	buf := make([]byte, most)
	defer clear(buf)
	n, err := io.ReadFull(f, buf)
	if err == nil {
		return nil, time.Time{}, fmt.Errorf("%w: key file %s is over %d bytes, it should be one line of base64", provider.ErrInvalidKey, path, most-1)
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, time.Time{}, fmt.Errorf("local: reading key file %s: %w", path, err)
	}
	text := bytes.TrimSpace(buf[:n])
	key := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err = base64.StdEncoding.Strict().Decode(key, text)
	if err != nil {
		clear(key)
		return nil, time.Time{}, fmt.Errorf("%w: key file %s is not base64", provider.ErrInvalidKey, path)
	}
	return key[:n], info.ModTime(), nil
}

// Type implements provider.EncryptionProvider.
func (p *Provider) Type() provider.Type { return provider.TypeLocalAESGCM }

// Close zeroes the key; the provider is of no use afterwards.
func (p *Provider) Close() error { return p.key.Close() }

func (p *Provider) fail(operation string, err error) error {
	return &provider.EncryptionError{Operation: operation, Provider: string(provider.TypeLocalAESGCM), KeyID: p.name, Err: err}
}

func (p *Provider) checkKeyID(keyID string) error {
	if keyID != "" && keyID != p.name {
		return fmt.Errorf("%w: this provider has key %q; make another provider for %q", provider.ErrKeyNotFound, p.name, keyID)
	}
	return nil
}

// withCipher calls operation with the wrapping cipher and the additional data of an encryption context.
func (p *Provider) withCipher(encryptionContext map[string]string, operation func(aead cipher.AEAD, additional []byte) error) error {
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return err
	}
	return p.key.WithAccess(func(key []byte) error {
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		return operation(aead, additional)
	})
}

// GenerateDataKey implements provider.Keyring.
func (p *Provider) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	if err := errors.Join(ctx.Err(), p.checkKeyID(request.KeyID)); err != nil {
		return nil, p.fail("GenerateDataKey", err)
	}
	size := 32
	switch request.KeySpec {
	case "", "AES_256":
	case "AES_128":
		size = 16
	default:
		return nil, p.fail("GenerateDataKey", fmt.Errorf("%w: key spec %q is neither AES_256 nor AES_128", provider.ErrInvalidKey, request.KeySpec))
	}
	raw := make([]byte, size)
	_, _ = rand.Read(raw) // never fails
	key, err := provider.NewSecureBytes(raw)
	if err != nil {
		return nil, p.fail("GenerateDataKey", err)
	}
	wrapped, err := p.WrapDataKey(ctx, key, request.Context)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: p.name, Provider: p.Type()}, nil
}

// keyInfo is what the key provider information holds before the IV: the key name, the tag length in bits and the IV length
// in bytes.
func (p *Provider) keyInfo() []byte {
	b := binary.BigEndian.AppendUint32([]byte(p.name), header.TagSize*8)
	return binary.BigEndian.AppendUint32(b, header.IVSize)
}

// WrapDataKey implements provider.Keyring.
func (p *Provider) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped := header.EncryptedDataKey{ProviderID: p.namespace}
	if err := ctx.Err(); err != nil {
		return wrapped, p.fail("WrapDataKey", err)
	}
	err := p.withCipher(encryptionContext, func(aead cipher.AEAD, additional []byte) error {
		iv := make([]byte, header.IVSize)
		_, _ = rand.Read(iv) // never fails
		wrapped.ProviderInfo = append(p.keyInfo(), iv...)
		return key.WithAccess(func(plain []byte) error {
			wrapped.Ciphertext = aead.Seal(nil, iv, plain, additional)
			return nil
		})
	})
	if err != nil {
		return wrapped, p.fail("WrapDataKey", fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	return wrapped, nil
}

// UnwrapDataKey implements provider.Keyring.
func (p *Provider) UnwrapDataKey(ctx context.Context, keys []header.EncryptedDataKey, encryptionContext map[string]string) (*provider.SecureBytes, error) {
	if err := ctx.Err(); err != nil {
		return nil, p.fail("UnwrapDataKey", err)
	}
	info := p.keyInfo()
	err := provider.ErrUntrustedKey
	for _, wrapped := range keys {
		iv, ok := bytes.CutPrefix(wrapped.ProviderInfo, info)
		if wrapped.ProviderID != p.namespace || !ok || len(iv) != header.IVSize {
			continue
		}
		var key *provider.SecureBytes
		err = p.withCipher(encryptionContext, func(aead cipher.AEAD, additional []byte) error {
			plain, err := aead.Open(nil, iv, wrapped.Ciphertext, additional)
			if err != nil {
				return fmt.Errorf("%w: the data key does not open: another key of the same name, or a changed header", provider.ErrDecryptionFailed)
			}
			key, err = provider.NewSecureBytes(plain)
			return err
		})
		if err == nil {
			return key, nil
		}
	}
	return nil, p.fail("UnwrapDataKey", err)
}

// Encrypt implements provider.EncryptionProvider. The result is the base64 text of an AWS Encryption SDK message.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail("Encrypt", provider.ErrEmptyPlaintext)
	}
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, p.fail("Encrypt", err)
	}
	text, err := message.EncryptText(ctx, p, request)
	if err != nil {
		return nil, p.fail("Encrypt", err)
	}
	return &provider.EncryptResponse{Ciphertext: text, KeyID: p.name, Provider: p.Type()}, nil
}

// Decrypt implements provider.EncryptionProvider. The request's context must equal the one given to Encrypt.
func (p *Provider) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if request.Ciphertext == "" {
		return nil, p.fail("Decrypt", provider.ErrEmptyCiphertext)
	}
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, p.fail("Decrypt", err)
	}
	ciphertext, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail("Decrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	plaintext, err := message.DecryptText(ctx, p, ciphertext, request)
	if err != nil {
		return nil, p.fail("Decrypt", err)
	}
	return &provider.DecryptResponse{Plaintext: plaintext}, nil
}

// EncryptStream implements provider.EncryptionProvider.
func (p *Provider) EncryptStream(ctx context.Context, output io.Writer, request *provider.EncryptRequest) (io.WriteCloser, error) {
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, p.fail("EncryptStream", err)
	}
	w, err := (&message.Encrypter{Keyring: p}).NewWriter(ctx, output, request.Context)
	if err != nil {
		return nil, err // not w: a nil pointer would make an io.WriteCloser that is not nil
	}
	return w, nil
}

// DecryptStream implements provider.EncryptionProvider. The result is a *message.DecryptReader.
func (p *Provider) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	r, err := (&message.Decrypter{Keyrings: []provider.Keyring{p}}).NewReader(ctx, input, nil)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// GetKeyInfo implements provider.EncryptionProvider.
func (p *Provider) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	if err := errors.Join(ctx.Err(), p.checkKeyID(keyID)); err != nil {
		return nil, p.fail("GetKeyInfo", err)
	}
	return &provider.KeyInfo{
		KeyID:     p.name,
		Provider:  p.Type(),
		Algorithm: fmt.Sprintf("AES-%d-GCM", 8*p.key.Len()),
		Status:    provider.KeyStatusActive,
		CreatedAt: p.created,
		Origin:    "LOCAL",
		Metadata:  map[string]string{"namespace": p.namespace, "name": p.name},
	}, nil
}

// HealthCheck implements provider.EncryptionProvider.
func (p *Provider) HealthCheck(ctx context.Context) error {
	if err := provider.Check(ctx, p); err != nil {
		return p.fail("HealthCheck", err)
	}
	return nil
}

var _ provider.EncryptionProvider = (*Provider)(nil)
