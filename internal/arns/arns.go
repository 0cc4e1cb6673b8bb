// Package arns has the rules for ARNs of AWS KMS, for the packages of AWS's key services.
package arns

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// IsKey reports whether text is the ARN of a KMS key.
func IsKey(text string) bool { return isResource(text, "key/") }

// IsAlias reports whether text is the ARN of an alias of a KMS key.
func IsAlias(text string) bool { return isResource(text, "alias/") }

// is reports whether text is the ARN of a resource of KMS (specification:
// framework/aws-kms/aws-kms-key-arn.md, "A Valid AWS KMS ARN").
func isResource(text, kind string) bool {
	a, err := arn.Parse(text)
	name, ok := strings.CutPrefix(a.Resource, kind)
	return err == nil && ok && name != "" && a.Service == "kms" && a.Partition != "" && a.Region != "" && a.AccountID != ""
}

// Region returns the Region of an ARN, or nothing if text is no ARN.
func Region(text string) string {
	a, _ := arn.Parse(text)
	return a.Region
}

// IsMultiRegion reports whether an ARN is that of a multi-Region key.
func IsMultiRegion(a arn.ARN) bool { return strings.HasPrefix(a.Resource, "key/mrk-") }

// AreReplicas reports whether two ARNs name the same multi-Region key (specification:
// framework/aws-kms/aws-kms-mrk-match-for-decrypt.md).
func AreReplicas(a, b string) bool {
	if !IsKey(a) || !IsKey(b) {
		return false
	}
	x, _ := arn.Parse(a)
	y, _ := arn.Parse(b)
	x.Region = y.Region
	return x == y && IsMultiRegion(x)
}

// List splits a list in a URL, of ARNs, accounts or tokens, at its commas.
func List(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
