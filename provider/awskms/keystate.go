package awskms

import (
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/provider"
)

// keyState is the meaning of a key state for the use of a key.
type keyState struct {
	sentinel error  // nil if the key can be used
	reason   string // what it means and what to do
	words    string // part of the message of a KMSInvalidStateException that names the state
}

// keyStates has all states of a key (AWS KMS Developer Guide, "Key states of AWS KMS keys").
var keyStates = map[types.KeyState]keyState{
	types.KeyStateEnabled: {},
	// A key is Updating while its primary Region changes. Cryptographic operations then go on.
	types.KeyStateUpdating: {},
	types.KeyStateDisabled: {
		provider.ErrKeyDisabled, "the key is disabled; enable it to use it",
		"is disabled",
	},
	types.KeyStateCreating: {
		provider.ErrKeyDisabled, "the key is still being created; use it in a few moments",
		"is creating",
	},
	types.KeyStatePendingImport: {
		provider.ErrKeyDisabled, "the key has no key material yet, or it has expired; import it to use the key",
		"pending import",
	},
	types.KeyStateUnavailable: {
		provider.ErrKeyDisabled, "the key's custom key store is disconnected or cannot reach its keys; connect the key store to use the key",
		"is unavailable",
	},
	types.KeyStatePendingDeletion: {
		provider.ErrKeyPendingDeletion, "the key waits for its deletion; cancel that and enable the key to use it",
		"pending deletion",
	},
	types.KeyStatePendingReplicaDeletion: {
		provider.ErrKeyPendingDeletion, "the key waits for the deletion of its replicas and then for its own; cancel that and enable the key to use it",
		"pending replica deletion",
	},
}

// CheckKey returns an error that says why a key that KMS describes cannot wrap data keys, or nil.
func CheckKey(m *types.KeyMetadata) error {
	symmetric := m.KeySpec == types.KeySpecSymmetricDefault
	// Some emulators of KMS leave out the usage. A symmetric key has only one.
	encrypts := (m.KeyUsage == types.KeyUsageTypeEncryptDecrypt || m.KeyUsage == "" && symmetric) && (symmetric || isRSA(m.KeySpec))
	agrees := m.KeyUsage == types.KeyUsageTypeKeyAgreement && isEC(m.KeySpec)
	if !encrypts && !agrees {
		return fmt.Errorf("%w: usage %s, spec %s; data keys take a key for ENCRYPT_DECRYPT that is symmetric or of RSA, or one for KEY_AGREEMENT on a NIST curve", provider.ErrKeyUsage, m.KeyUsage, m.KeySpec)
	}
	return checkState(m.KeyState)
}

// checkState returns an error that says why a key in a state cannot be used, or nil.
func checkState(s types.KeyState) error {
	state, known := keyStates[s]
	if !known {
		return fmt.Errorf("%w: the key is in state %q", provider.ErrKeyDisabled, s)
	}
	if state.sentinel != nil {
		return fmt.Errorf("%w: %s", state.sentinel, state.reason)
	}
	return nil
}

// invalidState returns the error for the message of a KMSInvalidStateException.
func invalidState(message string) error {
	message = strings.ToLower(message)
	for _, state := range keyStates {
		if state.words != "" && strings.Contains(message, state.words) {
			return fmt.Errorf("%w: %s", state.sentinel, state.reason)
		}
	}
	return fmt.Errorf("%w: the key is in a state in which it cannot be used", provider.ErrKeyDisabled)
}
