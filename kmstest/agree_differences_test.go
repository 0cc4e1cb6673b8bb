package kmstest_test

// difference is a list of questions that an emulator answers otherwise than AWS documents, with
// its answers, and what AWS documents. kmstest answers as AWS in all of them. "API" is the KMS API
// Reference, "states" the table of the Developer Guide's page "Key states of AWS KMS keys".
type difference struct {
	aws              string
	localStack, moto map[string]string
}

var differences = []difference{{
	aws: "API, Decrypt, EncryptionContext: it must match exactly. Both run its names and values together",
	localStack: map[string]string{
		"characters moved in a context": "ok secret true",
		"pairs joined in a context":     "ok secret true",
	},
	moto: map[string]string{
		"characters moved in a context": "ok secret true",
		"pairs joined in a context":     "ok secret true",
	},
}, {
	aws:  "states, all rows. moto has states, and no operation heeds them",
	moto: regardlessOfState(),
}, {
	aws: "states, CancelKeyDeletion, note 4: a key that is not pending deletion is in an invalid state",
	localStack: map[string]string{
		"CancelKeyDeletion of a key that is Disabled":      "DisabledException",
		"CancelKeyDeletion of a key that is PendingImport": "ok",
	},
}, {
	aws: "states, column PendingImport, notes 5 and 6: no key material, no use, and AWS does not rotate it",
	localStack: map[string]string{
		"DisableKey of a key that is PendingImport":                      "ok",
		"DisableKeyRotation of a key that is PendingImport":              "ok",
		"EnableKey of a key that is PendingImport":                       "ok",
		"EnableKeyRotation of a key that is PendingImport":               "ok",
		"GenerateDataKey of a key that is PendingImport":                 "ok",
		"GenerateDataKeyWithoutPlaintext of a key that is PendingImport": "ok",
		"GetKeyRotationStatus of a key that is PendingImport":            "ok",
		"ReplicateKey of a key that is PendingImport":                    "ok",
	},
}, {
	aws: "API, Decrypt, CiphertextBlob: 1 to 6,144 bytes",
	localStack: map[string]string{
		"a ciphertext of 6,145 bytes": "IncorrectKeyException",
		"a ciphertext of no bytes":    "InvalidCiphertextException",
	},
	moto: map[string]string{
		"a ciphertext of 6,145 bytes": "AccessDeniedException",
		"a ciphertext of no bytes":    "InvalidCiphertextException",
	},
}, {
	aws:        "API, Encrypt, Plaintext: at least 1 byte",
	localStack: map[string]string{"nothing does not encrypt": "ok"},
}, {
	aws: "API, GenerateDataKey, KeySpec and NumberOfBytes: one of the two, AES_128 or AES_256, 1 to 1,024 bytes",
	localStack: map[string]string{
		"a data key of 1,024 bytes":     "ok 32",
		"a data key of 1,025 bytes":     "ok 32",
		"a data key of AES_128":         "ok 32",
		"a data key of an unknown spec": "ok 32",
		"a data key of no size":         "ok 32",
		"a data key of two sizes":       "ok 32",
	},
}, {
	aws: "API, GenerateDataKey, KeyId, and Encrypt, InvalidKeyUsageException: the key's usage and spec must fit",
	localStack: map[string]string{
		"a data key under an RSA key": "ok",
	},
	moto: map[string]string{
		"a data key under an RSA key":     "ok",
		"an encryption under an HMAC key": "ok",
	},
}, {
	aws: "API, Encrypt, EncryptionAlgorithm: the default is SYMMETRIC_DEFAULT, which an RSA key does not have",
	localStack: map[string]string{
		"an RSA key and the algorithm of symmetric": "ok true",
		"an RSA key without an algorithm":           "ok true",
	},
	moto: map[string]string{
		"an RSA key and the algorithm of symmetric": "ok true",
		"an RSA key without an algorithm":           "ok true",
	},
}, {
	aws: "API, Encrypt: the sizes that each algorithm takes, and GetPublicKey: it encrypts outside of KMS",
	moto: map[string]string{
		"an RSA key encrypts no more with SHA-1":   "ok true",
		"an RSA key encrypts no more with SHA-256": "ok true",
		"a public key encrypts":                    "InvalidCiphertextException",
	},
}, {
	aws: "API, DeriveSharedSecret, which moto does not have: KeyId is the ARN in its example, and another curve's key is no valid input",
	localStack: map[string]string{
		"two keys agree on one secret, and outside of KMS too": "ok true false ECDH AWS_KMS",
		"keys on two curves agree on nothing":                  "InternalError",
	},
	moto: map[string]string{
		"two keys agree on one secret, and outside of KMS too": "no answer of KMS",
		"a symmetric key agrees on nothing":                    "no answer of KMS",
		"a key that signs agrees on nothing":                   "no answer of KMS",
		"keys on two curves agree on nothing":                  "no answer of KMS",
	},
}, {
	aws:        "API, GetPublicKey: of an asymmetric key",
	localStack: map[string]string{"the public key of a symmetric key": "ok"},
	moto:       map[string]string{"the public key of a symmetric key": "ok"},
}, {
	aws:        "API, CreateKey, KeyUsage: required but for symmetric keys; RSA keys do not agree on secrets",
	localStack: map[string]string{"an RSA key needs a usage": "ok"},
	moto: map[string]string{
		"an RSA key needs a usage":          "ok",
		"an RSA key that agrees on secrets": "ok",
	},
}, {
	aws:        "API, KeyMetadata: KeyUsage, and KeyAgreementAlgorithms where that is the usage",
	localStack: map[string]string{"a key agreement key": "ok KEY_AGREEMENT ECC_NIST_P256 []"},
	moto: map[string]string{
		"a key agreement key":  "ok KEY_AGREEMENT ECC_NIST_P256 []",
		"a new key is enabled": "ok Enabled true  SYMMETRIC_DEFAULT AWS_KMS CUSTOMER false [SYMMETRIC_DEFAULT] new",
	},
}, {
	aws: "API, Decrypt and ReEncrypt, IncorrectKeyException: for another key than the ciphertext's",
	moto: map[string]string{
		"a decrypt under another key":    "AccessDeniedException",
		"a value moved from a wrong key": "ok",
	},
}, {
	aws: "AccessDeniedException: The ciphertext refers to a customer master key that does not exist, does not exist " +
		"in this region, or you are not allowed to access. The API names no error for it",
	localStack: map[string]string{"a decrypt in another Region": "NotFoundException"},
}, {
	aws:        "API, ReEncrypt, SourceKeyId: required for asymmetric keys only",
	localStack: map[string]string{"a value moved from a key that is not named": "InternalError"},
}, {
	aws:        "API, Encrypt, DryRun and GrantTokens: DryRunOperationException, and at most 10",
	localStack: map[string]string{"a dry run that would succeed": "ok", "eleven grant tokens": "ok"},
	moto:       map[string]string{"a dry run that would succeed": "ok", "eleven grant tokens": "ok"},
}, {
	aws: "API, CreateAlias, AliasName: letters, digits, /, _ and -, no alias/aws/, else InvalidAliasNameException",
	localStack: map[string]string{
		"an alias of AWS":       "ok",
		"an alias with a blank": "ok",
		"an alias with a colon": "ok",
	},
	moto: map[string]string{
		"an alias of AWS":       "ok",
		"an alias with a colon": "ValidationException",
	},
}, {
	aws:        "API, EnableKeyRotation, RotationPeriodInDays: 90 to 2,560, default 365, which GetKeyRotationStatus tells",
	localStack: map[string]string{"a rotation period of 89 days": "ok"},
	moto: map[string]string{
		"a rotation of a key that rotates": "ok false 0 ok true 0 ok true 0 ok false 0",
		"a rotation of an RSA key":         "ok",
		"a rotation period of 89 days":     "ok",
	},
}, {
	aws: "API, ScheduleKeyDeletion, PendingWindowInDays: 7 to 30, and the answer has KeyState and the window",
	moto: map[string]string{
		"a deletion in 31 days": "ok  0",
		"a deletion in 6 days":  "ok  0",
		"a deletion in 7 days":  "ok  0",
	},
}, {
	aws: "API, ScheduleKeyDeletion: a primary key with replicas is PendingReplicaDeletion; ReplicateKey: once for " +
		"a Region, of multi-Region keys, and replicas decrypt what their primary key encrypted",
	localStack: map[string]string{"a primary key's deletion waits for its replica's": "ok PendingDeletion"},
	moto: map[string]string{
		"a primary key's deletion waits for its replica's": "ok",
		"a multi-Region key and its replica":               "AccessDeniedException",
		"a replica of a key of one Region":                 "no answer of KMS",
		"a second replica in one Region":                   "ok",
	},
}}

// regardlessOfState answers every question about a key's state as if the key were enabled.
func regardlessOfState() map[string]string {
	answers := make(map[string]string)
	for question := range stateAgreements() {
		answers[question] = "ok"
	}
	return answers
}
