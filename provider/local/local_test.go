package local_test

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

func open(t *testing.T, c local.Config) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestConformance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, local.Generate(file))
	first := func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{KeyFile: file}) }
	t.Run("another key of the same name", func(t *testing.T) {
		providertest.Run(t, first, func(t *testing.T) provider.EncryptionProvider {
			return open(t, local.Config{Key: bytes.Repeat([]byte{1}, 32)})
		})
	})
	t.Run("another name", func(t *testing.T) {
		providertest.Run(t, first, func(t *testing.T) provider.EncryptionProvider {
			return open(t, local.Config{KeyFile: file, Name: "other"})
		})
	})
}

func TestGenerate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, local.Generate(file))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.Len(t, key, 32)
	if runtime.GOOS != "windows" {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	}

	require.ErrorIs(t, local.Generate(file), fs.ErrExist)
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, text, again, "the existing key is kept")

	require.ErrorIs(t, local.Generate(filepath.Join(t.TempDir(), "missing", "key")), fs.ErrNotExist)
}

func TestBadConfig(t *testing.T) {
	key := func() []byte { return bytes.Repeat([]byte{1}, 32) }
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xEE}, 32))
	file := func(text string, mode fs.FileMode) string {
		name := filepath.Join(t.TempDir(), "key")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		require.NoError(t, os.Chmod(name, mode))
		return name
	}
	for name, c := range map[string]struct {
		config local.Config
		want   error
		says   string
	}{
		"nothing":           {local.Config{}, provider.ErrInvalidKey, "neither"},
		"both":              {local.Config{KeyFile: file(good, 0o600), Key: key()}, provider.ErrInvalidKey, "both"},
		"missing file":      {local.Config{KeyFile: filepath.Join(t.TempDir(), "none")}, fs.ErrNotExist, "keygen"},
		"short key":         {local.Config{Key: key()[:31]}, provider.ErrInvalidKey, "31 bytes"},
		"short key in file": {local.Config{KeyFile: file(good[:40], 0o600)}, provider.ErrInvalidKey, "30 bytes"},
		"no base64":         {local.Config{KeyFile: file("*"+good[1:], 0o600)}, provider.ErrInvalidKey, "neither base64 nor PEM"},
		"empty file":        {local.Config{KeyFile: file("", 0o600)}, provider.ErrInvalidKey, "0 bytes"},
		"huge file":         {local.Config{KeyFile: file(strings.Repeat(good, 1000), 0o600)}, provider.ErrInvalidKey, "one line"},
		"folder":            {local.Config{KeyFile: t.TempDir()}, nil, ""},
		"reserved":          {local.Config{Key: key(), Namespace: "aws-kms"}, provider.ErrInvalidKey, "reserved"},
		"name not UTF-8":    {local.Config{Key: key(), Name: "\xff"}, provider.ErrInvalidKey, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := local.NewProvider(c.config)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), good[1:20], "no error shows a part of the key")
		})
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o666} {
			_, err := local.NewProvider(local.Config{KeyFile: file(good, mode)})
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.ErrorContains(t, err, "chmod 600")
		}
	}
}

// The layout is the specification's, framework/raw-aes-keyring.md.
func TestWrappedKeyLayout(t *testing.T) {
	p := open(t, local.Config{Key: bytes.Repeat([]byte{1}, 32), Namespace: "ns", Name: "naïve"})
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	wrapped := made.EncryptedKey
	require.Equal(t, "ns", wrapped.ProviderID)
	require.Len(t, wrapped.Ciphertext, 32+16)
	info := append([]byte("naïve"), 0, 0, 0, 128, 0, 0, 0, 12)
	require.Equal(t, info, wrapped.ProviderInfo[:len(info)])
	require.Len(t, wrapped.ProviderInfo, len(info)+12)

	for name, info := range map[string][]byte{
		"IV too long":      append(bytes.Clone(wrapped.ProviderInfo), 0),
		"IV too short":     wrapped.ProviderInfo[:len(wrapped.ProviderInfo)-1],
		"another tag size": bytes.Replace(wrapped.ProviderInfo, []byte{128}, []byte{96}, 1),
		"empty":            nil,
	} {
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{
			EncryptedKey: header.EncryptedDataKey{ProviderID: "ns", ProviderInfo: info, Ciphertext: wrapped.Ciphertext}, Size: 32,
		})
		require.ErrorIs(t, err, provider.ErrUntrustedKey, name)
	}
}

func TestClose(t *testing.T) {
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrClosed)
}
