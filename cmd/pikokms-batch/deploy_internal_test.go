package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDeployment compares the two ways to set up the function with each other, and with the
// variables that the function reads.
func TestDeployment(t *testing.T) {
	text := func(name string) string {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(content)
	}
	template, terraform := text(filepath.Join("deploy", "template.yaml")), text(filepath.Join("deploy", "main.tf"))
	all := func(text, pattern string) []string {
		var found []string
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, match[1])
		}
		slices.Sort(found)
		return found
	}
	const action = `\b((?:s3|kms|logs|lambda|dynamodb):[A-Z][A-Za-z]+)`
	actions := all(template, action)
	require.Equal(t, actions, all(terraform, action))
	for _, needed := range []string{
		"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey",
		"s3:GetBucketObjectLockConfiguration", "s3:GetBucketOwnershipControls", "s3:GetObjectAcl", "s3:GetObjectLegalHold", "s3:GetObjectRetention",
		"s3:GetObjectVersionTagging", "s3:PutInventoryConfiguration", "s3:PutObjectLegalHold", "s3:PutObjectRetention", "s3:PutObjectTagging",
	} {
		require.Contains(t, actions, needed)
	}
	const variable = `(PIKOKMS_[A-Z0-9_]+)\b`
	documented := slices.Compact(all(text("main.go"), `\t`+variable))
	require.Len(t, documented, 12)
	require.Equal(t, documented, slices.Compact(all(template, variable+`:`)))
	require.Equal(t, documented, slices.Compact(all(terraform, variable+` +=`)))
	read := slices.Compact(all(text("settings.go"), `"`+variable+`"`))
	require.Equal(t, documented, read)

	// A job may write its reports and lists to the bucket that holds manifests, and do nothing else
	// there.
	for _, text := range []string{template, terraform} {
		_, jobs, _ := strings.Cut(text, "MakeManifest")
		_, reports, _ := strings.Cut(jobs, "Report")
		require.NotRegexp(t, `(ManifestBucket\}|local\.manifests\})/\*`, reports)
	}
}
