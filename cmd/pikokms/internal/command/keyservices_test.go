package command

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/provider/local"
)

// vaultURL makes a key of an OpenBao server and returns its URL.
func vaultURL(t *testing.T, name string) string {
	t.Helper()
	config := api.DefaultConfig()
	require.NoError(t, config.Error)
	config.Address = emulator.OpenBao(t)
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(emulator.OpenBaoToken)
	mount := fmt.Sprintf("%s-%d", name, time.Now().UnixNano())
	_, err = client.Logical().Write("sys/mounts/"+mount, map[string]any{"type": "transit"})
	require.NoError(t, err)
	_, err = client.Logical().Write(mount+"/keys/"+name, nil)
	require.NoError(t, err)
	return fmt.Sprintf("vault://%s/%s?address=%s", mount, name, config.Address)
}

// A file moves from key service to key service, and each decrypts it.
func TestKeyServices(t *testing.T) {
	t.Setenv("VAULT_TOKEN", emulator.OpenBaoToken)
	google := gcpkmstest.NewServer(t)
	amazon := kmstest.NewServer(t)
	key := amazon.CreateKey(kmstest.Key{})
	dir := t.TempDir()
	require.NoError(t, local.Generate(filepath.Join(dir, "dev.key")))
	urls := map[string]string{
		"gcpkms": "gcpkms://" + google.CreateKey(gcpkmstest.Key{Name: "backups"}) + "?endpoint=" + google.URL,
		"awskms": "awskms:///" + key.ARN + "?endpoint=" + amazon.URL,
		"local":  "local:" + filepath.Join(dir, "dev.key"),
	}
	t.Run("gcpkms", func(t *testing.T) {
		stdout, _, _, err := execute(t, "keys", "check", "-k", urls["gcpkms"])
		require.NoError(t, err)
		require.Regexp(t, `can be used\n  encrypt +allowed .*\n  decrypt +allowed `, stdout)
		requireRoundTrip(t, urls, "gcpkms", "projects/test-project/locations/europe-west1/keyRings/test-ring/cryptoKeys/backups")
	})
	t.Run("vault", func(t *testing.T) {
		urls["vault"] = vaultURL(t, "backups")
		requireRoundTrip(t, urls, "vault", "/backups")
	})
}

// requireRoundTrip encrypts under one key, moves to each other one and back, and decrypts.
func requireRoundTrip(t *testing.T, urls map[string]string, under, named string) {
	t.Helper()
	dir := t.TempDir()
	plain, sealed := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed")
	require.NoError(t, os.WriteFile(plain, []byte("hello"), 0o600))
	run := func(arguments ...string) (stdout string) {
		t.Helper()
		stdout, stderr, _, err := execute(t, arguments...)
		require.NoError(t, err, stderr)
		return stdout
	}
	run("encrypt", "-k", urls[under], "-c", "tenant=42", "-o", sealed, plain)
	require.Contains(t, run("inspect", sealed), named)
	require.Equal(t, "hello", run("decrypt", "-k", urls[under], sealed))
	run("verify", "-k", urls[under], sealed)
	for other, url := range urls {
		if other == under {
			continue
		}
		moved, back := filepath.Join(dir, other), filepath.Join(dir, other+"-back")
		run("rewrap", "-k", urls[under], "--to", url, "-o", moved, sealed)
		require.Equal(t, "hello", run("decrypt", "-k", url, moved))
		_, stderr, _, err := execute(t, "decrypt", "-k", urls[under], moved)
		require.Error(t, err)
		require.Contains(t, stderr, "encrypted under no key of this provider", "no key service is asked about another's data keys")
		run("rewrap", "-k", url, "--to", urls[under], "-o", back, moved)
		require.Equal(t, "hello", run("decrypt", "-k", urls[under], back))
	}
}

// The key services' reasons are in one line, and wrong usage is found before they are asked.
func TestKeyServicesThatRefuse(t *testing.T) {
	google := gcpkmstest.NewServer(t)
	name := google.CreateKey(gcpkmstest.Key{Name: "backups"})
	url := "gcpkms://" + name + "?endpoint=" + google.URL
	google.SetState(name, 1, kmspb.CryptoKeyVersion_DISABLED)
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("hello"), 0o600))
	_, stderr, _, err := execute(t, "encrypt", "-k", url, plain)
	require.Error(t, err)
	require.Regexp(t, `^pikokms: key gcpkms://.*: encryption key disabled: .*enable it to use it.*\n$`, stderr)

	_, stderr, _, err = execute(t, "encrypt", "-k", "vault://transit/backups?address="+closedPort(t), "--kms-timeout", "2s", plain)
	require.Error(t, err)
	require.Regexp(t, `^pikokms: .*\n$`, stderr)

	stdout, _, _, err := execute(t, "keys", "check", "-k", url)
	require.Error(t, err)
	require.Regexp(t, `Problem +it does not encrypt: encryption key disabled: .*\n  encrypt +denied .*\n  decrypt +unknown `, stdout)
	stdout, _, _, err = execute(t, "keys", "check", "-k", "vault://transit/backups?address="+closedPort(t), "--kms-timeout", "2s")
	require.Error(t, err)
	require.Contains(t, stdout, " cannot be used")
	for text, reason := range map[string]string{
		"gcpkms://backups":           "write gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
		"vault://backups":            "write vault://MOUNT/KEY",
		"vault://transit/k?token=s.": "unknown parameter",
	} {
		_, stderr, _, err := execute(t, "encrypt", "-k", text, plain)
		require.Error(t, err)
		require.Contains(t, stderr, reason)
	}
}
