package message_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestText(t *testing.T) {
	key := newKey(t, 1, "")
	stored := map[string]string{"tenant": "acme", "field": "email"}
	sealed, err := message.EncryptText(context.Background(), key, "a@example.org", stored)
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		context map[string]string
		want    error
	}{
		"equal":     {stored, nil},
		"a part":    {map[string]string{"tenant": "acme"}, provider.ErrContextMismatch},
		"none":      {nil, provider.ErrContextMismatch},
		"wrong":     {map[string]string{"tenant": "acme", "field": "name"}, provider.ErrContextMismatch},
		"more":      {map[string]string{"tenant": "acme", "field": "email", "x": "y"}, provider.ErrContextMismatch},
		"other key": {map[string]string{"tenant": "acme", "fields": "email"}, provider.ErrContextMismatch},
	} {
		got, err := message.DecryptText(context.Background(), key, sealed, tt.context)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, name)
			require.Empty(t, got)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, "a@example.org", got)
	}
	_, err = message.EncryptText(context.Background(), broken{provider.ErrAccessDenied}, "x", nil)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
}
