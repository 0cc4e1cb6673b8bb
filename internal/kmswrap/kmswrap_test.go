package kmswrap_test

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func TestWrapper(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := kmstest.NewServer(t)
	key, other := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	w, err := kmswrap.New(t.Context(), awskms.Config{KeyID: key.ARN, TrustedKeys: []string{other.ARN}, Endpoint: server.URL, GrantTokens: []string{"token"}})
	require.NoError(t, err)
	require.Equal(t, key.ARN, w.KeyARN())
	ctx := t.Context()
	first, second := map[string]string{"a": "1"}, map[string]string{"a": "2"}
	blob, err := w.Generate(ctx, key.ARN, first)
	require.NoError(t, err)
	moved, err := w.ReEncrypt(ctx, blob, key.ARN, first, other.ARN, second)
	require.NoError(t, err)
	opened, err := w.Decrypt(ctx, key.ARN, blob, first)
	require.NoError(t, err)
	defer opened.Close()
	again, err := w.Decrypt(ctx, other.ARN, moved, second)
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, opened.WithAccess(func(x []byte) error {
		return again.WithAccess(func(y []byte) error {
			require.Len(t, x, 32)
			require.Equal(t, x, y)
			return nil
		})
	}))
	for _, r := range server.Requests() {
		require.Equal(t, []string{"token"}, r.GrantTokens)
	}
	_, err = w.Decrypt(ctx, key.ARN, blob, second)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	_, err = w.Decrypt(ctx, other.ARN, blob, first)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	_, err = w.ReEncrypt(ctx, blob, key.ARN, second, key.ARN, second)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	_, err = w.ReEncrypt(ctx, blob[:len(blob)-1], key.ARN, first, key.ARN, first)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	// A KMS that says that it did something else is not believed.
	for name, lie := range map[string]struct {
		members map[string]any
		call    func() error
	}{
		"Generate, another key":             {map[string]any{"KeyId": other.ARN}, func() error { _, err := w.Generate(ctx, key.ARN, nil); return err }},
		"Generate, nothing":                 {map[string]any{"CiphertextBlob": []byte{}}, func() error { _, err := w.Generate(ctx, key.ARN, nil); return err }},
		"ReEncrypt, to another key":         {map[string]any{"KeyId": other.ARN}, func() error { _, err := w.ReEncrypt(ctx, blob, key.ARN, first, key.ARN, first); return err }},
		"ReEncrypt, from another key":       {map[string]any{"SourceKeyId": other.ARN}, func() error { _, err := w.ReEncrypt(ctx, blob, key.ARN, first, key.ARN, first); return err }},
		"ReEncrypt, nothing":                {map[string]any{"CiphertextBlob": []byte{}}, func() error { _, err := w.ReEncrypt(ctx, blob, key.ARN, first, key.ARN, first); return err }},
		"Decrypt, another key":              {map[string]any{"KeyId": other.ARN}, func() error { _, err := w.Decrypt(ctx, key.ARN, blob, first); return err }},
		"Decrypt, a key that was not named": {map[string]any{"KeyId": ""}, func() error { _, err := w.Decrypt(ctx, key.ARN, blob, first); return err }},
	} {
		remove := server.Inject(kmstest.Fault{Do: kmstest.Answer(func(all map[string]any) { maps.Copy(all, lie.members) })})
		require.Error(t, lie.call(), name)
		remove()
		require.NoError(t, lie.call(), name)
	}
}

func TestWrapperTrusts(t *testing.T) {
	const (
		key     = "arn:aws:kms:eu-west-1:111122223333:key/1"
		mrk     = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1"
		replica = "arn:aws:kms:us-east-1:111122223333:key/mrk-1"
		alias   = "arn:aws:kms:eu-west-1:111122223333:alias/1"
		theirs  = "arn:aws:kms:eu-west-1:999999999999:key/1"
		abroad  = "arn:aws:kms:us-east-1:111122223333:key/1"
	)
	server := kmstest.NewServer(t)
	for name, c := range map[string]struct {
		config awskms.Config
		asked  map[string]string
		others []string
	}{
		"exactly":      {awskms.Config{KeyID: mrk, TrustedKeys: []string{key}}, map[string]string{mrk: mrk, key: key}, []string{replica, alias, theirs, abroad, ""}},
		"multi-Region": {awskms.Config{KeyID: mrk, TrustedKeys: []string{key}, MultiRegion: true}, map[string]string{mrk: mrk, replica: mrk, key: key}, []string{alias, theirs, abroad, ""}},
		"discovery":    {awskms.Config{Accounts: []string{"111122223333"}}, map[string]string{mrk: mrk, replica: mrk, key: key}, []string{alias, theirs, abroad, ""}},
	} {
		c.config.Endpoint, c.config.Region = server.URL, kmstest.Region
		w, err := kmswrap.New(t.Context(), c.config)
		require.NoError(t, err, name)
		for keyARN, want := range c.asked {
			got, err := w.Trusts(keyARN)
			require.NoError(t, err, name)
			require.Equal(t, want, got, name)
		}
		for _, keyARN := range c.others {
			_, err := w.Trusts(keyARN)
			require.ErrorIs(t, err, provider.ErrUntrustedKey, "%s: %s", name, keyARN)
		}
	}
	require.Zero(t, server.Calls(""))
}

// A field that a Wrapper would pass over is refused.
func TestFieldsOfAProvider(t *testing.T) {
	const keyARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	accounts := []string{"111122223333"}
	for _, c := range []awskms.Config{
		{KeyID: keyARN, Accounts: accounts},
		{KeyID: keyARN, CheckLater: true},
		{KeyID: keyARN, PublicKeyFile: "key.pem"},
		{KeyID: keyARN, PeerFile: "peer.pem"},
		{KeyID: keyARN, Region: "us-east-1"},
		{KeyID: "alias/app"},
		{Accounts: accounts, PublicKey: []byte("-----BEGIN")},
		{Accounts: []string{"1"}},
		{},
	} {
		if c.Region == "" {
			c.Region = "eu-west-1"
		}
		_, err := kmswrap.New(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey, "%v", c)
	}
}
