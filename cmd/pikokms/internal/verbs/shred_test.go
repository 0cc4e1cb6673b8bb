package verbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider/branchkey"
)

// changeItems changes the items of a branch key in the file of a table, as another program might.
// An item is stored under its branch key's ID and its type.
func changeItems(file, id string, change func(kind string, item map[string]string) error) error {
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(func(tx *bbolt.Tx) error {
		items := tx.Bucket([]byte("items"))
		changed := make(map[string][]byte)
		err := items.ForEach(func(key, text []byte) error {
			item := make(map[string]string)
			if err := json.Unmarshal(text, &item); err != nil || item["branch-key-id"] != id {
				return err
			}
			if err := change(item["type"], item); err != nil {
				return err
			}
			text, err := json.Marshal(item)
			changed[item["branch-key-id"]+"\x00"+item["type"]] = text
			return err
		})
		for key, text := range changed {
			err = errors.Join(err, items.Put([]byte(key), text))
		}
		return err
	})
}

// ageBranchKey changes a table so that a branch key was disabled earlier.
func ageBranchKey(file, id string, by time.Duration) error {
	return changeItems(file, id, func(_ string, item map[string]string) error {
		since, err := time.Parse(time.RFC3339, item["pikokms-disabled"])
		item["pikokms-disabled"] = since.Add(-by).Format(time.RFC3339Nano)
		return err
	})
}

// newTenants encrypts objects of two tenants side by side in one folder, and one for both.
func newTenants(t *testing.T, key string) (objects string) {
	t.Helper()
	dir := t.TempDir()
	objects = filepath.Join(dir, "objects")
	require.NoError(t, os.Mkdir(objects, 0o700))
	for tenant := range 2 {
		for i := range 3 {
			plain := filepath.Join(dir, fmt.Sprintf("%d-of-%d", i, tenant))
			require.NoError(t, os.WriteFile(plain, []byte(plain), 0o600))
			_, stderr, _, err := execute(t, "encrypt", "-k", strings.Replace(key, "?", fmt.Sprintf("?id=tenant-%d&", tenant), 1), "-o", filepath.Join(objects, filepath.Base(plain)), plain)
			require.NoError(t, err, stderr)
		}
	}
	both := filepath.Join(dir, "of-both")
	require.NoError(t, os.WriteFile(both, []byte("both"), 0o600))
	_, stderr, _, err := execute(t, "encrypt", "-k", strings.Replace(key, "?", "?id=tenant-0&", 1), "-k", strings.Replace(key, "?", "?id=tenant-1&", 1), "-o", filepath.Join(objects, "of-both"), both)
	require.NoError(t, err, stderr)
	require.NoError(t, os.WriteFile(filepath.Join(objects, "plain"), []byte("plain"), 0o600))
	return objects
}

// TestDestroyBranchKey destroys one of two branch keys with objects in the same folder, checks the
// certificate, and then what other commands say.
func TestDestroyBranchKey(t *testing.T) {
	store, key, to := newBranchKeys(t, 2)
	_, err := store.CreateVersion(t.Context(), "tenant-0")
	require.NoError(t, err)
	objects := newTenants(t, key)
	key0, key1 := strings.Replace(key, "?", "?id=tenant-0&", 1), strings.Replace(key, "?", "?id=tenant-1&", 1)
	_, stderr, _, err := execute(t, "branch-keys", "disable", "-k", key, "tenant-0")
	require.NoError(t, err, stderr)
	require.NoError(t, ageBranchKey(tableFile(key), "tenant-0", 2*24*time.Hour))
	certificate := filepath.Join(t.TempDir(), "certificate.json")
	destroy := []string{"branch-keys", "destroy", "-k", key, "--confirm", "tenant-0", "--wait", "36h", "--prove", objects, "-o", certificate, "tenant-0"}
	_, stderr, _, err = execute(t, destroy...)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "pikokms: branch key tenant-0 was destroyed on ")
	require.Contains(t, stderr, ", 4 items of 2 versions")
	require.Contains(t, stderr, "3 objects under it can't be read any more, 1 object under it by another key alone, 4 objects not under it")

	read := func() admin.Certificate {
		text, err := os.ReadFile(certificate)
		require.NoError(t, err)
		var c admin.Certificate
		require.NoError(t, json.Unmarshal(text, &c), "%s", text)
		return c
	}
	c := read()
	require.Equal(t, "tenant-0", c.BranchKey)
	require.Equal(t, tableFile(key), c.Table)
	require.Equal(t, "keys.db", c.LogicalName)
	require.WithinDuration(t, time.Now(), c.Destroyed, time.Minute)
	require.WithinDuration(t, time.Now().Add(-2*24*time.Hour), c.Disabled, time.Minute)
	require.Contains(t, c.Tool, "pikokms ")
	require.Len(t, c.Versions, 2)
	require.Len(t, c.Items, 4)
	require.Empty(t, c.By)
	require.EqualValues(t, 3, c.Proof.Unreadable)
	require.EqualValues(t, 1, c.Proof.OtherKeys)
	require.EqualValues(t, 4, c.Proof.Others)
	require.Zero(t, c.Proof.Unread)
	require.Equal(t, []string{objects + "/"}, c.Proof.Places)
	require.Len(t, c.Proof.Objects, 4)
	// Decryption with every key that is left shows whether the certificate is right about each object.
	for _, o := range c.Proof.Objects {
		_, stderr, _, err := execute(t, "decrypt", "-k", key0, "-k", key1, "-o", filepath.Join(t.TempDir(), "out"), o.Name)
		if o.Unreadable {
			require.Error(t, err, o.Name)
			require.Contains(t, stderr, `branch key "tenant-0" was destroyed on `+c.Destroyed.UTC().Format(time.RFC3339))
		} else {
			require.NoError(t, err, stderr)
			require.Len(t, o.OtherKeys, 1)
			require.Contains(t, o.OtherKeys[0], "aws-kms-hierarchy tenant-1 version ")
		}
	}
	_, stderr, _, err = execute(t, "verify", "-k", key1, "--exclude", "plain", objects)
	require.Error(t, err)
	require.Contains(t, stderr, "verified 4 objects of ")
	require.Contains(t, stderr, ", 3 failed")

	// The same command line goes on, and writes the certificate again.
	_, stderr, _, err = execute(t, destroy...)
	require.Error(t, err)
	require.Contains(t, stderr, "certificate.json exists and is kept; -f replaces it")
	_, stderr, _, err = execute(t, append(destroy, "-f")...)
	require.NoError(t, err, stderr)
	again := read()
	again.Issued = c.Issued
	require.Equal(t, c, again)

	stdout, _, _, err := execute(t, "branch-keys", "list", "-k", key)
	require.NoError(t, err)
	require.Contains(t, stdout, " tenant-0 (destroyed on "+c.Destroyed.UTC().Format(time.RFC3339)+")\n")
	require.Contains(t, stdout, "          1  none: destroyed\n")
	stdout, _, _, err = execute(t, "branch-keys", "show", "-k", key, "tenant-0")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^State +destroyed on `, stdout)
	_, stderr, _, err = execute(t, "branch-keys", "create", "-k", key, "-c", "tenant=0", "tenant-0")
	require.Error(t, err)
	require.Contains(t, stderr, `branch key exists: choose another ID: branch key "tenant-0" was destroyed on `)
	_, stderr, _, err = execute(t, "branch-keys", "enable", "-k", key, "tenant-0")
	require.Error(t, err)
	require.Contains(t, stderr, "was destroyed on ")
	_, stderr, _, err = execute(t, "branch-keys", "check", "-k", key, "--all")
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "checked 2 branch keys: 1 genuine, complete and under "+store.KeyARN()+", 1 destroyed, in ")
	_, stderr, _, err = execute(t, "branch-keys", "check", "-k", key, "tenant-0")
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "checked 1 branch key: destroyed, in ")
	_, stderr, _, err = execute(t, "branch-keys", "move", "-k", key, "--to", to, "tenant-0", "tenant-1")
	require.Error(t, err)
	require.Contains(t, stderr, "failed branch key tenant-0: branch key \"tenant-0\" was destroyed on ")
	require.Contains(t, stderr, "moved 3 items of 1 branch key, 1 failed", "the others go on")
	_, stderr, _, err = execute(t, "branch-keys", "move", "-k", key, "--to", to, "--all")
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "moved 0 items of 1 branch key,")
}

// TestProofOfAnIDThatDoesNotPrint destroys a branch key whose ID is escaped where it is shown.
// AWS's libraries make such IDs. The certificate counts the one object of the folder that can't be
// read.
func TestProofOfAnIDThatDoesNotPrint(t *testing.T) {
	_, key, _ := newBranchKeys(t, 1)
	const id = "tenant\t0"
	require.NoError(t, changeItems(tableFile(key), "tenant-0", func(_ string, item map[string]string) error {
		item["branch-key-id"] = id
		return nil
	}))
	dir := t.TempDir()
	object := filepath.Join(dir, "object")
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("plain"), 0o600))
	_, stderr, _, err := execute(t, "encrypt", "-k", strings.Replace(key, "?", "?id=tenant-0&", 1), "-o", object, plain)
	require.NoError(t, err, stderr)
	sealed, err := os.ReadFile(object)
	require.NoError(t, err)
	sealed = bytes.ReplaceAll(sealed, []byte("tenant-0"), []byte(id))
	require.NoError(t, os.WriteFile(object, sealed, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cut"), sealed[:60], 0o600))
	_, stderr, _, err = execute(t, "branch-keys", "disable", "-k", key, id)
	require.NoError(t, err, stderr)
	require.NoError(t, ageBranchKey(tableFile(key), id, 8*24*time.Hour))
	certificate := filepath.Join(t.TempDir(), "certificate.json")
	_, stderr, _, err = execute(t, "branch-keys", "destroy", "-k", key, "--confirm", id, "--prove", dir, "-o", certificate, id)
	require.Error(t, err)
	require.Contains(t, stderr, "1 object or folder could not be read; the certificate counts them; the branch key is destroyed, and the certificate is written")
	text, err := os.ReadFile(certificate)
	require.NoError(t, err)
	var c admin.Certificate
	require.NoError(t, json.Unmarshal(text, &c), "%s", text)
	require.Equal(t, id, c.BranchKey)
	require.EqualValues(t, 1, c.Proof.Unreadable)
	require.EqualValues(t, 1, c.Proof.Unread)
	require.Zero(t, c.Proof.Others)
}

// TestDestroyOnATerminal types other things than the ID, then ends the input, and at last types the
// ID.
func TestDestroyOnATerminal(t *testing.T) {
	store, key, _ := newBranchKeys(t, 1)
	_, err := store.Disable(t.Context(), "tenant-0")
	require.NoError(t, err)
	require.NoError(t, ageBranchKey(tableFile(key), "tenant-0", 8*24*time.Hour))
	for _, typed := range []string{"y", "tenant-1", "", "\x04", "tenant-0"} {
		terminal, tty, err := pty.Open()
		if err != nil {
			t.Skip("no pseudo-terminal: ", err)
		}
		command := exec.CommandContext(t.Context(), "pikokms", "branch-keys", "destroy", "-k", key, "tenant-0")
		command.Stdin, command.Stderr = tty, tty
		require.NoError(t, command.Start())
		tty.Close()
		drawn, screen := watch(terminal, "Type its ID to destroy it: ")
		<-drawn
		_, err = fmt.Fprintln(terminal, typed)
		require.NoError(t, err)
		err = command.Wait()
		got := <-screen
		terminal.Close()
		require.Contains(t, got, "Branch key tenant-0, of 1 version, is disabled since ")
		d, describeErr := store.Describe(t.Context(), "tenant-0")
		require.NoError(t, describeErr)
		if typed == "tenant-0" {
			require.NoError(t, err, got)
			require.ErrorIs(t, d.Err, branchkey.ErrDestroyed)
		} else {
			require.Error(t, err)
			require.Contains(t, got, "nothing was destroyed")
			require.ErrorIs(t, d.Err, branchkey.ErrDisabled)
		}
	}
}

// TestDestroyInDynamoDB checks that the certificate names the table and AWS's caller.
func TestDestroyInDynamoDB(t *testing.T) {
	target, err := url.Parse(emulator.Moto(t))
	require.NoError(t, err)
	var ahead atomic.Int64 // the time.Duration by which DynamoDB's clock is ahead
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(time.Duration(ahead.Load())).UTC().Format(http.TimeFormat))
		return nil
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	moto := server.URL
	static := credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, "")
	made, err := kms.New(kms.Options{Region: emulator.Region, BaseEndpoint: aws.String(moto), Credentials: static}).CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	name := fmt.Sprintf("keys-%d", time.Now().UnixNano())
	key := "branchkey://" + name + "?key=" + *made.KeyMetadata.Arn + "&endpoint=" + moto
	do := func(arguments ...string) string {
		t.Helper()
		stdout, stderr, _, err := execute(t, arguments...)
		require.NoError(t, err, stderr)
		return stdout
	}
	do("branch-keys", "create", "--table", "-k", key, "-c", "tenant=1", "tenant-1")
	do("branch-keys", "disable", "-k", key, "tenant-1")
	t.Setenv("AWS_ACCESS_KEY_ID", emulator.Credentials)
	t.Setenv("AWS_SECRET_ACCESS_KEY", emulator.Credentials)
	ahead.Store(int64(8 * 24 * time.Hour))
	var c admin.Certificate
	require.NoError(t, json.Unmarshal([]byte(do("branch-keys", "destroy", "-k", key, "--confirm", "tenant-1", "tenant-1")), &c))
	require.Equal(t, name, c.Table)
	require.Equal(t, "DynamoDB", c.Clock)
	require.Regexp(t, `^arn:aws:sts::\d{12}:user/`, c.By)
	require.Equal(t, []string{"beacon:ACTIVE", "branch:ACTIVE", "branch:version:" + c.Versions[0].ID}, c.Items)
}
