// Package gateway tests the gateway with what others wrote.
package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
	"github.com/versity/versitygw/tests/integration"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider/local"
)

// What the test's binary runs as, besides the test: the engine's own conformance client, which
// counts in global variables, and the engine without encryption, which changes its folder.
const (
	asClient = "PIKOKMS_TEST_CLIENT_OF"
	asPlain  = "PIKOKMS_TEST_PLAIN_ON"
	allTests = "PIKOKMS_CONFORMANCE" // "all" runs all of the client's tests
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
		folder, err := os.MkdirTemp("", "pikokms-gateway-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		programs = folder
		code := m.Run()
		_ = os.RemoveAll(folder)
		os.Exit(code)
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
	if os.Getenv(allTests) == "all" {
		integration.TestFullFlow(state)
	} else {
		for _, group := range groups {
			group(state)
		}
	}
	state.Wait()
}

func plain(folder, address string) error {
	folderBehind, err := posix.New(folder, meta.XattrMeta{}, posix.PosixOpts{CopyObjectThreshold: 5 << 30})
	if err != nil {
		return err
	}
	var behind backend.Backend = folderBehind
	if len(os.Args) > 2 && os.Args[2] == likeS3 {
		behind = lengths{folderBehind}
	}
	return embedgw.RunVersityGW(context.Background(), behind, &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: region, Ports: []string{address},
		MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
	})
}

// likeS3 has the engine without encryption refuse a content that is shorter than it was said to be,
// as S3 does. By itself, it stores what arrived of a put whose client was killed.
const likeS3 = "like-S3"

type lengths struct{ backend.Backend }

func (l lengths) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	in.Body = &whole{in.Body, aws.ToInt64(in.ContentLength)}
	return l.Backend.PutObject(ctx, in)
}

func (l lengths) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	in.Body = &whole{in.Body, aws.ToInt64(in.ContentLength)}
	return l.Backend.UploadPart(ctx, in)
}

type whole struct {
	io.Reader
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.left -= int64(n)
	if w.left > 0 && (err == io.EOF || err == io.ErrUnexpectedEOF) { // which the engine takes for an end
		err = s3err.GetAPIError(s3err.ErrIncompleteBody)
	}
	return n, err
}

// serve runs a server until the test ends, and returns its URL.
func serve(t *testing.T, command func(address string) *exec.Cmd) string {
	t.Helper()
	url, _ := run(t, command)
	return url
}

// run runs a server until the test ends, if nobody ends it before, and returns its URL once it
// listens.
func run(t *testing.T, command func(address string) *exec.Cmd) (string, *exec.Cmd) {
	t.Helper()
	address, err := emulator.FreeAddress()
	require.NoError(t, err)
	server := command(address)
	if server.Stderr == nil {
		server.Stderr = t.Output()
	}
	require.NoError(t, server.Start())
	t.Cleanup(func() { // also if the test fails before it ends the server
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			require.NoError(t, connection.Close())
			return "http://" + address, server
		}
		require.Less(t, time.Since(begin), time.Minute, "the server does not listen")
	}
}

// servePlain runs the engine without encryption over a folder, and returns its URL.
func servePlain(t *testing.T, folder string, args ...string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return serve(t, func(address string) *exec.Cmd {
		process := exec.Command(self, append([]string{folder}, args...)...)
		process.Env = append(os.Environ(), asPlain+"="+address)
		return process
	})
}

// serveEncrypted runs the gateway over a folder, and returns its URL and the folder.
func serveEncrypted(t *testing.T) (url, folder string) {
	t.Helper()
	folder = t.TempDir()
	return serve(t, newGateway(t, "--folder", folder)), folder
}

// programs is the folder of what program builds.
var programs string

// program builds the gateway, and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "pikokms-gateway")
	out, err := exec.Command("go", "build", "-o", path, "piko.sh/pikokms/cmd/pikokms-gateway").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// newGateway makes a key, and returns a command that runs the gateway with it.
func newGateway(t *testing.T, args ...string) func(address string) *exec.Cmd {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, local.Generate(key))
	command, err := program()
	require.NoError(t, err)
	return func(address string) *exec.Cmd {
		process := exec.Command(command, append([]string{"-k", "local:" + key, "--listen", address}, args...)...)
		process.Env = append(os.Environ(), "PIKOKMS_GATEWAY_ACCESS_KEY_ID="+access, "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY="+secret)
		return process
	}
}

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// conform runs the client against a server, and returns which tests passed and what the others
// said.
func conform(t *testing.T, url string) (passed map[string]bool, failed map[string]string) {
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
	plainURL := servePlain(t, t.TempDir())
	url, _ := serveEncrypted(t)

	passed, failed := conform(t, url)
	t.Logf("%d of %d pass with encryption", len(passed), len(passed)+len(failed))
	unexpected := maps.Clone(failed)
	maps.DeleteFunc(unexpected, func(name, _ string) bool { return known[name] != "" || withoutEncryption[name] })
	if len(unexpected) > 0 || os.Getenv(allTests) == "all" {
		// Some tests allow a request so little time that they fail on a busy machine.
		passedPlain, failedPlain := conform(t, plainURL)
		passedAgain, _ := conform(t, url)
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
