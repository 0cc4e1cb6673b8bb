// Package local is the encryption provider on a local key. It needs no key service.
//
// An AES key wraps data keys as the AWS Encryption SDK's raw AES keyring does (specification:
// framework/raw-aes-keyring.md), an RSA key as its raw RSA keyring does
// (framework/raw-rsa-keyring.md), and an EC key as its raw ECDH keyring does
// (framework/raw-ecdh-keyring.md). So AWS's SDKs open its messages with the same key, namespace and
// name.
//
// It is for development, tests and single machines. Its key can also be a further recipient of
// messages under a key service. With an RSA or EC public key, a machine can encrypt what it can't
// decrypt. Under an EC public key, each data key has an ephemeral key of its own. An EC private key
// with the public key of a peer encrypts and decrypts what the two exchange: nobody else can make
// it. An HPKE key protects what it wraps against a later quantum computer, too: it combines
// ML-KEM-768 with a curve, and is secure as long as one of the two is. AWS's SDKs do not know such
// keys. They open such a message by another of its recipients.
//
// Each wrap under an AES key uses a random 12-byte IV. One key may wrap 2³² data keys (NIST SP
// 800-38D, section 8.3).
package local

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/keyfile"
	"piko.sh/pikokms/provider"
)

// keySize is the size in bytes of the AES keys that Generate makes, before base64.
const keySize = 32

// Defaults of Config's fields.
const (
	defaultNamespace = "piko"
	defaultName      = "local"
)

// Config configures a provider: the key, and its name in messages.
type Config struct {
	// KeyFile is a file with a key: the base64 text of an AES key, as Generate makes it, an RSA or EC
	// key in PEM, or an HPKE key, as GenerateHPKE makes it. PEM text can have a public key
	// (SubjectPublicKeyInfo or PKCS #1) to encrypt, a private key (PKCS #8, PKCS #1 or SEC 1) to
	// decrypt, or both. The file's owner must be the process's user or root, and nobody else may have
	// access to it. Others may read it if it has only a public key.
	KeyFile string

	// Key is the key itself, in place of KeyFile: the 16, 24 or 32 bytes of an AES key, or PEM
	// text. NewProvider zeroes it. JSON never has it.
	Key []byte `json:"-"`

	Namespace string // the raw keyring's key namespace, default "piko"; of AES and RSA keys
	Name      string // the raw keyring's key name, default "local"; of AES and RSA keys

	// Peer is the other party's public EC key in PEM, and PeerFile is a file of it. With one of
	// them, the key must be an EC private key: both parties read what either writes.
	Peer     []byte
	PeerFile string

	// An RSA key wraps data keys with the padding OAEP and MGF1 (RFC 8017, section 7.1). Hash is its
	// hash: SHA1, SHA256, SHA384 or SHA512; 0 means SHA256.
	Hash crypto.Hash

	// PKCS1v15 makes an RSA key read messages with the padding of PKCS #1 v1.5 instead (RFC 8017,
	// section 7.2). An attacker who can have many crafted messages decrypted, and can measure how
	// long that takes, may learn from it. A data key with wrong padding counts as unwrapped until
	// the header's tag fails. A Decrypter then tries the next one.
	PKCS1v15 bool
}

// keyring is the provider of NewProvider.
type keyring struct {
	key     wrappingKey
	created time.Time
}

// wrappingKey is an aesKey, an rsaKey, an ecKey or an hpkeKey.
type wrappingKey interface {
	kind() provider.Type
	id() names
	algorithm() string
	encrypts() bool
	decrypts() bool
	wrap(plain []byte, encryptionContext map[string]string) (header.EncryptedDataKey, error)
	trusts(wrapped header.EncryptedDataKey) bool
	unwrap(request *provider.UnwrapDataKeyRequest) ([]byte, error) // of a data key that it trusts

	// wrapsNow reports whether the key would wrap a data key in this way today.
	wrapsNow(wrapped header.EncryptedDataKey) bool
}

// names are how messages name a key: its provider ID, which is the namespace of an AES or RSA key,
// and its name.
type names struct{ namespace, keyName string }

func (n names) id() names { return n }

// Generate makes a new random AES key of 32 bytes and writes it to a new file that only its owner
// can read. If the file exists, it is kept, and the error holds fs.ErrExist.
func Generate(path string) error {
	key := make([]byte, keySize)
	defer clear(key)
	_, _ = rand.Read(key) // never fails
	text := make([]byte, base64.StdEncoding.EncodedLen(keySize)+1)
	defer clear(text)
	base64.StdEncoding.Encode(text, key)
	text[len(text)-1] = '\n'

	return writeNew(path, text, 0o600)
}

// writeNew writes a new file.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
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

// NewProvider makes a provider on a key, which it reads if need be. A provider on a public key
// alone can only encrypt, and one on a private key alone can only decrypt. The other direction
// fails with provider.ErrKeyUsage. Close zeroes an AES key; a key of another kind stays in memory
// until Go collects it.
//
// The type of provider is "local_aes_gcm", "local_rsa", "local_ecdh" or "local_hpke". KeyID is the
// key's name. That of an EC key is the recipient's public key in hex, and that of an HPKE key a
// fingerprint of its public half. IsCurrent unwraps the data key, since two keys may have one name.
// A public key alone can't unwrap: under an EC or HPKE key, IsCurrent goes by the public key that
// the data key names, and under an RSA key it is false. It is also false with PKCS1v15, and for
// what the peer of an EC key sent.
//
// The result is also a [provider.HealthChecker], a [provider.PikoV2Keyring] for an AES key of 32
// bytes, and a [provider.S3ECKeyring] for an AES or RSA key. Hash and PKCS1v15 of the Config have
// no effect on the latter. HealthCheck wraps and unwraps a data key, as far as the key can. On a
// private key alone it checks nothing.
//
// The error holds provider.ErrInvalidKey, or fs.ErrNotExist for a missing key file. No error shows
// a part of the key.
func NewProvider(c Config) (provider.Provider, error) {
	named, err := c.names()
	if err != nil {
		return nil, err
	}
	key, created := c.Key, time.Now()
	switch {
	case c.KeyFile == "" && key == nil:
		return nil, fmt.Errorf("%w: neither a key file nor a key is given", provider.ErrInvalidKey)
	case c.KeyFile != "" && key != nil:
		return nil, fmt.Errorf("%w: both a key file and a key are given", provider.ErrInvalidKey)
	case c.KeyFile != "":
		if key, created, err = readKeyFile(c.KeyFile); err != nil {
			return nil, err
		}
	}
	defer clear(key)
	peer, err := c.readPeer()
	if err != nil {
		return nil, err
	}
	made, err := c.newKey(key, peer, named)
	if err != nil {
		return nil, err
	}
	return &keyring{made, created}, nil
}

// names returns the configured names, or the default ones.
func (c *Config) names() (names, error) {
	n := names{cmp.Or(c.Namespace, defaultNamespace), cmp.Or(c.Name, defaultName)}
	if strings.HasPrefix(n.namespace, "aws-kms") {
		return n, fmt.Errorf("%w: namespace %q is reserved for AWS KMS", provider.ErrInvalidKey, n.namespace)
	}
	if !utf8.ValidString(n.namespace) || !utf8.ValidString(n.keyName) || len(n.namespace) > 1024 || len(n.keyName) > 1024 {
		return n, fmt.Errorf("%w: namespace and name must be UTF-8 of at most 1,024 bytes", provider.ErrInvalidKey)
	}
	return n, nil
}

// newKey makes a key from the bytes of an AES key, or from PEM text.
func (c *Config) newKey(key, peer []byte, named names) (wrappingKey, error) {
	hasRSAOptions := c.PKCS1v15 || c.Hash != 0
	if !isPEM(key) {
		switch {
		case hasRSAOptions:
			return nil, fmt.Errorf("%w: padding and hash are for RSA keys, and this is an AES key", provider.ErrInvalidKey)
		case peer != nil:
			return nil, fmt.Errorf("%w: a peer is for EC keys, and this is an AES key", provider.ErrInvalidKey)
		}
		return newAESKey(key, named)
	}
	keys, err := parsePEM(key)
	if err != nil && c.KeyFile != "" {
		return nil, fmt.Errorf("key file %s: %w", c.KeyFile, err)
	}
	if err != nil {
		return nil, err
	}
	kind := "RSA"
	switch cmp.Or(keys.public, keys.private).(type) {
	case *ecdh.PublicKey, *ecdh.PrivateKey:
		kind = "EC"
	case hpke.PublicKey, hpke.PrivateKey:
		kind = "HPKE"
	}
	switch {
	case peer != nil && kind != "EC":
		return nil, fmt.Errorf("%w: a peer is for EC keys, and this is an %s key", provider.ErrInvalidKey, kind)
	case kind == "RSA":
		return newRSAKey(keys, c.PKCS1v15, c.Hash, named)
	case hasRSAOptions:
		return nil, fmt.Errorf("%w: padding and hash are for RSA keys, and this is an %s key", provider.ErrInvalidKey, kind)
	case c.Namespace != "" || c.Name != "":
		return nil, fmt.Errorf("%w: namespace and name are for AES and RSA keys; messages name an %s key by its public half", provider.ErrInvalidKey, kind)
	case kind == "HPKE":
		return newHPKEKey(keys), nil
	}
	return newECKey(keys, peer)
}

// readKeyFile returns the key in a file, and when the file was last changed. An AES key is returned
// as bytes, PEM as text.
func readKeyFile(path string) ([]byte, time.Time, error) {
	text, changed, err := keyfile.Read(path, holdsSecret)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, changed, fmt.Errorf("local: %w; make one with local.Generate or `pikokms keygen`", err)
	}
	if err != nil {
		return nil, changed, fmt.Errorf("local: %w", err)
	}
	if isPEM(text) {
		return text, changed, nil
	}
	defer clear(text)
	line := bytes.TrimSpace(text)
	key := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(key, line)
	if err != nil {
		clear(key)
		return nil, changed, fmt.Errorf("%w: key file %s is neither base64 nor PEM", provider.ErrInvalidKey, path)
	}
	return key[:n], changed, nil
}

// holdsSecret reports whether the text of a key file has more than a public key.
func holdsSecret(text []byte) bool {
	keys, err := parsePEM(text)
	return err != nil || keys.private != nil
}

func (p *keyring) Type() provider.Type { return p.key.kind() }

// KeyID returns the key's name. That of an EC key is the recipient's public key in hex, and
// that of an HPKE key a fingerprint of its public half.
func (p *keyring) KeyID() string { return p.key.id().keyName }

// Close zeroes an AES key. A key of another kind stays in memory until Go collects it. The provider
// can't be used afterwards.
func (p *keyring) Close() error {
	if key, ok := p.key.(aesKey); ok {
		return key.Close()
	}
	return nil
}

func (p *keyring) fail(operation string, err error) error {
	return provider.Failure(operation, p.Type(), p.KeyID(), err)
}

// GenerateDataKey makes a data key from the system's random numbers.
func (p *keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, p.fail("GenerateDataKey", err)
	}
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, p.fail("GenerateDataKey", err)
	}
	wrapped, err := p.WrapDataKey(ctx, key, encryptionContext)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: p.KeyID()}, nil
}

// WrapDataKey wraps a data key. Under a private key alone the error holds provider.ErrKeyUsage.
func (p *keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	var wrapped header.EncryptedDataKey
	if err := ctx.Err(); err != nil {
		return wrapped, p.fail("WrapDataKey", err)
	}
	err := key.WithAccess(func(plain []byte) (err error) {
		wrapped, err = p.key.wrap(plain, encryptionContext)
		return err
	})
	if err != nil {
		return wrapped, p.fail("WrapDataKey", fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	return wrapped, nil
}

// UnwrapDataKey unwraps a data key. Under a public key alone the error holds provider.ErrKeyUsage.
func (p *keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, p.fail("UnwrapDataKey", err)
	}
	if !p.key.trusts(request.EncryptedKey) {
		return nil, p.fail("UnwrapDataKey", provider.ErrUntrustedKey)
	}
	plain, err := p.key.unwrap(request)
	if err != nil {
		return nil, p.fail("UnwrapDataKey", err)
	}
	if len(plain) != request.Size {
		clear(plain)
		return nil, p.fail("UnwrapDataKey", fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(plain), request.Size))
	}
	key, err := provider.NewSecureBytes(plain)
	if err != nil {
		return nil, p.fail("UnwrapDataKey", err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

// IsCurrent unwraps the data key, since two keys may have one name. A public key alone can't
// unwrap: under an EC or HPKE key IsCurrent then goes by the public key that the data key names,
// and under an RSA key it is false. It is also false with PKCS #1 padding, where another key's data
// key seems to unwrap, and for what the peer of an EC key sent.
func (p *keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	_, isRSA := p.key.(*rsaKey)
	switch {
	case !p.key.wrapsNow(request.EncryptedKey):
		return false, nil
	case !p.key.decrypts():
		return !isRSA, nil
	}
	key, err := p.UnwrapDataKey(ctx, request)
	if err != nil {
		return false, err
	}
	return true, key.Close()
}

// GetKeyInfo describes the key. The error holds provider.ErrKeyNotFound for a keyID that is neither
// empty nor the key's name.
func (p *keyring) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	err := ctx.Err()
	if keyID != "" && keyID != p.KeyID() {
		err = errors.Join(err, fmt.Errorf("%w: this provider has key %q; make another provider for %q", provider.ErrKeyNotFound, p.KeyID(), keyID))
	}
	if err != nil {
		return nil, p.fail("GetKeyInfo", err)
	}
	id := p.key.id()
	return &provider.KeyInfo{
		KeyID:     id.keyName,
		Algorithm: p.key.algorithm(),
		CreatedAt: p.created,
		Origin:    "LOCAL",
		Metadata:  map[string]string{"namespace": id.namespace, "name": id.keyName},
	}, nil
}

// HealthCheck wraps and unwraps a data key. A provider that can only encrypt wraps one. A provider
// that can only decrypt checks nothing, since it has nothing to unwrap.
func (p *keyring) HealthCheck(ctx context.Context) error {
	var err error
	switch {
	case !p.key.encrypts():
		err = ctx.Err()
	case !p.key.decrypts():
		var made *provider.DataKey
		if made, err = p.GenerateDataKey(ctx, nil); err == nil {
			err = made.Close()
		}
	default:
		err = provider.Check(ctx, struct{ provider.Keyring }{p}) // hides this HealthCheck from Check
	}
	if err != nil {
		return p.fail("HealthCheck", err)
	}
	return nil
}

var (
	_ provider.Provider      = (*keyring)(nil)
	_ provider.HealthChecker = (*keyring)(nil)
)
