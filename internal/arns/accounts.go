package arns

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/provider"
)

// defaultPartition is the partition of all Regions except those of China, GovCloud and other
// separate ones.
const defaultPartition = "aws"

// Accounts are AWS accounts all of whose keys are trusted.
type Accounts struct {
	IDs       []string
	Partition string // of the accounts; default "aws"
	Region    string // of the KMS that is asked
}

// Check checks the IDs. The error holds provider.ErrInvalidKey.
func (a *Accounts) Check() error {
	for _, account := range a.IDs {
		if len(account) != 12 || strings.Trim(account, "0123456789") != "" {
			return fmt.Errorf("%w: account %q is not 12 digits", provider.ErrInvalidKey, account)
		}
	}
	return nil
}

const keyIDCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"

// Trusts returns the ARN under which KMS is asked about a key of the accounts. For a multi-Region
// key that is the replica in the Region. The error holds provider.ErrUntrustedKey.
func (a *Accounts) Trusts(keyARN string) (string, error) {
	if !IsKey(keyARN) {
		return "", provider.ErrUntrustedKey
	}
	key, _ := arn.Parse(keyARN)
	id := strings.TrimPrefix(key.Resource, "key/")
	if strings.Trim(id, keyIDCharacters) != "" || key.Partition != cmp.Or(a.Partition, defaultPartition) || !slices.Contains(a.IDs, key.AccountID) {
		return "", provider.ErrUntrustedKey
	}
	if key.Region != a.Region && !IsMultiRegion(key) {
		return "", fmt.Errorf("%w: the key %q is in Region %q, and this discovery asks KMS in %s; discover in the key's Region", provider.ErrUntrustedKey, keyARN, key.Region, a.Region)
	}
	key.Region = a.Region
	return key.String(), nil
}
