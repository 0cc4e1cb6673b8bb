package text_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/text"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestText(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer key.Close()
	stored := map[string]string{"tenant": "acme", "field": "email"}
	sealed, err := text.Encrypt(context.Background(), key, "a@example.org", stored)
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
		got, err := text.Decrypt(context.Background(), key, sealed, tt.context)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, name)
			require.Empty(t, got)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, "a@example.org", got)
	}
	require.NoError(t, key.Close())
	_, err = text.Encrypt(context.Background(), key, "x", nil)
	require.ErrorIs(t, err, provider.ErrClosed)
}
