package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-batch/internal/runtimeapi"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/s3storage"
)

var folder string // of the function's binary

func TestMain(m *testing.M) {
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"} {
		os.Unsetenv(name) // as the machine is configured
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": emulator.Credentials, "AWS_SECRET_ACCESS_KEY": emulator.Credentials, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": emulator.Region,
	} {
		os.Setenv(name, value)
	}
	var err error
	if folder, err = os.MkdirTemp("", "pikokms-batch-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(folder)
		os.Exit(code)
	}))
}

// bootstrap returns the path of the function's binary. PIKOKMS_BOOTSTRAP names another one, such as
// one with the race detector.
func bootstrap(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: the function is not built in short mode")
	}
	path, err := built()
	require.NoError(t, err)
	return path
}

var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("PIKOKMS_BOOTSTRAP"); path != "" {
		return path, nil
	}
	path := filepath.Join(folder, "bootstrap")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // not with the race detector, even if the tests are
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// logged is what a function logs.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start starts a sandbox, with the settings beside the environment of the tests.
func start(t *testing.T, binary, endpoint string, settings map[string]string) (*runtimeapi.Sandbox, *logged) {
	t.Helper()
	variables := []string{"AWS_ENDPOINT_URL_S3=" + endpoint}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"} {
		variables = append(variables, name+"="+os.Getenv(name))
	}
	for name, value := range settings {
		variables = append(variables, name+"="+value)
	}
	log := new(logged)
	sandbox, err := runtimeapi.Start(binary, variables, log)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, sandbox.Close())
		if t.Failed() {
			t.Logf("the function logged:\n%.4000s", log)
		}
	})
	return sandbox, log
}

// task is a task of a job, in the form of schema 1.0.
type task struct {
	bucket, key, version string
	encoded              string // of the key, if it is not as S3 encodes it
}

// request returns a request of schema 1.0 for tasks.
func request(tasks ...task) events.S3BatchJobEvent {
	e := events.S3BatchJobEvent{InvocationSchemaVersion: "1.0", InvocationID: rand.Text(), Job: events.S3BatchJob{ID: "f3cc4f60-61f6-4a2b-8a21-d07600c373ce"}}
	for _, t := range tasks {
		encoded := t.encoded
		if encoded == "" {
			encoded = url.QueryEscape(t.key)
		}
		e.Tasks = append(e.Tasks, events.S3BatchJobTask{TaskID: rand.Text(), S3Key: encoded, S3VersionID: t.version, S3BucketARN: "arn:aws:s3:::" + t.bucket})
	}
	return e
}

// request2 returns a request of schema 2.0.
func request2(arguments map[string]string, tasks ...task) events.S3BatchJobEventV2 {
	one := request(tasks...)
	e := events.S3BatchJobEventV2{InvocationSchemaVersion: "2.0", InvocationID: one.InvocationID, Job: events.S3BatchJobV2{ID: one.Job.ID, UserArguments: arguments}}
	for _, t := range one.Tasks {
		e.Tasks = append(e.Tasks, events.S3BatchJobTaskV2{TaskID: t.TaskID, S3Key: t.S3Key, S3VersionID: t.S3VersionID, S3Bucket: strings.TrimPrefix(t.S3BucketARN, "arn:aws:s3:::")})
	}
	return e
}

// invoke invokes a function and returns its results, which it matches with the tasks.
func invoke(t *testing.T, sandbox *runtimeapi.Sandbox, request any, timeout time.Duration) []events.S3BatchJobResult {
	t.Helper()
	results, err := tryInvoke(sandbox, request, timeout)
	require.NoError(t, err)
	return results
}

func tryInvoke(sandbox *runtimeapi.Sandbox, request any, timeout time.Duration) ([]events.S3BatchJobResult, error) {
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	answer, err := sandbox.Invoke(context.Background(), payload, timeout)
	if err != nil {
		return nil, err
	}
	var asked struct {
		InvocationSchemaVersion, InvocationID string
		Tasks                                 []struct{ TaskID string }
	}
	var out events.S3BatchJobResponse
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.DisallowUnknownFields()
	if err := errors.Join(json.Unmarshal(payload, &asked), decoder.Decode(&out)); err != nil {
		return nil, err
	}
	if out.InvocationSchemaVersion != asked.InvocationSchemaVersion || out.InvocationID != asked.InvocationID || len(out.Results) != len(asked.Tasks) {
		return nil, fmt.Errorf("the answer %s is not one to %s", answer, payload)
	}
	for i, result := range out.Results {
		if result.TaskID != asked.Tasks[i].TaskID || len(result.ResultString) > 1024 || strings.ContainsAny(result.ResultString, "\r\n") {
			return nil, fmt.Errorf("the result %+v is not one of task %s", result, asked.Tasks[i].TaskID)
		}
	}
	return out.Results, nil
}

// bucket is a new bucket.
type bucket struct {
	name     string
	endpoint string
	client   *s3.Client
}

// newBucket makes a bucket in LocalStack.
func newBucket(t *testing.T, versions bool) *bucket {
	t.Helper()
	return newBucketOf(t, emulator.LocalStack(t), versions)
}

func newBucketOf(t *testing.T, endpoint string, versions bool, changes ...func(*s3.CreateBucketInput)) *bucket {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	b := &bucket{name: "b-" + strings.ToLower(rand.Text()), endpoint: endpoint}
	b.client = s3.New(s3.Options{
		Region: emulator.Region, BaseEndpoint: &endpoint, UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
	in := &s3.CreateBucketInput{Bucket: &b.name, CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: emulator.Region}}
	for _, change := range changes {
		change(in)
	}
	_, err := b.client.CreateBucket(t.Context(), in)
	require.NoError(t, err)
	if versions {
		_, err := b.client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
			Bucket: &b.name, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
		})
		require.NoError(t, err)
	}
	return b
}

// put puts an object and returns its version.
func (b *bucket) put(key string, content []byte, changes ...func(*s3.PutObjectInput)) (version string, err error) {
	in := &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(content)}
	for _, change := range changes {
		change(in)
	}
	out, err := b.client.PutObject(context.Background(), in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.VersionId), nil
}

func (b *bucket) mustPut(t *testing.T, key string, content []byte, changes ...func(*s3.PutObjectInput)) (version string) {
	t.Helper()
	version, err := b.put(key, content, changes...)
	require.NoError(t, err)
	return version
}

// get returns an object as it is stored.
func (b *bucket) get(t *testing.T, key, version string) ([]byte, *s3.GetObjectOutput) {
	t.Helper()
	in := &s3.GetObjectInput{Bucket: &b.name, Key: &key}
	if version != "" {
		in.VersionId = &version
	}
	out, err := b.client.GetObject(t.Context(), in)
	require.NoError(t, err)
	content, err := io.ReadAll(out.Body)
	require.NoError(t, errors.Join(err, out.Body.Close()))
	return content, out
}

// host returns a host of the bucket under one key of AWS KMS alone.
func (b *bucket) host(t *testing.T, keyURL string, options ...pikokms.Option) *pikokms.Host {
	t.Helper()
	u, err := url.Parse(keyURL)
	require.NoError(t, err)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{
		KeyID: strings.TrimPrefix(u.Path, "/"), Client: newKMS(t, u.Query().Get("endpoint")), CheckLater: true,
	})
	require.NoError(t, err)
	host, err := pikokms.New(append(options, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"), pikokms.WithStorage(s3storage.New(b.client, b.name)))...)
	require.NoError(t, err)
	return host
}

// newKMS returns a client of a KMS.
func newKMS(t *testing.T, endpoint string) *kms.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return kms.New(kms.Options{
		Region: emulator.Region, BaseEndpoint: &endpoint, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
}

func read(t *testing.T, host *pikokms.Host, key string) []byte {
	t.Helper()
	r, err := host.Get(t.Context(), key)
	require.NoError(t, err)
	content, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	return content
}

// noise returns n random bytes, which do not begin as a message does.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	if n > 0 {
		b[0] |= 0x80
	}
	return b
}
