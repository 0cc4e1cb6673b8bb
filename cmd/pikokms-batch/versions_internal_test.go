package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// TestOlderVersion looks at an object under an older version of the branch key. The object is
// encrypted already, and is to be rewrapped.
func TestOlderVersion(t *testing.T) {
	ctx := t.Context()
	config := branchkey.Config{
		File: filepath.Join(t.TempDir(), "keys.db"), Masters: []local.Config{{Key: bytes.Repeat([]byte{1}, 32)}}, TTL: time.Hour,
	}
	store, err := branchkey.NewStore(ctx, config)
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.CreateTable(ctx))
	id, err := store.Create(ctx, "tenant-42", map[string]string{"tenant": "42"})
	require.NoError(t, err)
	config.BranchKeyID = id
	open := func() *key {
		p, err := branchkey.NewProvider(ctx, config)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return &key{provider: p, name: id, stated: id, providerIDs: branchkey.KeyService.ProviderIDs}
	}
	made := func(k *key) *header.Header {
		sealed, err := (&message.Encrypter{Keyring: k.provider}).Encrypt(ctx, nil, map[string]string{provider.PairUse: provider.UseObject})
		require.NoError(t, err)
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		return h
	}
	old := made(open())
	_, err = store.CreateVersion(ctx, id)
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

// An object under an EC key of KMS names its public half, and not its ARN. A job moves it once.
func TestObjectsUnderECKeysAreMovedOnce(t *testing.T) {
	ctx := t.Context()
	server := kmstest.NewServer(t)
	newKEY := func(spec, usage, parameters string) *key {
		arn := server.CreateKey(kmstest.Key{Spec: spec, Usage: usage}).ARN
		k, err := openKey(ctx, "awskms:///"+arn+"?endpoint="+server.URL+parameters, 0)
		require.NoError(t, err)
		return k
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	const spec, usage = "ECC_NIST_P384", "KEY_AGREEMENT"
	peer, err := ecdh.P384().GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "peer.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	ec, other, symmetric, withPeer := newKEY(spec, usage, ""), newKEY(spec, usage, ""), newKEY("", "", ""), newKEY(spec, usage, "&peer="+filepath.ToSlash(file))
	for _, job := range []string{encrypt, rewrap} {
		for _, under := range []*key{ec, other, symmetric, withPeer} {
			sealed, err := (&message.Encrypter{Keyring: under.provider}).Encrypt(ctx, nil, map[string]string{provider.PairUse: provider.UseObject})
			require.NoError(t, err)
			h, _, err := header.Parse(sealed, header.Limits{})
			require.NoError(t, err)
			for _, now := range []*key{ec, symmetric, withPeer} {
				o := &object{Version: &s3storage.Version{}, function: &function{key: now}, header: h}
				done, err := o.judge(ctx, job, task{})
				if job == rewrap || now == under {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, "under another key")
				}
				require.Equal(t, now == under, done != "", job)
			}
		}
	}
	require.Equal(t, 3, server.Calls("GetPublicKey"), "one for each EC key")
}
