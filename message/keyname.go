package message

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/provider"
)

// mlKEM is the provider ID of data keys that pikokms cannot unwrap (specification:
// framework/aws-kms/aws-kms-ml-kem-keyring.md).
const mlKEM = "aws-kms-ml-kem"

// azureKeyVault is the provider ID of data keys under keys of Azure Key Vault.
const azureKeyVault = "azure-key-vault"

// cutVersion splits a key identifier of Azure Key Vault before its version, which has 32
// characters.
func cutVersion(id string) (name, version string) {
	if i := len(id) - 33; i > 0 && id[i] == '/' {
		return id[:i], id[i+1:]
	}
	return id, ""
}

// KeyName returns the name of the wrapping key that a wrapped data key states: a key ARN, a raw
// key's name, or in hex the recipient's public key of a key agreement or its fingerprint under
// HPKE. The name is not authenticated. It is always printable, since other characters are escaped
// as in a Go string.
func KeyName(k header.EncryptedDataKey) string {
	info := string(k.ProviderInfo)
	switch {
	case k.ProviderID == "raw-ecdh" || k.ProviderID == "aws-kms-ecdh":
		// The information is version 01, then the compressed public keys of recipient and sender,
		// each after a length of four bytes (specification: framework/raw-ecdh-keyring.md, "Key
		// Provider Information").
		if b := k.ProviderInfo; len(b) > 5 && b[0] == 1 {
			if n := binary.BigEndian.Uint32(b[1:]); uint64(n) <= uint64(len(b)-5) {
				return "ECDH public key " + hex.EncodeToString(b[5:5+n])
			}
		}
	case k.ProviderID == "piko-hpke":
		// The information is version 01, the KEM's ID in two bytes, and a fingerprint of the public
		// key of 16 bytes.
		if len(info) == 19 && info[0] == 1 {
			return "HPKE public key " + hex.EncodeToString(k.ProviderInfo[3:])
		}
	case k.ProviderID == azureKeyVault:
		info, _ = cutVersion(info)
	case k.ProviderID == mlKEM:
		// The information is version 01, then the key ARN after a length of two bytes.
		if len(info) > 3 && info[0] == 1 {
			info = info[3:]
		}
	case k.ProviderID != "aws-kms":
		// A raw AES key's information is its name, then tag length, IV length and IV, of 4, 4 and
		// 12 bytes (specification: framework/raw-aes-keyring.md, "Key Provider Information").
		const rawAES = "\x00\x00\x00\x80\x00\x00\x00\x0c"
		if n := len(info) - 20; n >= 0 && info[n:n+8] == rawAES {
			info = info[:n]
		}
	}
	return printable(info)
}

// KeyVersion returns the version of the wrapping key that a wrapped data key states. It is a UUID
// for a branch key, a number such as "v2" for a key of Vault or OpenBao, and 32 hexadecimal digits
// for a key of Azure Key Vault. It is empty for the keys of other services, which do not state it.
// The version is not authenticated. It is printable, as the result of KeyName is.
func KeyVersion(k header.EncryptedDataKey) string {
	switch k.ProviderID {
	case azureKeyVault:
		_, version := cutVersion(string(k.ProviderInfo))
		return printable(version)
	case "aws-kms-hierarchy":
		// The ciphertext has the version's 16 bytes after a salt and an IV, of 16 and 12 bytes
		// (specification: framework/aws-kms/aws-kms-hierarchical-keyring.md, "Ciphertext").
		const start, end = 16 + gcm.IVSize, 16 + gcm.IVSize + 16
		if v := k.Ciphertext; len(v) > end {
			return fmt.Sprintf("%x-%x-%x-%x-%x", v[start:start+4], v[start+4:start+6], v[start+6:start+8], v[start+8:start+10], v[start+10:end])
		}
	case "vault-transit":
		// The ciphertext is "vault:v", the number, and a colon.
		if text, ok := strings.CutPrefix(string(k.Ciphertext), "vault:"); ok {
			if version, _, ok := strings.Cut(text, ":"); ok {
				return printable(version)
			}
		}
	}
	return ""
}

func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// describeKeys lists the names of a header's wrapping keys, for an error.
func describeKeys(keys []header.EncryptedDataKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = fmt.Sprintf(`"%s" of provider "%s"`, shortened(KeyName(k)), shortened(printable(k.ProviderID)))
		if k.ProviderID == mlKEM {
			names[i] += ", which pikokms does not support"
		}
	}
	return strings.Join(names, ", ")
}

// shortened cuts a text of the message that is too long for an error.
func shortened(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// untrusted returns the error of a message with no wrapping key that a keyring trusts. It includes
// the reasons that keyrings gave.
func untrusted(keys []header.EncryptedDataKey, reasons []string) error {
	advice := ""
	for _, k := range keys {
		if k.ProviderID != mlKEM {
			advice = "; configure a provider for one of them"
		}
	}
	if len(reasons) > 0 {
		advice = "; " + strings.Join(reasons, "; ")
	}
	return fmt.Errorf("%w: it names %s%s", provider.ErrUntrustedKey, describeKeys(keys), advice)
}

// appendReason adds a keyring's reason for not trusting a wrapping key, if it gave one.
func appendReason(reasons []string, err error) []string {
	failure, ok := errors.AsType[*provider.EncryptionError](err)
	if !ok || failure.Err == provider.ErrUntrustedKey {
		return reasons
	}
	return append(reasons, strings.TrimPrefix(failure.Err.Error(), provider.ErrUntrustedKey.Error()+": "))
}
