package branchkey_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

// TestHost checks that a host takes the provider as any other, and that a Supplier can pick the
// branch key by an object's name.
func TestHost(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	tenants := map[string]string{"a": create(t, s.Store), "b": create(t, s.Store)}
	p := newProvider(t, s.Store, branchkey.Config{Supplier: func(_ context.Context, pairs map[string]string) (string, error) {
		tenant, _, _ := strings.Cut(pairs[pikokms.PairObject], "/")
		return tenants[tenant], nil
	}})
	dir := t.TempDir()
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	defer folder.Close()
	newHost := func() *pikokms.Host {
		host, err := pikokms.New(pikokms.WithCryptoProvider("keys", p), pikokms.WithDefaultCryptoProvider("keys"),
			pikokms.WithStorage(folder), pikokms.BindObjectName("uploads"), pikokms.WithEnabledTransformers("zstd"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, host.Close()) })
		return host
	}
	first, second := newHost(), newHost() // which share the provider
	content := bytes.Repeat([]byte("invoice\n"), 100_000)
	for tenant, id := range tenants {
		name := tenant + "/1"
		require.NoError(t, first.Put(ctx, name, bytes.NewReader(content)))
		r, err := second.Get(ctx, name)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, content, got)
		stored, err := os.ReadFile(filepath.Join(dir, tenant, "1"))
		require.NoError(t, err)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, id, string(h.EncryptedDataKeys[0].ProviderInfo))
		require.False(t, bytes.Contains(stored, []byte("invoice")))
	}
	err = first.Put(ctx, "c/1", bytes.NewReader(content))
	require.ErrorIs(t, err, provider.ErrKeyNotFound, "nobody's object is written under somebody's key")
}

// TestRewrapToTheActiveVersion checks that a host finds what is under older versions of a branch
// key, and moves it to the active one.
func TestRewrapToTheActiveVersion(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	dir := t.TempDir()
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	defer folder.Close()
	versionIn := func(name string) string {
		stored, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, versionOf(h.EncryptedDataKeys[0].Ciphertext), message.KeyVersion(h.EncryptedDataKeys[0]))
		return message.KeyVersion(h.EncryptedDataKeys[0])
	}
	newHost := func() *pikokms.Host {
		p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
		host, err := pikokms.New(pikokms.WithCryptoProvider("keys", p), pikokms.WithDefaultCryptoProvider("keys"), pikokms.WithStorage(folder))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, host.Close()) })
		return host
	}
	host := newHost()
	require.NoError(t, host.Put(ctx, "a", strings.NewReader("content")))
	requireCurrent(t, true, host, "a")
	second, err := s.CreateVersion(ctx, id)
	require.NoError(t, err)
	require.NotEqual(t, second, versionIn("a"))
	requireCurrent(t, true, host, "a") // for its TTL, a process knows of no newer version

	host = newHost()
	requireCurrent(t, false, host, "a")
	require.NoError(t, host.Rewrap(ctx, "a"))
	require.Equal(t, second, versionIn("a"))
	calls := s.kms.Calls("")
	requireCurrent(t, true, host, "a")
	require.Equal(t, calls, s.kms.Calls(""), "the active version is cached")
}

func requireCurrent(t *testing.T, want bool, host *pikokms.Host, key string) {
	t.Helper()
	got, err := host.IsCurrent(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
