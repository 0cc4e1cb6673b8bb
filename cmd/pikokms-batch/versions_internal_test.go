package main

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// What is under an older version of the branch key is encrypted already, and is to be rewrapped.
func TestOlderVersion(t *testing.T) {
	ctx := t.Context()
	wrapping, err := branchkey.NewLocalKMS(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	require.NoError(t, err)
	defer wrapping.Close()
	store, err := branchkey.NewStore(branchkey.StoreConfig{Table: branchkey.NewFile(filepath.Join(t.TempDir(), "keys.db")), KMS: wrapping})
	require.NoError(t, err)
	require.NoError(t, store.CreateTable(ctx))
	id, err := store.Create(ctx, "tenant-42", map[string]string{"tenant": "42"})
	require.NoError(t, err)
	open := func() *key {
		p, err := branchkey.NewProvider(ctx, branchkey.Config{Store: store, BranchKeyID: id, TTL: time.Hour})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return &key{provider: p, name: id, providerIDs: []string{branchkey.ProviderID}}
	}
	made := func(k *key) *header.Header {
		sealed, err := (&message.Encrypter{Keyring: k.provider}).Encrypt(ctx, nil, map[string]string{provider.PairUse: provider.UseObject})
		require.NoError(t, err)
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		return h
	}
	old := made(open())
	_, err = store.Version(ctx, id)
	require.NoError(t, err)
	k := open()
	for _, c := range []struct {
		job    string
		header *header.Header
		isDone bool
	}{{encrypt, old, true}, {encrypt, made(k), true}, {rewrap, old, false}, {rewrap, made(k), true}} {
		o := &object{Version: &s3storage.Version{}, function: &function{key: k}, header: c.header}
		done, err := o.judge(ctx, c.job, task{})
		require.NoError(t, err)
		require.Equal(t, c.isDone, done != "", c.job)
	}
}
