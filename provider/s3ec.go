package provider

import "context"

// S3ECKeyring is a provider that can also unwrap the data keys of objects that AWS's S3 Encryption
// Client wrote. Only package s3ec asks for them, if the application allows it.
type S3ECKeyring interface {
	// UnwrapS3EC returns a data key of 32 bytes, which the caller closes. Those objects don't name
	// their wrapping key, so a key service is asked about each of the provider's own keys, and
	// about no other. The error holds ErrUntrustedKey if keys of the provider's kind have no such
	// algorithm, ErrDecryptionFailed or ErrInvalidCiphertext, or is the key service's.
	UnwrapS3EC(ctx context.Context, wrapped *S3ECDataKey) (*SecureBytes, error)
}

// S3ECDataKey is a wrapped data key of an object of the S3 Encryption Client.
type S3ECDataKey struct {
	// Algorithm is the wrapping algorithm: "kms+context" or "kms" of AWS KMS; "AES/GCM", "AESWrap"
	// or "AES" of an AES key; "RSA-OAEP-SHA1", "RSA/ECB/OAEPWithSHA-256AndMGF1Padding" or "RSA" of
	// an RSA key.
	Algorithm  string
	Content    string // the content's algorithm, to which "AES/GCM" and "RSA-OAEP-SHA1" bind the data key
	Ciphertext []byte
	Context    map[string]string // the encryption context of AWS KMS
}
