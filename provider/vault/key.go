package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"piko.sh/pikokms/provider"
)

// types are the types of keys that authenticate associated data (OpenBao and HashiCorp Vault API,
// transit, "Create key" and "Encrypt data").
var types = []string{"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"}

// keyState is the server's description of a key.
type keyState struct {
	Name                 string                     `json:"name"`
	Type                 string                     `json:"type"`
	Derived              bool                       `json:"derived"`
	Convergent           bool                       `json:"convergent_encryption"`
	SoftDeleted          bool                       `json:"soft_deleted"`
	Exportable           bool                       `json:"exportable"`
	Imported             bool                       `json:"imported_key"`
	Keys                 map[string]json.RawMessage `json:"keys"` // versions, with when they were made
	LatestVersion        int                        `json:"latest_version"`
	MinDecryptionVersion int                        `json:"min_decryption_version"`
	MinEncryptionVersion int                        `json:"min_encryption_version"`
}

// usable returns an error that says why a key cannot wrap data keys, or nil.
func (k *keyState) usable() error {
	switch {
	case k.Convergent:
		return fmt.Errorf("%w: it is convergent, so that equal data keys would have equal ciphertexts; make a key without convergent_encryption and derived", provider.ErrKeyUsage)
	case k.Derived:
		return fmt.Errorf("%w: it is derived, so that each call needs a context of its own kind; make a key without derived, since the encryption context is bound as associated data", provider.ErrKeyUsage)
	case !slices.Contains(types, k.Type):
		return fmt.Errorf("%w: it is of type %q, which has no associated data; make a key of type aes256-gcm96 (known are %s)", provider.ErrKeyUsage, k.Type, strings.Join(types, ", "))
	case k.SoftDeleted:
		return fmt.Errorf("%w: the key is soft-deleted; restore it to use it", provider.ErrKeyPendingDeletion)
	}
	return nil
}

// info describes a key. Its time of creation is that of the oldest version that the server lists.
func (k *keyState) info(id string) *provider.KeyInfo {
	info := &provider.KeyInfo{
		KeyID:     id,
		Algorithm: k.Type,
		Err:       k.usable(),
		Origin:    "VAULT",
		Metadata: map[string]string{
			"latest_version":         strconv.Itoa(k.LatestVersion),
			"min_decryption_version": strconv.Itoa(k.MinDecryptionVersion),
			"min_encryption_version": strconv.Itoa(k.MinEncryptionVersion),
			"exportable":             strconv.FormatBool(k.Exportable),
		},
	}
	if k.Imported {
		info.Origin = "EXTERNAL"
	}
	for _, made := range k.Keys {
		var seconds int64
		if json.Unmarshal(made, &seconds) != nil {
			continue // versions of asymmetric keys are described at length
		}
		if at := time.Unix(seconds, 0); info.CreatedAt.IsZero() || at.Before(info.CreatedAt) {
			info.CreatedAt = at
		}
	}
	return info
}
