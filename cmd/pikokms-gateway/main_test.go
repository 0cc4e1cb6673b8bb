package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider/local"
)

// asProgram makes the test's binary the command itself. The gateway's engine runs only once in a
// process and changes its working folder, so tests run it in other processes.
const asProgram = "PIKOKMS_TEST_RUN_GATEWAY"

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "":
		os.Exit(m.Run())
	case asEngine:
		serveEngine(os.Args[1:])
	default:
		main()
	}
	os.Exit(0)
}

// asEngine makes the test's binary the engine alone, which stores objects as they are.
const asEngine = "engine"

func serveEngine(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	behind, err := posix.New(args[0], meta.XattrMeta{}, posix.PosixOpts{})
	if err == nil {
		err = embedgw.RunVersityGW(ctx, behind, &embedgw.Config{
			RootUserAccess: testKey, RootUserSecret: testSecret, Ports: args[2:],
			MaxConnections: maxConnections, MaxRequests: maxRequests, MultipartMaxParts: 10_000, Quiet: true,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const testKey, testSecret = "test-access", "test-secret"

// gateway is a gateway in a process of its own.
type gateway struct {
	url     string
	client  *s3.Client
	process *exec.Cmd
}

// newKey makes a local key and returns its KEY.
func newKey(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, local.Generate(file))
	return "local:" + file
}

// start starts a gateway, which ends with the test.
func start(t testing.TB, args ...string) *gateway {
	t.Helper()
	return startAs(t, "gateway", args...)
}

func startAs(t testing.TB, what string, args ...string) *gateway {
	t.Helper()
	address, err := emulator.FreeAddress()
	require.NoError(t, err)
	process := exec.Command(os.Args[0], append(args, "--listen", address)...)
	process.Env = append(os.Environ(), asProgram+"="+what, "PIKOKMS_GATEWAY_ACCESS_KEY_ID="+testKey, "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY="+testSecret)
	process.Stderr = t.Output()
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
	})
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			require.NoError(t, connection.Close())
			break
		}
		require.Less(t, time.Since(begin), time.Minute, "the gateway does not listen")
	}
	url := "http://" + address
	client := s3.New(s3.Options{
		BaseEndpoint: &url, UsePathStyle: true, Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, nil
		}),
	})
	return &gateway{url, client, process}
}

func (g *gateway) makeBucket(t testing.TB, name string) {
	t.Helper()
	_, err := g.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name})
	require.NoError(t, err)
}

// storedFiles returns the contents of all files below a folder.
func storedFiles(t testing.TB, folder string) (all [][]byte) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, content)
		return err
	}))
	return all
}

func TestObjects(t *testing.T) {
	folder := t.TempDir()
	g := start(t, "-k", newKey(t), "--folder", folder)
	g.makeBucket(t, "data")
	content := bytes.Repeat([]byte("a secret that nobody finds. "), 10_000)

	put, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("data"), Key: aws.String("a/b"), Body: bytes.NewReader(content), ChecksumAlgorithm: "CRC32", Metadata: map[string]string{"colour": "blue"},
	})
	require.NoError(t, err)
	require.NotEmpty(t, put.ChecksumCRC32)
	files := storedFiles(t, filepath.Join(folder, "data"))
	require.Len(t, files, 1)
	require.NotContains(t, string(files[0]), "secret")

	head, err := g.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("data"), Key: aws.String("a/b"), ChecksumMode: "ENABLED"})
	require.NoError(t, err)
	require.EqualValues(t, len(content), *head.ContentLength)
	require.Equal(t, map[string]string{"colour": "blue"}, head.Metadata)
	require.Equal(t, put.ETag, head.ETag)
	require.Equal(t, put.ChecksumCRC32, head.ChecksumCRC32)

	attributes, err := g.client.GetObjectAttributes(t.Context(), &s3.GetObjectAttributesInput{
		Bucket: aws.String("data"), Key: aws.String("a/b"), ObjectAttributes: []types.ObjectAttributes{types.ObjectAttributesObjectSize},
	})
	require.NoError(t, err)
	require.EqualValues(t, len(content), *attributes.ObjectSize)
	require.Equal(t, head.LastModified, attributes.LastModified)

	get, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a/b"), ChecksumMode: "ENABLED"})
	require.NoError(t, err)
	whole, err := io.ReadAll(get.Body)
	require.NoError(t, err)
	require.Equal(t, content, whole)
	require.Equal(t, put.ChecksumCRC32, get.ChecksumCRC32)

	get, err = g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a/b"), Range: aws.String("bytes=70000-70009")})
	require.NoError(t, err)
	part, err := io.ReadAll(get.Body)
	require.NoError(t, err)
	require.Equal(t, content[70000:70010], part)

	list, err := g.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("data")})
	require.NoError(t, err)
	require.Len(t, list.Contents, 1)
	require.EqualValues(t, len(content), *list.Contents[0].Size)
	require.Equal(t, put.ETag, list.Contents[0].ETag)

	_, err = g.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("data"), Key: aws.String("a/b")})
	require.NoError(t, err)
	require.Empty(t, storedFiles(t, filepath.Join(folder, "data")))
}
