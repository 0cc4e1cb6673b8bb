package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestKeys(t *testing.T) {
	for encoded, want := range map[string][2]string{
		"a":             {"a", "a"},
		"a%2Fb%20c":     {"a/b c", "a/b c"},
		"a+b":           {"a b", "a+b"},
		"a%2Bb+c":       {"a+b c", "a+b+c"},
		"%E2%82%AC.pdf": {"€.pdf", "€.pdf"},
		"%FF":           {"\xff", "\xff"},
	} {
		key, plus, err := task{key: encoded}.keys()
		require.NoError(t, err, encoded)
		require.Equal(t, want, [2]string{key, plus})
	}
	for _, encoded := range []string{"", "%", "%2", "%zz"} {
		_, _, err := task{key: encoded}.keys()
		require.Error(t, err, encoded)
	}
}

func TestBuckets(t *testing.T) {
	for name, want := range map[string]string{
		"arn:aws:s3:::photos":                    "photos",
		"arn:aws:s3:us-east-1:0123456788:photos": "photos",
		"arn:aws-cn:s3:::photos":                 "photos",
		"photos":                                 "photos",
		"photos--euw1-az1--x-s3":                 "photos--euw1-az1--x-s3",
		"arn:aws:s3express:eu-west-1:111122223333:bucket/x-s3":  "x-s3",
		"arn:aws:s3:eu-west-1:111122223333:accesspoint/readers": "arn:aws:s3:eu-west-1:111122223333:accesspoint/readers",
	} {
		require.Equal(t, want, bucketOf(name))
	}
}

// FuzzInvocation parses requests of any form. Each task of a request that is not refused has a
// bucket and a key.
func FuzzInvocation(f *testing.F) {
	f.Add([]byte(`{"invocationSchemaVersion":"1.0","invocationId":"i","job":{"id":"j"},"tasks":[{"taskId":"t","s3Key":"a+b%20c","s3VersionId":null,"s3BucketArn":"arn:aws:s3:::b"}]}`))
	f.Add([]byte(`{"invocationSchemaVersion":"2.0","invocationId":"i","job":{"id":"j","userArguments":{"job":"verify"}},"tasks":[{"taskId":"t","s3Key":"k","s3VersionId":"v","s3Bucket":"b"}]}`))
	f.Add([]byte(`{"invocationSchemaVersion":"3.0"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		in, err := parseInvocation(payload)
		if err != nil {
			require.False(t, strings.ContainsRune(shorten(err.Error()), '\n'))
			return
		}
		require.Contains(t, []string{"1.0", "2.0"}, in.schema)
		for _, task := range in.tasks {
			if key, plus, err := task.keys(); err == nil {
				require.NotEmpty(t, key)
				require.NotEmpty(t, plus)
			}
		}
		_, err = json.Marshal(in.newResponse())
		require.NoError(t, err)
	})
}

func TestShorten(t *testing.T) {
	require.Equal(t, "one; two", shorten("one\r\ntwo\n"))
	long := shorten("a" + strings.Repeat("é", 1000))
	require.LessOrEqual(t, len(long), maxReason)
	require.GreaterOrEqual(t, len(long), maxReason-4)
	require.True(t, utf8.ValidString(long))
	require.True(t, utf8.ValidString(shorten(strings.Repeat("\xff", 2000))), "Lambda's answer is JSON")
}

func TestPace(t *testing.T) {
	const whole = 15 * time.Minute
	var p pace
	require.NoError(t, p.check(22e9, whole, whole))
	err := p.check(23e9, whole, whole)
	require.ErrorContains(t, err, "23.00 GB take 920 s at 25.0 MB/s (unless PIKOKMS_MB_PER_SECOND says otherwise), and this function has 900 s")
	require.False(t, errors.Is(err, errTryAgain))
	require.ErrorIs(t, p.check(22e9, time.Minute, whole), errTryAgain)

	// Slow minutes of S3 make no object too large, however many there are.
	for range 100 {
		p.learn(100e6, time.Minute)
	}
	require.NoError(t, p.check(22e9, whole, whole))
	p.learn(1<<20, time.Millisecond) // too small to tell
	require.Error(t, p.check(23e9, whole, whole))
	p.learn(100e6, time.Second)
	require.NoError(t, p.check(56e9, whole, whole))
	p.learn(16<<20, 10*time.Second)
	require.NoError(t, p.check(56e9, whole, whole))
	require.ErrorContains(t, p.check(57e9, whole, whole), "at 62.5 MB/s (as measured)")

	p.stated = 10e6
	require.ErrorContains(t, p.check(10e9, whole, whole), "as PIKOKMS_MB_PER_SECOND says")
}
