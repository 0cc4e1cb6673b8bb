package message

import (
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
)

// ErrCommitmentPolicy means that the commitment policy refuses a message's algorithm suite. The
// error names both.
var ErrCommitmentPolicy = errors.New("refused by the commitment policy")

// CommitmentPolicy decides whether messages must have key commitment (specification:
// framework/commitment-policy.md). Someone can make a message without it that decrypts to different
// plaintexts under different data keys.
type CommitmentPolicy int

// The policies have AWS's names. The first is the default.
const (
	// RequireEncryptRequireDecrypt writes and reads only messages with key commitment.
	RequireEncryptRequireDecrypt CommitmentPolicy = iota
	// RequireEncryptAllowDecrypt writes only messages with key commitment, and reads all.
	RequireEncryptAllowDecrypt
	// ForbidEncryptAllowDecrypt writes only messages without key commitment, and reads all. Pikokms
	// never writes such messages, so under this policy it writes none.
	ForbidEncryptAllowDecrypt
)

var policyNames = []string{"RequireEncryptRequireDecrypt", "RequireEncryptAllowDecrypt", "ForbidEncryptAllowDecrypt"}

// String returns the policy's name.
func (p CommitmentPolicy) String() string {
	if p < 0 || int(p) >= len(policyNames) {
		return fmt.Sprintf("CommitmentPolicy(%d)", int(p))
	}
	return policyNames[p]
}

func (p CommitmentPolicy) allowEncrypt(s header.Suite) error {
	if p != RequireEncryptRequireDecrypt && p != RequireEncryptAllowDecrypt {
		return fmt.Errorf("%w: %v forbids to encrypt with suite %v, which commits; pikokms writes no other", ErrCommitmentPolicy, p, s)
	}
	return nil
}

func (p CommitmentPolicy) allowDecrypt(s header.Suite) error {
	if p != RequireEncryptAllowDecrypt && p != ForbidEncryptAllowDecrypt && !s.Commits() {
		return fmt.Errorf("%w: %v forbids to decrypt suite %v, which has no key commitment; %v allows it", ErrCommitmentPolicy, p, s, RequireEncryptAllowDecrypt)
	}
	return nil
}
