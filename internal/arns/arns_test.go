package arns_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/arns"
)

func TestAreReplicas(t *testing.T) {
	const mrk = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234"
	for other, want := range map[string]bool{
		mrk: true,
		"arn:aws:kms:us-east-1:111122223333:key/mrk-1234":    true,
		"arn:aws:kms:us-east-1:111122223334:key/mrk-1234":    false,
		"arn:aws-cn:kms:us-east-1:111122223333:key/mrk-1234": false,
		"arn:aws:kms:us-east-1:111122223333:key/mrk-1235":    false,
		"arn:aws:s3:us-east-1:111122223333:key/mrk-1234":     false,
		"arn:aws:kms:us-east-1:111122223333:alias/mrk-1234":  false,
		"key/mrk-1234": false,
		"":             false,
	} {
		require.Equal(t, want, arns.AreReplicas(other, mrk), other)
		require.Equal(t, want, arns.AreReplicas(mrk, other), other)
	}
	const single = "arn:aws:kms:eu-west-1:111122223333:key/1234"
	require.False(t, arns.AreReplicas(single, single), "it has no replicas")
	require.False(t, arns.AreReplicas(single, "arn:aws:kms:us-east-1:111122223333:key/1234"))
}
