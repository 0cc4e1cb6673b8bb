package kmstest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"hash"
)

const (
	maxPlaintext   = 4096 // bytes (KMS API Reference, Encrypt)
	maxCiphertext  = 6144 // bytes (KMS API Reference, Decrypt)
	maxDataKey     = 1024 // bytes (KMS API Reference, GenerateDataKey, NumberOfBytes)
	maxGrantTokens = 10

	oaepSHA1   = "RSAES_OAEP_SHA_1"
	oaepSHA256 = "RSAES_OAEP_SHA_256"
)

// usable returns a key that the caller names for encrypting or decrypting.
func (x *exchange) usable(member, name string) (*key, *failure) {
	k, failure := x.named(member, name)
	if failure != nil {
		return nil, failure
	}
	if failure := use.check(k); failure != nil {
		return nil, failure
	}
	if k.Usage != encryptDecrypt {
		return nil, fail("InvalidKeyUsageException", "%s key usage is %s which is not valid for %s.", k.ARN, k.Usage, x.request.Operation)
	}
	return k, nil
}

// algorithm checks the encryption algorithm that a caller names; the default is that of symmetric
// keys. It also refuses an encryption context with any other algorithm.
func (k *key) algorithm(name string, context map[string]string) (string, *failure) {
	setDefault(&name, symmetric)
	if (name == symmetric) != (k.Spec == symmetric) || name != symmetric && oaep[name] == nil {
		return "", fail("InvalidKeyUsageException", "Algorithm %s is incompatible with key spec %s.", name, k.Spec)
	}
	if name != symmetric && len(context) > 0 {
		return "", invalid("EncryptionContext is not supported when using asymmetric KMS keys.")
	}
	return name, nil
}

var oaep = map[string]func() hash.Hash{oaepSHA1: sha1.New, oaepSHA256: sha256.New}

func (x *exchange) encrypt() (map[string]any, *failure) {
	k, failure := x.usable("keyId", x.input.KeyId)
	if failure != nil {
		return nil, failure
	}
	if len(x.input.Plaintext) == 0 {
		return nil, invalid("1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	if len(x.input.Plaintext) > maxPlaintext {
		return nil, tooLong("plaintext", maxPlaintext)
	}
	algorithm, failure := k.algorithm(x.input.EncryptionAlgorithm, x.input.EncryptionContext)
	if failure != nil {
		return nil, failure
	}
	blob, failure := k.encrypt(algorithm, x.input.Plaintext, x.input.EncryptionContext)
	if failure != nil {
		return nil, failure
	}
	return map[string]any{"KeyId": k.ARN, "CiphertextBlob": blob, "EncryptionAlgorithm": algorithm}, x.dryRun()
}

func (k *key) encrypt(algorithm string, plaintext []byte, context map[string]string) ([]byte, *failure) {
	if algorithm == symmetric {
		return k.seal(plaintext, context), nil
	}
	private, newHash := k.makePrivate(), oaep[algorithm]
	if limit := private.Size() - 2*newHash().Size() - 2; len(plaintext) > limit {
		return nil, invalid("Algorithm %s and key spec %s cannot encrypt data larger than %d bytes.", algorithm, k.Spec, limit)
	}
	blob, err := rsa.EncryptOAEP(newHash(), rand.Reader, &private.PublicKey, plaintext, nil)
	if err != nil {
		return nil, fail("KMSInternalException", "%v", err)
	}
	return blob, nil
}

func (x *exchange) decrypt() (map[string]any, *failure) {
	in := &x.input
	o, failure := x.open("keyId", in.KeyId, in.EncryptionAlgorithm, in.EncryptionContext)
	if failure != nil {
		return nil, failure
	}
	members := map[string]any{"KeyId": o.key.ARN, "Plaintext": o.plaintext, "EncryptionAlgorithm": o.algorithm}
	if o.material != nil {
		members["KeyMaterialId"] = o.material.materialID()
	}
	return members, x.dryRun()
}

// opened is a decrypted ciphertext.
type opened struct {
	key       *key
	algorithm string
	plaintext []byte
	material  *material // nil for asymmetric keys
}

// open decrypts the request's ciphertext under the key that the request names or, if it names none,
// the one that the ciphertext names. member is the request's member that names the key.
func (x *exchange) open(member, name, algorithm string, context map[string]string) (*opened, *failure) {
	blob := x.input.CiphertextBlob
	if x.ignoresCiphertext() {
		k, failure := x.usable(member, name)
		if failure != nil {
			return nil, failure
		}
		algorithm, failure = k.algorithm(algorithm, context)
		return &opened{key: k, algorithm: algorithm, plaintext: []byte{0}}, failure
	}
	if len(blob) == 0 {
		return nil, missing("ciphertextBlob")
	}
	if len(blob) > maxCiphertext {
		return nil, tooLong("ciphertextBlob", maxCiphertext)
	}
	setDefault(&algorithm, symmetric)
	named, _, parsed := parseBlob(blob)
	if name == "" {
		if algorithm != symmetric {
			return nil, missing(member)
		}
		if !parsed {
			return nil, fail("InvalidCiphertextException", "")
		}
		k := x.server.find(x.request.Region, named.account, named.keyID)
		if k == nil {
			return nil, fail("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
		}
		name = k.ARN
	}
	k, failure := x.usable(member, name)
	if failure != nil {
		return nil, failure
	}
	if algorithm, failure = k.algorithm(algorithm, context); failure != nil {
		return nil, failure
	}
	if algorithm != symmetric {
		plaintext, err := rsa.DecryptOAEP(oaep[algorithm](), nil, k.makePrivate(), blob, nil)
		if err != nil {
			return nil, fail("InvalidCiphertextException", "")
		}
		return &opened{k, algorithm, plaintext, nil}, nil
	}
	if parsed && (named.account != k.Account || named.keyID != k.ID) {
		return nil, fail("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	plaintext, m, ok := k.open(blob, context)
	if !ok {
		return nil, fail("InvalidCiphertextException", "")
	}
	return &opened{k, algorithm, plaintext, m}, nil
}

func (x *exchange) reEncrypt() (map[string]any, *failure) {
	in := &x.input
	from, failure := x.open("sourceKeyId", in.SourceKeyId, in.SourceEncryptionAlgorithm, in.SourceEncryptionContext)
	if failure != nil {
		return nil, failure
	}
	to, failure := x.usable("destinationKeyId", in.DestinationKeyId)
	if failure != nil {
		return nil, failure
	}
	algorithm, failure := to.algorithm(in.DestinationEncryptionAlgorithm, in.DestinationEncryptionContext)
	if failure != nil {
		return nil, failure
	}
	blob, failure := to.encrypt(algorithm, from.plaintext, in.DestinationEncryptionContext)
	if failure != nil {
		return nil, failure
	}
	members := map[string]any{
		"SourceKeyId": from.key.ARN, "SourceEncryptionAlgorithm": from.algorithm,
		"KeyId": to.ARN, "DestinationEncryptionAlgorithm": algorithm, "CiphertextBlob": blob,
	}
	if from.material != nil {
		members["SourceKeyMaterialId"] = from.material.materialID()
	}
	if algorithm == symmetric {
		members["DestinationKeyMaterialId"] = to.newest().materialID()
	}
	return members, x.dryRun()
}

// generateDataKey answers GenerateDataKey and GenerateDataKeyWithoutPlaintext.
func (x *exchange) generateDataKey() (map[string]any, *failure) {
	k, failure := x.usable("keyId", x.input.KeyId)
	if failure != nil {
		return nil, failure
	}
	if k.Spec != symmetric {
		return nil, fail("InvalidKeyUsageException", "%s key spec is %s which is not valid for %s.", k.ARN, k.Spec, x.request.Operation)
	}
	size, failure := x.dataKeySize()
	if failure != nil {
		return nil, failure
	}
	plaintext := make([]byte, size)
	_, _ = rand.Read(plaintext)
	members := map[string]any{
		"KeyId":          k.ARN,
		"CiphertextBlob": k.seal(plaintext, x.input.EncryptionContext),
		"KeyMaterialId":  k.newest().materialID(),
	}
	if x.request.Operation == "GenerateDataKey" {
		members["Plaintext"] = plaintext
	}
	return members, x.dryRun()
}

func (x *exchange) dataKeySize() (int, *failure) {
	size := x.input.NumberOfBytes
	switch spec := x.input.KeySpec; {
	case (spec == "") == (size == nil):
		return 0, invalid("Please specify either number of bytes or key spec.")
	case spec == "AES_256":
		return 32, nil
	case spec == "AES_128":
		return 16, nil
	case spec != "":
		return 0, invalid("1 validation error detected: Value '%s' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]", spec)
	case *size < 1:
		return 0, invalid("1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1", *size)
	case *size > maxDataKey:
		return 0, invalid("1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to %d", *size, maxDataKey)
	}
	return *size, nil
}

func (x *exchange) getPublicKey() (map[string]any, *failure) {
	k, failure := x.named("keyId", x.input.KeyId)
	if failure != nil {
		return nil, failure
	}
	if failure := use.check(k); failure != nil {
		return nil, failure
	}
	var publicKey any
	switch {
	case k.makePrivate != nil:
		publicKey = &k.makePrivate().PublicKey
	case k.ec != nil:
		publicKey = k.ec.PublicKey()
	default:
		return nil, fail("UnsupportedOperationException", "%s key spec is %s which is not valid for GetPublicKey.", k.ARN, k.Spec)
	}
	public, err := x509.MarshalPKIXPublicKey(publicKey)
	if err != nil {
		return nil, fail("KMSInternalException", "%v", err)
	}
	member, algorithms := k.algorithms()
	return map[string]any{
		"KeyId": k.ARN, "PublicKey": public, "KeySpec": k.Spec, "CustomerMasterKeySpec": k.Spec,
		"KeyUsage": k.Usage, member: algorithms,
	}, nil
}
