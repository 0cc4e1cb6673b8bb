// Package gateway tests the gateway with what others wrote.
package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/tests/integration"

	"piko.sh/pikokms/provider/local"
)

// What the test's binary runs as, besides the test: the engine's own conformance client, which
// counts in global variables, and the engine without encryption, which changes its folder.
const (
	asClient = "PIKOKMS_TEST_CLIENT_OF"
	asPlain  = "PIKOKMS_TEST_PLAIN_ON"
	whole    = "PIKOKMS_CONFORMANCE" // "all" runs all of the client's tests
)

const access, secret, region = "conformance", "conformance-secret", "us-east-1"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asClient) != "":
		client(os.Getenv(asClient))
	case os.Getenv(asPlain) != "":
		if err := plain(os.Args[1], os.Getenv(asPlain)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// groups are the client's tests that concern objects. The others are about what the gateway leaves
// to the engine: signatures, policies, lists of grants, CORS, websites.
var groups = []func(*integration.TestState){
	integration.TestPutObject, integration.TestHeadObject, integration.TestGetObject, integration.TestGetObjectAttributes,
	integration.TestListObjects, integration.TestListObjectsV2, integration.TestListObjectVersions_VD,
	integration.TestDeleteObject, integration.TestDeleteObjects, integration.TestCopyObject,
	integration.TestCreateMultipartUpload, integration.TestUploadPart, integration.TestUploadPartCopy, integration.TestListParts,
	integration.TestListMultipartUploads, integration.TestAbortMultipartUpload, integration.TestCompleteMultipartUpload,
	integration.TestPutObjectRetention, integration.TestPutObjectLegalHold, integration.TestPutObjectTagging, integration.TestDeleteBucket,
	integration.TestPostObject, integration.TestUnsignedStreaminPayloadTrailer, integration.TestSignedStreaminPayload,
	integration.TestSignedStreaminPayloadTrailer,
}

func client(url string) {
	state := integration.NewTestState(context.Background(), integration.NewS3Conf(
		integration.WithAccess(access), integration.WithSecret(secret), integration.WithRegion(region), integration.WithEndpoint(url),
	), true)
	if os.Getenv(whole) == "all" {
		integration.TestFullFlow(state)
	} else {
		for _, group := range groups {
			group(state)
		}
	}
	state.Wait()
}

func plain(folder, address string) error {
	behind, err := posix.New(folder, meta.XattrMeta{}, posix.PosixOpts{})
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(context.Background(), behind, &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: region, Ports: []string{address},
		MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
	})
}

// serve runs a server until the test ends, and returns its URL.
func serve(t *testing.T, command func(address string) *exec.Cmd) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	server := command(address)
	server.Stderr = t.Output()
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			require.NoError(t, connection.Close())
			return "http://" + address
		}
		require.Less(t, time.Since(begin), time.Minute, "the server does not listen")
	}
}

// serveEncrypted runs the gateway over a folder, and returns its URL and the folder.
func serveEncrypted(t *testing.T) (url, folder string) {
	t.Helper()
	key, command := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "pikokms-gateway")
	require.NoError(t, local.Generate(key))
	out, err := exec.Command("go", "build", "-o", command, "piko.sh/pikokms/cmd/pikokms-gateway").CombinedOutput()
	require.NoError(t, err, "%s", out)
	folder = t.TempDir()
	return serve(t, func(address string) *exec.Cmd {
		process := exec.Command(command, "-k", "local:"+key, "--folder", folder, "--listen", address)
		process.Env = append(os.Environ(), "PIKOKMS_GATEWAY_ACCESS_KEY_ID="+access, "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY="+secret)
		return process
	}), folder
}

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// run runs the client against a server, and returns which tests passed and what the others said.
func run(t *testing.T, url string) (passed map[string]bool, failed map[string]string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	process := exec.CommandContext(t.Context(), self)
	process.Env = append(os.Environ(), asClient+"="+url, "AWS_CA_BUNDLE=")
	process.Dir = t.TempDir()
	out, err := process.CombinedOutput()
	require.NoError(t, err, "%s", out)
	passed, failed = make(map[string]bool), make(map[string]string)
	lines := bufio.NewScanner(bytes.NewReader(colour.ReplaceAll(out, nil)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "PASS "); ok {
			passed[name] = true
		} else if text, ok := strings.CutPrefix(lines.Text(), "FAIL "); ok {
			name, reason, _ := strings.Cut(text, ":")
			failed[name] = reason
		}
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, passed, "%s", out)
	return passed, failed
}

// known are the tests that pass without encryption and fail with it, and why.
var known = map[string]string{
	"PutObject_success":                            "an ETag is the MD5 of what is stored; that of the plaintext would tell which objects are equal",
	"CompleteMultipartUpload_racey_data_integrity": "an ETag of a part is no MD5, so that of the object is not made of MD5s",
}

// withoutEncryption are tests that fail without encryption, too.
var withoutEncryption = map[string]bool{
	"CopyObject_not_owned_source_bucket": true, "CopyObject_object_acl_not_supported": true, "CreateMultipartUpload_object_acl_not_supported": true,
	"PostObject_non_existing_access_key": true, "PutObject_object_acl_not_supported": true,
}

// TestConformance compares the gateway over a folder to its engine without encryption, by the tests
// that the engine's authors wrote for it.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute; skipped in short mode")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	folder := t.TempDir()
	plainURL := serve(t, func(address string) *exec.Cmd {
		process := exec.Command(self, folder)
		process.Env = append(os.Environ(), asPlain+"="+address)
		return process
	})
	url, _ := serveEncrypted(t)

	passed, failed := run(t, url)
	t.Logf("%d of %d pass with encryption", len(passed), len(passed)+len(failed))
	unexpected := maps.Clone(failed)
	maps.DeleteFunc(unexpected, func(name, _ string) bool { return known[name] != "" || withoutEncryption[name] })
	if len(unexpected) > 0 || os.Getenv(whole) == "all" {
		// Some tests allow a request so little time that they fail on a busy machine.
		passedPlain, failedPlain := run(t, plainURL)
		passedAgain, _ := run(t, url)
		t.Logf("%d of %d pass without encryption", len(passedPlain), len(passedPlain)+len(failedPlain))
		for _, name := range slices.Sorted(maps.Keys(unexpected)) {
			if passedPlain[name] && !passedAgain[name] {
				t.Errorf("%s passes without encryption, and fails with it:%s", name, unexpected[name])
			}
		}
	}
	for name := range known {
		require.NotContains(t, passed, name, "it passes; take it off the list")
	}
}
