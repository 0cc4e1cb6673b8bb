package gcpkms

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"

	"piko.sh/pikokms/provider"
)

// versionState is the meaning of the state of a key's version.
type versionState struct {
	sentinel error  // nil if the version can be used
	reason   string // what it means and what to do
}

// versionStates has all states of a version (Cloud KMS documentation, "Key version states").
var versionStates = map[kmspb.CryptoKeyVersion_CryptoKeyVersionState]versionState{
	kmspb.CryptoKeyVersion_ENABLED: {},
	kmspb.CryptoKeyVersion_DISABLED: {
		provider.ErrKeyDisabled, "it is disabled; enable it to use it",
	},
	kmspb.CryptoKeyVersion_PENDING_GENERATION: {
		provider.ErrKeyDisabled, "it is still being made; use it in a few moments",
	},
	kmspb.CryptoKeyVersion_PENDING_IMPORT: {
		provider.ErrKeyDisabled, "its key material is still being imported",
	},
	kmspb.CryptoKeyVersion_IMPORT_FAILED: {
		provider.ErrKeyDisabled, "the import of its key material failed; import another version",
	},
	kmspb.CryptoKeyVersion_GENERATION_FAILED: {
		provider.ErrKeyDisabled, "it could not be made; make another version",
	},
	kmspb.CryptoKeyVersion_DESTROY_SCHEDULED: {
		provider.ErrKeyPendingDeletion, "it waits for its destruction; restore and enable it to use it",
	},
	kmspb.CryptoKeyVersion_DESTROYED:                    destroyed,
	kmspb.CryptoKeyVersion_PENDING_EXTERNAL_DESTRUCTION: destroyed,
	kmspb.CryptoKeyVersion_EXTERNAL_DESTRUCTION_FAILED:  destroyed,
}

var destroyed = versionState{
	provider.ErrKeyNotFound, "it is destroyed, and what it encrypted can't be decrypted any more",
}

// stateOf returns the meaning of a state.
func stateOf(state kmspb.CryptoKeyVersion_CryptoKeyVersionState) versionState {
	if known, ok := versionStates[state]; ok {
		return known
	}
	return versionState{provider.ErrKeyDisabled, fmt.Sprintf("it is in state %v", state)}
}

// usable returns an error that says why a key cannot wrap data keys, or nil.
func usable(key *kmspb.CryptoKey) error {
	if err := checkPurpose(key); err != nil {
		return err
	}
	return checkPrimary(key.GetPrimary())
}

// checkPrimary returns an error that says why the primary version of a key can't be used, or nil.
func checkPrimary(primary *kmspb.CryptoKeyVersion) error {
	if primary == nil {
		return fmt.Errorf("%w: it has no primary version; set one", provider.ErrKeyDisabled)
	}
	if state := stateOf(primary.GetState()); state.sentinel != nil {
		return fmt.Errorf("%w: the primary version %s: %s", state.sentinel, primary.GetName(), state.reason)
	}
	return nil
}

// checkPurpose returns an error if a key has another purpose than to wrap data keys.
func checkPurpose(key *kmspb.CryptoKey) error {
	if key.GetPurpose() != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return fmt.Errorf("%w: its purpose is %v; data keys take a symmetric key for ENCRYPT_DECRYPT", provider.ErrKeyUsage, key.GetPurpose())
	}
	return nil
}

// unusable returns the error for the message of a FAILED_PRECONDITION, which names the state of the
// version.
func unusable(message string) error {
	for state, meaning := range versionStates {
		// The blank and the full stop keep a name from matching a part of a longer one.
		if meaning.sentinel != nil && strings.Contains(message, " "+state.String()+".") {
			return fmt.Errorf("%w: the version: %s", meaning.sentinel, meaning.reason)
		}
	}
	return fmt.Errorf("%w: the key, or the version that is needed, is in a state in which it cannot be used", provider.ErrKeyDisabled)
}

// keyInfo describes a key.
func keyInfo(key *kmspb.CryptoKey) *provider.KeyInfo {
	primary := key.GetPrimary()
	info := &provider.KeyInfo{
		KeyID:     key.GetName(),
		Algorithm: key.GetVersionTemplate().GetAlgorithm().String(),
		Err:       checkPrimary(primary),
		CreatedAt: key.GetCreateTime().AsTime(),
		Origin:    "GOOGLE_CLOUD_KMS",
		Metadata: map[string]string{
			"purpose":          key.GetPurpose().String(),
			"version_template": key.GetVersionTemplate().GetAlgorithm().String(),
			"protection_level": key.GetVersionTemplate().GetProtectionLevel().String(),
		},
	}
	if primary != nil {
		info.Algorithm = primary.GetAlgorithm().String()
		info.Metadata["primary_version"] = primary.GetName()
		info.Metadata["primary_state"] = primary.GetState().String()
		info.Metadata["protection_level"] = primary.GetProtectionLevel().String()
	}
	if at := primary.GetDestroyTime(); at != nil {
		deletion := at.AsTime()
		info.DeletionDate = &deletion
	}
	if at := key.GetNextRotationTime(); at != nil {
		info.Metadata["next_rotation_time"] = at.AsTime().Format(time.RFC3339)
	}
	return info
}
