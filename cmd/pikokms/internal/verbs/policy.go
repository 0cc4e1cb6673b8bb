package verbs

import (
	"fmt"
	"strings"

	"piko.sh/pikokms/message"
)

// parsePolicy returns the commitment policy of a name. Upper and lower case are equal, and '-' and
// '_' between words may be left out. The error holds message.ErrCommitmentPolicy.
func parsePolicy(text string) (message.CommitmentPolicy, error) {
	bare := strings.NewReplacer("-", "", "_", "").Replace(text)
	var names []string
	for _, p := range []message.CommitmentPolicy{
		message.RequireEncryptRequireDecrypt, message.RequireEncryptAllowDecrypt, message.ForbidEncryptAllowDecrypt,
	} {
		if strings.EqualFold(bare, p.String()) {
			return p, nil
		}
		names = append(names, p.String())
	}
	return 0, fmt.Errorf("%w: unknown policy %q; known are %s", message.ErrCommitmentPolicy, text, strings.Join(names, ", "))
}
