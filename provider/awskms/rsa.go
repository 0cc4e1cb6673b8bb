package awskms

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the other hash that KMS has for OAEP
	_ "crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/internal/keyfile"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/lazy"
)

const (
	// rsaProviderID is the key provider ID of RSA keys of AWS KMS in messages (specification:
	// framework/aws-kms/aws-kms-rsa-keyring.md, "OnEncrypt").
	rsaProviderID = "aws-kms-rsa"

	// minRSABits is the shortest modulus of KMS in bits (AWS KMS Developer Guide, "Key spec
	// reference").
	minRSABits = 2048
)

func isRSA(spec types.KeySpec) bool {
	return spec == types.KeySpecRsa2048 || spec == types.KeySpecRsa3072 || spec == types.KeySpecRsa4096
}

// rsaKey is what a provider knows about its RSA key in KMS, apart from the ARN.
type rsaKey struct {
	public    lazy.Value[*rsa.PublicKey]
	hash      crypto.Hash
	algorithm types.EncryptionAlgorithmSpec
}

// init sets the hash.
func (k *rsaKey) init(hash crypto.Hash) {
	k.hash, k.algorithm = crypto.SHA256, types.EncryptionAlgorithmSpecRsaesOaepSha256
	if hash == crypto.SHA1 {
		k.hash, k.algorithm = crypto.SHA1, types.EncryptionAlgorithmSpecRsaesOaepSha1
	}
}

// digest returns the SHA-384 of a serialised encryption context. An RSA key of KMS takes no
// context, so this digest and the data key are encrypted together, which binds one to the other.
func digest(encryptionContext map[string]string) ([]byte, error) {
	// AWS's Material Providers Library refuses signed messages here, so other readers could not
	// open them.
	if _, signed := encryptionContext[header.PublicKeyName]; signed {
		return nil, fmt.Errorf("%w: an RSA key of KMS serves suites without a signature only", provider.ErrKeyUsage)
	}
	serialised, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(serialised)
	return sum[:], nil
}

// wrapRSA wraps a data key under the provider's own RSA key.
func (p *keyring) wrapRSA(ctx context.Context, keyARN string, plain []byte, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	bound, err := digest(encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	public, err := p.rsa.public.Get(ctx, func(ctx context.Context) (*rsa.PublicKey, error) {
		parsed, err := p.getPublicKey(ctx, keyARN)
		if err != nil {
			return nil, err
		}
		public, ok := parsed.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%w: KMS answered with a public key of another kind than the key's", provider.ErrEncryptionFailed)
		}
		return public, nil
	})
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	if err := ctx.Err(); err != nil {
		return header.EncryptedDataKey{}, err
	}
	input := append(make([]byte, 0, len(bound)+len(plain)), bound...)
	input = append(input, plain...)
	defer clear(input)
	ciphertext, err := rsa.EncryptOAEP(p.rsa.hash.New(), rand.Reader, public, input, nil)
	if err != nil {
		return header.EncryptedDataKey{}, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	return header.EncryptedDataKey{ProviderID: rsaProviderID, ProviderInfo: []byte(keyARN), Ciphertext: ciphertext}, nil
}

// unwrapRSA asks KMS for a data key under an RSA key.
func (p *keyring) unwrapRSA(ctx context.Context, keyARN string, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	want, err := digest(request.Context)
	if err != nil {
		return nil, err
	}
	plain, err := p.decrypt(ctx, &kms.DecryptInput{
		KeyId: aws.String(keyARN), CiphertextBlob: request.EncryptedKey.Ciphertext, EncryptionAlgorithm: p.rsa.algorithm,
	})
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) < len(want) || subtle.ConstantTimeCompare(plain[:len(want)], want) != 1 {
		return nil, fmt.Errorf("%w: the data key is for another encryption context", provider.ErrDecryptionFailed)
	}
	return newDataKey(plain[len(want):], request.Size)
}

// getPublicKey asks KMS for the public half of a key. It returns an *rsa.PublicKey or an
// *ecdh.PublicKey.
func (s *service) getPublicKey(ctx context.Context, keyARN string) (any, error) {
	out, err := s.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: aws.String(keyARN), GrantTokens: s.grantTokens})
	if err != nil {
		return nil, err
	}
	if got := aws.ToString(out.KeyId); got != keyARN {
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, keyARN, got)
	}
	public, err := parseDER(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: what KMS answered as the public key of %s: %w", provider.ErrEncryptionFailed, keyARN, err)
	}
	return public, nil
}

// readPublicKey reads a file, and refuses one that other users can change.
func readPublicKey(path string) ([]byte, error) {
	text, _, err := keyfile.Read(path, func([]byte) bool { return false })
	return text, err
}

func parsePublicKey(text []byte) (any, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%w: the public key is no PEM text of a PUBLIC KEY, as `aws kms get-public-key` and openssl give it", provider.ErrInvalidKey)
	}
	public, err := parseDER(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: the public key: %w", provider.ErrInvalidKey, err)
	}
	return public, nil
}

// parseDER parses a SubjectPublicKeyInfo of RSA or EC.
func parseDER(der []byte) (any, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return ecdhwrap.PublicKey(parsed)
	}
	if public.Size() < minRSABits/8 {
		return nil, fmt.Errorf("its modulus has %d bits, KMS's have at least %d", public.N.BitLen(), minRSABits)
	}
	return public, nil
}
