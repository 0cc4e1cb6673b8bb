package kmstest

import (
	"crypto/ecdh"
	"maps"
	"slices"
)

// spec is what keys of a key spec can do (KMS API Reference, CreateKey, KeySpec and KeyUsage).
type spec struct {
	usages []string   // the first is the default of Key.Usage
	bits   int        // of an RSA key's modulus; 0 for other keys
	curve  ecdh.Curve // of a key that can agree on secrets; nil for other keys
}

const (
	signVerify        = "SIGN_VERIFY"
	keyAgreement      = "KEY_AGREEMENT"
	generateVerifyMAC = "GENERATE_VERIFY_MAC"
)

var specs = map[string]spec{
	symmetric:               {usages: []string{encryptDecrypt}},
	"RSA_2048":              {usages: []string{encryptDecrypt, signVerify}, bits: 2048},
	"RSA_3072":              {usages: []string{encryptDecrypt, signVerify}, bits: 3072},
	"RSA_4096":              {usages: []string{encryptDecrypt, signVerify}, bits: 4096},
	"ECC_NIST_P256":         {usages: []string{keyAgreement, signVerify}, curve: ecdh.P256()},
	"ECC_NIST_P384":         {usages: []string{keyAgreement, signVerify}, curve: ecdh.P384()},
	"ECC_NIST_P521":         {usages: []string{keyAgreement, signVerify}, curve: ecdh.P521()},
	"ECC_SECG_P256K1":       {usages: []string{signVerify}},
	"ECC_NIST_EDWARDS25519": {usages: []string{signVerify}},
	"HMAC_224":              {usages: []string{generateVerifyMAC}},
	"HMAC_256":              {usages: []string{generateVerifyMAC}},
	"HMAC_384":              {usages: []string{generateVerifyMAC}},
	"HMAC_512":              {usages: []string{generateVerifyMAC}},
}

func specNames() []string { return slices.Sorted(maps.Keys(specs)) }

func (s *spec) allows(usage string) bool { return slices.Contains(s.usages, usage) }

// algorithms returns the algorithms of a key, and the name of the member that lists them in
// KeyMetadata and in GetPublicKey's answer.
func (k *key) algorithms() (member string, names []string) {
	switch k.Usage {
	case encryptDecrypt:
		if k.Spec == symmetric {
			return "EncryptionAlgorithms", []string{symmetric}
		}
		return "EncryptionAlgorithms", []string{oaepSHA1, oaepSHA256}
	case keyAgreement:
		return "KeyAgreementAlgorithms", []string{"ECDH"}
	case generateVerifyMAC:
		return "MacAlgorithms", []string{"HMAC_SHA_" + k.Spec[len("HMAC_"):]}
	}
	return "SigningAlgorithms", signing[k.Spec]
}

var rsaSigning = []string{
	"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
	"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
}

var signing = map[string][]string{
	"RSA_2048":              rsaSigning,
	"RSA_3072":              rsaSigning,
	"RSA_4096":              rsaSigning,
	"ECC_NIST_P256":         {"ECDSA_SHA_256"},
	"ECC_NIST_P384":         {"ECDSA_SHA_384"},
	"ECC_NIST_P521":         {"ECDSA_SHA_512"},
	"ECC_SECG_P256K1":       {"ECDSA_SHA_256"},
	"ECC_NIST_EDWARDS25519": {"ED25519_SHA_512", "ED25519_PH_SHA_512"},
}
