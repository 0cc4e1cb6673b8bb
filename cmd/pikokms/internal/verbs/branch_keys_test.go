package verbs

import (
	"encoding/base64"
	"encoding/json"
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
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// newBranchKeys makes a table in a file with n branch keys, and two key files. It returns the
// table's URLs under the first and under the second.
func newBranchKeys(t *testing.T, n int) (store *branchkey.Store, old, moved string) {
	t.Helper()
	dir := filepath.ToSlash(t.TempDir())
	require.NoError(t, local.Generate(dir+"/old.key"))
	require.NoError(t, local.Generate(dir+"/new.key"))
	old = "branchkey:" + dir + "/keys.db?master=local:" + dir + "/old.key"
	moved = "local:" + dir + "/new.key?name=new"
	u, err := url.Parse(old)
	require.NoError(t, err)
	config, err := branchkey.ParseURL(u)
	require.NoError(t, err)
	store, err = branchkey.NewStore(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.CreateTable(t.Context()))
	for i := range n {
		_, err := store.Create(t.Context(), fmt.Sprintf("tenant-%d", i), map[string]string{"tenant": fmt.Sprint(i)})
		require.NoError(t, err)
	}
	return store, old, moved
}

// tableFile returns the file of a KEY.
func tableFile(key string) string {
	file, _, _ := strings.Cut(strings.TrimPrefix(key, "branchkey:"), "?")
	return file
}

// countUnder counts the branch keys of a table by the name of the local key that they are under.
func countUnder(t *testing.T, store *branchkey.Store) map[string]int {
	t.Helper()
	n := make(map[string]int)
	for d, err := range store.List(t.Context()) {
		require.NoError(t, err)
		n[d.Active.KeyARN[strings.LastIndex(d.Active.KeyARN, "/")+1:]]++
	}
	return n
}

// TestKilledWhileMovingBranchKeys kills a move when it has moved some of the branch keys, and then
// goes on by the same command line.
func TestKilledWhileMovingBranchKeys(t *testing.T) {
	race.SkipShort(t)
	const n, tries = 60, 10
	for try := 1; ; try++ {
		store, old, to := newBranchKeys(t, n)
		move := []string{"branch-keys", "move", "-k", old, "--to", to, "--all"}
		killAtChange(t, tableFile(old), 6, move)
		killed := countUnder(t, store)
		t.Logf("killed with %v", killed)
		_, stderr, _, err := execute(t, move...)
		require.NoError(t, err, stderr)
		require.Contains(t, stderr, fmt.Sprintf("items of %d branch keys, and checked", n))
		require.Equal(t, map[string]int{"new": n}, countUnder(t, store))
		if moved := killed["new"]; moved > 0 && moved < n {
			return
		}
		require.Less(t, try, tries, "no move was killed half-way")
	}
}

// killAtChange runs a command line, and kills it when a file was seen to change so many times. On a
// busy machine, it may come to its end before.
func killAtChange(t *testing.T, file string, changes int, arguments []string) {
	t.Helper()
	written := func() time.Time {
		info, err := os.Stat(file)
		require.NoError(t, err)
		return info.ModTime()
	}
	last := written()
	command := exec.CommandContext(t.Context(), "pikokms", arguments...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep)
	require.NoError(t, command.Start())
	end := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(end)
	}()
	for changes > 0 {
		select {
		case <-end:
			return
		case <-time.After(100 * time.Microsecond):
		}
		if now := written(); !now.Equal(last) {
			last = now
			changes--
		}
	}
	_ = command.Process.Kill() // it may have ended
	<-end
}

// TestProgressOfBranchKeys checks that progress on a terminal takes one line, which is wiped at the
// end.
func TestProgressOfBranchKeys(t *testing.T) {
	store, old, _ := newBranchKeys(t, 1)
	// While a transaction is open, the command waits for the file.
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo-terminal: ", err)
	}
	defer terminal.Close()
	release := lockTable(t, tableFile(old))
	command := exec.CommandContext(t.Context(), "pikokms", "branch-keys", "check", "-k", old, "--all")
	command.Stderr = tty
	require.NoError(t, command.Start())
	tty.Close()
	drawn, screen := watch(terminal, "checked 0 branch keys")
	<-drawn
	release()
	require.NoError(t, command.Wait())
	got := <-screen
	require.Contains(t, got, console.ClearLine+"pikokms: checked 0 branch keys, of 0, 0 failed"+console.ClearLine)
	require.Contains(t, got, console.ClearLine+"pikokms: checked 1 branch key: genuine, complete and under "+store.KeyARN())
}

// TestDamagedBranchKeys names the branch key whose items are not genuine, and checks the others.
func TestDamagedBranchKeys(t *testing.T) {
	store, old, to := newBranchKeys(t, 3)
	require.NoError(t, changeItems(tableFile(old), "tenant-1", func(kind string, item map[string]string) error {
		if kind != "branch:ACTIVE" {
			return nil
		}
		enc, err := base64.StdEncoding.DecodeString(item["enc"])
		enc[len(enc)-1] ^= 1
		item["enc"] = base64.StdEncoding.EncodeToString(enc)
		return err
	}))
	_, stderr, _, err := execute(t, "branch-keys", "check", "-k", old, "--all")
	require.Error(t, err)
	require.NotContains(t, stderr, "tenant-0")
	require.Contains(t, stderr, `pikokms: failed branch key tenant-1: item of the branch key table was changed: "branch:ACTIVE"`)
	require.Contains(t, stderr, "pikokms: checked 3 branch keys, 1 failed")

	_, stderr, _, err = execute(t, "branch-keys", "move", "-k", old, "--to", to, "--all")
	require.Error(t, err)
	require.Contains(t, stderr, "failed branch key tenant-1")
	require.Contains(t, stderr, "pikokms: moved 6 items of 2 branch keys, 1 failed")
	require.Equal(t, map[string]int{"new": 2, "local": 1}, countUnder(t, store))

	require.NoError(t, changeItems(tableFile(old), "tenant-2", func(kind string, item map[string]string) error {
		if kind == "branch:ACTIVE" {
			item["hierarchy-version"] = "2"
		}
		return nil
	}))
	stdout, stderr, _, err := execute(t, "branch-keys", "list", "-k", old)
	require.Error(t, err)
	require.Contains(t, stderr, `branch key "tenant-2", item "branch:ACTIVE" has hierarchy-version "2"`)
	require.Contains(t, stderr, "pikokms: 1 branch key can't be used")
	require.Contains(t, stdout, "tenant-0 tenant=0")
	require.Contains(t, stdout, "tenant-1 tenant=1")
	_, stderr, _, err = execute(t, "branch-keys", "check", "-k", old, "--all")
	require.Error(t, err)
	require.Contains(t, stderr, "failed branch key tenant-2: ")
}

// TestBranchKeysInDynamoDB goes through a branch key's life in moto's DynamoDB and KMS, with the
// objects of two tenants. The KMS key that is moved away from is disabled in the end.
func TestBranchKeysInDynamoDB(t *testing.T) {
	moto := emulator.Moto(t)
	service := kms.New(kms.Options{
		Region: emulator.Region, BaseEndpoint: aws.String(moto),
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
	var ids, arns [2]string
	for i := range ids {
		made, err := service.CreateKey(t.Context(), &kms.CreateKeyInput{})
		require.NoError(t, err)
		ids[i], arns[i] = *made.KeyMetadata.KeyId, *made.KeyMetadata.Arn
	}
	var asked atomic.Int64
	var deny atomic.Bool
	endpoint := beforeKMS(t, moto, func() bool {
		asked.Add(1)
		return deny.Load()
	})
	key := func(id, arn string) string { return "branchkey://keys" + id + "key=" + arn + "&endpoint=" + endpoint }
	do := func(arguments ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, _, err := execute(t, arguments...)
		require.NoError(t, err, stderr)
		return stdout, stderr
	}
	_, stderr, _, err := execute(t, "branch-keys", "list", "-k", key("?", arns[0]))
	require.Error(t, err)
	require.Contains(t, stderr, "'pikokms branch-keys create --table' makes it")
	do("branch-keys", "create", "--table", "-k", key("?", arns[0]), "-c", "tenant=1", "tenant-1")
	do("branch-keys", "create", "--table", "-k", key("?", arns[0]), "-c", "tenant=2", "tenant-2")
	do("branch-keys", "version", "-k", key("?", arns[0]), "tenant-2")

	dir := t.TempDir()
	const n = 20
	for _, tenant := range []string{"tenant-1", "tenant-2"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "plain", tenant), 0o700))
		for i := range n {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "plain", tenant, fmt.Sprint(i)), []byte(tenant), 0o600))
		}
		begin := time.Now()
		_, stderr := do("encrypt", "-k", key("?by=t&", arns[0]), "-c", "t="+tenant, "--kms-rate", "0.5", "--kms-timeout", "1m", "-o", filepath.Join(dir, "objects", tenant), filepath.Join(dir, "plain", tenant))
		require.Less(t, time.Since(begin), 2*(n-1)*time.Second, "only the call for the branch key counts for the rate")
		require.Contains(t, stderr, fmt.Sprintf("encrypted %d objects of %d bytes, 1 KMS call,", n, n*len(tenant)))
	}
	// On a busy machine, what is not answered in 10 s would be asked for once more.
	asked.Store(0)
	begin := time.Now()
	_, stderr = do("encrypt", "-k", key("/tenant-1?", arns[0]), "-k", key("/tenant-2?", arns[0]), "--kms-rate", "1", "--kms-timeout", "1m", "-o", filepath.Join(dir, "both"), filepath.Join(dir, "plain", "tenant-1"))
	require.GreaterOrEqual(t, time.Since(begin), time.Second, "the calls that open branch keys are held to the rate, too")
	require.Contains(t, stderr, ", 2 KMS calls,")
	require.EqualValues(t, 2, asked.Load())

	objects := filepath.Join(dir, "objects")
	asked.Store(0)
	begin = time.Now()
	_, stderr = do("verify", "-k", key("?by=t&", arns[0]), "--kms-rate", "1", "--kms-timeout", "1m", objects)
	require.GreaterOrEqual(t, time.Since(begin), time.Second)
	require.Contains(t, stderr, fmt.Sprintf("verified %d objects of %d bytes, 2 KMS calls,", 2*n, 2*n*len("tenant-1")))
	require.EqualValues(t, 2, asked.Load())

	asked.Store(0)
	_, stderr = do("branch-keys", "move", "-k", key("?", arns[0]), "--to", arns[1], "--all")
	require.Contains(t, stderr, "moved 7 items of 2 branch keys, and checked that they are under "+arns[1])
	require.EqualValues(t, 2*7, asked.Load())
	_, stderr = do("branch-keys", "move", "-k", key("/tenant-1?", arns[0]), "--to", arns[1])
	require.Contains(t, stderr, "moved 0 items of 1 branch key,")
	_, err = service.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &ids[0]})
	require.NoError(t, err)
	do("verify", "-k", key("?by=t&", arns[1]), objects)
	do("verify", "-k", key("/tenant-2?", arns[1]), filepath.Join(objects, "tenant-2"))
	do("branch-keys", "check", "-k", key("?", arns[1]), "--all")

	stdout, _ := do("branch-keys", "show", "--json", "-k", key("?", arns[1]), "tenant-2")
	var shown admin.DescribedKey
	require.NoError(t, json.Unmarshal([]byte(stdout), &shown))
	require.Len(t, shown.Versions, 2)
	require.Equal(t, shown.Active, shown.Versions[1])
	require.Equal(t, arns[1], shown.Active.KMSKey)
	require.Equal(t, map[string]string{"tenant": "2"}, shown.Context)
	stdout, _ = do("branch-keys", "list", "-k", key("?", arns[1]))
	require.Contains(t, stdout, "          2  "+arns[1]+"\n")

	// A reader whose KEY does not trust the new KMS key is told so, and KMS is not asked.
	asked.Store(0)
	_, stderr, _, err = execute(t, "decrypt", "-k", key("/tenant-1?", arns[0]), filepath.Join(objects, "tenant-1", "0"))
	require.Error(t, err)
	require.Contains(t, stderr, "it is wrapped under "+fmt.Sprintf("%q", arns[1]))
	require.Zero(t, asked.Load())

	// Where KMS denies, the work ends, and does not fail each branch key.
	deny.Store(true)
	_, stderr, _, err = execute(t, "branch-keys", "check", "--all", "--jobs", "1", "-k", key("?", arns[1]))
	require.Error(t, err)
	require.Contains(t, stderr, "access to the encryption key denied")
	require.Equal(t, 1, strings.Count(stderr, "branch key tenant-"), stderr)
}

// beforeKMS returns the URL of a proxy of moto. If deny returns true for a request to moto's KMS,
// the proxy denies the request.
func beforeKMS(t *testing.T, moto string, deny func() bool) string {
	t.Helper()
	target, err := url.Parse(moto)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(answer *http.Response) error {
		if answer.StatusCode >= http.StatusInternalServerError {
			t.Logf("moto answers %s with %s, so the AWS SDK asks again", answer.Request.Header.Get("X-Amz-Target"), answer.Status)
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "TrentService.") && deny() {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"__type":"AccessDeniedException","message":"no"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// lockTable holds a table in a file open, as another process might, until release is called.
func lockTable(t *testing.T, file string) (release func()) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	require.NoError(t, err)
	return func() { require.NoError(t, db.Close()) }
}
