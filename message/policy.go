package message

import (
	"errors"
	"fmt"
	"strings"

	"piko.sh/pikokms/header"
)

// ErrCommitmentPolicy means that the commitment policy refuses a message's algorithm suite; the
// error names both.
var ErrCommitmentPolicy = errors.New("refused by the commitment policy")

// CommitmentPolicy says whether messages must commit to their data key (specification:
// framework/commitment-policy.md). A message without commitment can be made to decrypt to
// different plaintexts under different data keys.
type CommitmentPolicy int

// The policies, as AWS names them. The first is the default.
const (
	// RequireEncryptRequireDecrypt lets only messages that commit be written and read.
	RequireEncryptRequireDecrypt CommitmentPolicy = iota
	// RequireEncryptAllowDecrypt lets only messages that commit be written, and all be read.
	RequireEncryptAllowDecrypt
	// ForbidEncryptAllowDecrypt lets only messages that don't commit be written, which pikokms
	// never does, and all be read.
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

// ParseCommitmentPolicy takes a policy's name in any case, with or without '-' and '_' between its
// words. The error holds ErrCommitmentPolicy.
func ParseCommitmentPolicy(text string) (CommitmentPolicy, error) {
	bare := strings.NewReplacer("-", "", "_", "").Replace(text)
	for i, name := range policyNames {
		if strings.EqualFold(bare, name) {
			return CommitmentPolicy(i), nil
		}
	}
	return 0, fmt.Errorf("%w: unknown policy %q; known are %s", ErrCommitmentPolicy, text, strings.Join(policyNames, ", "))
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
