package kmstest

import (
	"crypto/ecdsa"
	"crypto/x509"
)

// maxPublicKey is the largest public key in bytes (KMS API Reference, DeriveSharedSecret).
const maxPublicKey = 8192

func (x *exchange) deriveSharedSecret() (map[string]any, *failure) {
	in := &x.input
	k, failure := x.named("keyId", in.KeyId)
	if failure != nil {
		return nil, failure
	}
	if failure := use.check(k); failure != nil {
		return nil, failure
	}
	switch {
	case in.KeyAgreementAlgorithm == "":
		return nil, missing("keyAgreementAlgorithm")
	case in.KeyAgreementAlgorithm != "ECDH":
		return nil, invalid("1 validation error detected: Value '%s' at 'keyAgreementAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [ECDH]", in.KeyAgreementAlgorithm)
	case len(in.PublicKey) == 0:
		return nil, missing("publicKey")
	case len(in.PublicKey) > maxPublicKey:
		return nil, tooLong("publicKey", maxPublicKey)
	case k.Usage != keyAgreement || k.ec == nil:
		return nil, fail("InvalidKeyUsageException", "%s key usage is %s which is not valid for DeriveSharedSecret.", k.ARN, k.Usage)
	}
	parsed, err := x509.ParsePKIXPublicKey(in.PublicKey)
	public, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, invalid("The public key is not a valid elliptic curve public key.")
	}
	peer, err := public.ECDH()
	if err != nil || peer.Curve() != k.ec.Curve() {
		return nil, invalid("The public key is not on the curve of %s, whose key spec is %s.", k.ARN, k.Spec)
	}
	secret, err := k.ec.ECDH(peer)
	if err != nil {
		return nil, invalid("The public key is not valid: %v", err)
	}
	return map[string]any{
		"KeyId": k.ARN, "SharedSecret": secret, "KeyAgreementAlgorithm": "ECDH", "KeyOrigin": k.origin(),
	}, x.dryRun()
}
