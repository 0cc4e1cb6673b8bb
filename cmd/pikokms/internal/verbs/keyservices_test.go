package verbs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/provider/local"
)

// vaultURL makes a key of an OpenBao server. It returns the key's URL, and a function that rotates
// the key.
func vaultURL(t *testing.T, name string) (keyURL string, rotate func()) {
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
	return fmt.Sprintf("vault://%s/%s?address=%s", mount, name, config.Address), func() {
		_, err := client.Logical().Write(mount+"/keys/"+name+"/rotate", nil)
		require.NoError(t, err)
	}
}

// azureURL makes a key of a vault and returns its URL.
func azureURL(server *azurekeyvaulttest.Server, k azurekeyvaulttest.Key) string {
	return "azurekeyvault://test-vault/" + server.CreateKey(k) + "?endpoint=" + server.URL
}

// TestEachKeyServiceIsDocumented checks that help and documents describe each key service, and that
// an error lists it.
func TestEachKeyServiceIsDocumented(t *testing.T) {
	help, _, _, err := execute(t, "help", "keys")
	require.NoError(t, err)
	document, err := os.ReadFile(filepath.Join(repository, "docs", "KEYS.md"))
	require.NoError(t, err)
	_, stderr, _, err := execute(t, "decrypt", "-k", "nothing://x", "x")
	require.Error(t, err)
	for _, service := range keyservices.All() {
		require.Regexp(t, `(?m)^ +`+service.Scheme+":", help)
		require.Contains(t, string(document), "\n| `"+service.Scheme+":")
		require.Regexp(t, `known are .*\b`+service.Scheme+`\b`, stderr)
	}
}

// TestKeyServices moves a file from key service to key service, and decrypts it with each.
func TestKeyServices(t *testing.T) {
	race.SkipShort(t)
	t.Setenv("VAULT_TOKEN", emulator.OpenBaoToken)
	google := gcpkmstest.NewServer(t)
	azure := azurekeyvaulttest.NewServer(t)
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
	t.Run("azurekeyvault", func(t *testing.T) {
		for _, kind := range []string{"RSA", "oct-HSM"} {
			urls["azurekeyvault"] = azureURL(azure, azurekeyvaulttest.Key{Name: "backups", Type: kind})
			stdout, _, _, err := execute(t, "keys", "check", "-k", urls["azurekeyvault"])
			require.NoError(t, err)
			require.Regexp(t, `can be used\n  encrypt +allowed .*\n  decrypt +allowed `, stdout)
			requireRoundTrip(t, urls, "azurekeyvault", "https://test-vault.vault.azure.net/keys/backups version "+azure.Versions("backups")[0])
		}
	})
	t.Run("vault", func(t *testing.T) {
		urls["vault"], _ = vaultURL(t, "backups")
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

// TestKeyServicesThatRefuse checks that an error of a key service takes one line, and that wrong
// usage is found before the service is asked.
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
		"azurekeyvault://backups":    "write azurekeyvault://VAULT/KEY",
		"gcpkms://backups":           "write gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
		"vault://backups":            "write vault://MOUNT/KEY",
		"vault://transit/k?token=s.": "unknown parameter",
	} {
		_, stderr, _, err := execute(t, "encrypt", "-k", text, plain)
		require.Error(t, err)
		require.Contains(t, stderr, reason)
	}
}

// TestRewrapToTheNewestVersion rewraps after a rotation. Rewrap moves what is under the older
// version of a key to the newest, and leaves the rest as it is.
func TestRewrapToTheNewestVersion(t *testing.T) {
	race.SkipShort(t)
	t.Run("branch key", func(t *testing.T) {
		store, table, _ := newBranchKeys(t, 1)
		key := table + "&id=tenant-0"
		before, err := store.Describe(t.Context(), "tenant-0")
		require.NoError(t, err)
		after := ""
		testRewrapToTheNewestVersion(t, key, func() {
			stdout, _, _, err := execute(t, "branch-keys", "version", "-k", table, "tenant-0")
			require.NoError(t, err)
			after = strings.TrimSpace(stdout)
		}, func() (string, string) { return "tenant-0 version " + before.Active.ID, "tenant-0 version " + after })
	})
	t.Run("vault", func(t *testing.T) {
		t.Setenv("VAULT_TOKEN", emulator.OpenBaoToken)
		key, rotate := vaultURL(t, "backups")
		testRewrapToTheNewestVersion(t, key, rotate, func() (string, string) { return "/backups version v1", "/backups version v2" })
	})
	t.Run("gcpkms", func(t *testing.T) {
		google := gcpkmstest.NewServer(t)
		name := google.CreateKey(gcpkmstest.Key{Name: "backups"})
		testRewrapToTheNewestVersion(t, "gcpkms://"+name+"?endpoint="+google.URL, func() { google.Rotate(name) }, nil)
	})
	t.Run("azurekeyvault", func(t *testing.T) {
		azure := azurekeyvaulttest.NewServer(t)
		key := azureURL(azure, azurekeyvaulttest.Key{Name: "backups"})
		testRewrapToTheNewestVersion(t, key, func() { azure.Rotate("backups") }, func() (string, string) {
			versions := azure.Versions("backups")
			return "/keys/backups version " + versions[0], "/keys/backups version " + versions[1]
		})
	})
}

// testRewrapToTheNewestVersion encrypts two objects under a key, rotates it, and encrypts a third.
// If names is not nil, it returns how inspect names the two versions.
func testRewrapToTheNewestVersion(t *testing.T, key string, rotate func(), names func() (before, after string)) {
	dir := t.TempDir()
	run := func(arguments ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, _, err := execute(t, arguments...)
		require.NoError(t, err, stderr)
		return stdout, stderr
	}
	add := func(name string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("hello"), 0o600))
		run("encrypt", "-k", key, "--in-place", dir)
	}
	add("a")
	add("b")
	rotate()
	add("c")
	count := func(older, newer int) {
		t.Helper()
		if names == nil {
			return
		}
		stdout, _ := run("inspect", dir)
		before, after := names()
		for name, n := range map[string]int{before: older, after: newer} {
			require.Equal(t, n > 0, strings.Contains(stdout, name), stdout)
			if n > 0 {
				require.Regexp(t, fmt.Sprintf(`(?m)^ +%d +\d+  \S*%s$`, n, name), stdout)
			}
		}
	}
	count(2, 1)
	rewrap := func(wantDone int, more ...string) {
		t.Helper()
		_, stderr := run(append([]string{"rewrap", "-k", key, "--to", key, "--in-place", dir}, more...)...)
		require.Contains(t, stderr, fmt.Sprintf(" %d objects of", wantDone), stderr)
		skipped := fmt.Sprintf("skipped %d objects, such as ", 3-wantDone)
		if wantDone == 2 {
			skipped = "skipped " + filepath.Join(dir, "c")
		}
		require.Contains(t, stderr, skipped)
		require.Equal(t, 1, strings.Count(stderr, "it is under these keys already"), stderr)
	}
	rewrap(2, "--dry-run")
	count(2, 1)
	rewrap(2)
	count(0, 3)
	rewrap(0)
	run("verify", "-k", key, dir)
}
