package provider_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

func TestJudge(t *testing.T) {
	theirs, ours := errors.New("theirs"), errors.New("ours")
	meaning := func(err error) error { return fmt.Errorf("%w: %w", ours, err) }
	ended, end := context.WithCancel(t.Context())
	end()

	require.NoError(t, provider.Judge(t.Context(), nil, meaning))
	require.NoError(t, provider.Judge(ended, nil, meaning))

	known := fmt.Errorf("reading: %w", provider.ErrKeyNotFound)
	require.Equal(t, known, provider.Judge(t.Context(), known, meaning), "a sentinel is judged already")
	require.Equal(t, known, provider.Judge(ended, known, meaning))

	err := provider.Judge(t.Context(), theirs, meaning)
	require.ErrorIs(t, err, ours)
	require.ErrorIs(t, err, theirs)

	err = provider.Judge(ended, theirs, meaning)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, theirs)
	require.NotErrorIs(t, err, ours, "it was the caller who gave up")
	require.Equal(t, context.Canceled, provider.Judge(ended, context.Canceled, meaning), "the reason is not given twice")
}

func TestAFailureNamesProviderAndKey(t *testing.T) {
	cause := errors.New("cause")
	inner := provider.Failure("unwrapping", "aws_kms", "inner", cause)
	outer := provider.Failure("decryption", "aws_kms", "arn", inner)
	require.EqualError(t, outer, "crypto decryption failed with provider aws_kms and key arn: cause")
	require.EqualError(t, provider.Failure("decryption", "aws_kms", "", cause), "crypto decryption failed with provider aws_kms: cause")
	require.ErrorIs(t, outer, cause)

	around := fmt.Errorf("data key 2: %w", inner)
	require.ErrorContains(t, provider.Failure("decryption", "aws_kms", "arn", around), "data key 2: ")
}
