package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

// runFailing runs the program, which is expected to fail, and returns what it wrote.
func runFailing(t *testing.T, environment []string, args ...string) string {
	t.Helper()
	command := exec.Command(os.Args[0], args...)
	command.Env = append(append(os.Environ(), asProgram+"=1", "XDG_CONFIG_HOME="+t.TempDir()), environment...)
	out, err := command.CombinedOutput()
	require.Error(t, err, "%s", out)
	return string(out)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := emulator.FreeAddress()
	require.NoError(t, err)
	return address
}

func TestWrongSettings(t *testing.T) {
	key, folder := newKey(t), t.TempDir()
	file := filepath.Join(t.TempDir(), "wrong.toml")
	require.NoError(t, os.WriteFile(file, []byte(`foldr = "data"`), 0o600))
	for _, test := range []struct {
		want        string
		environment []string
		args        []string
	}{
		{"give one of --folder and --upstream", nil, []string{"-k", key}},
		{"no key; name one with -k KEY", nil, []string{"--folder", folder}},
		{"-k: ", nil, []string{"-k", "local:missing", "--folder", folder}},
		{"-k: ", nil, []string{"-k", "awskms-discovery:?accounts=111122223333&region=eu-west-1", "--folder", folder}},
		{"--key-for: write", nil, []string{"--key-for", key, "--folder", folder}},
		{"--key-for data/a: ", nil, []string{"--key-for", "data/a=other:x", "--folder", folder}},
		{"have {tenant} in the place", nil, []string{"-k", "branchkey:x?by=tenant&master=" + key, "--folder", folder}},
		{"have {tenant} in the place", nil, []string{"--key-for", "data/{other}/=branchkey:x?by=tenant&master=" + key, "--folder", folder}},
		{"the same place as data/{a}/", nil, []string{"--key-for", "data/{a}/=" + key, "--key-for", "data/{b}/=" + key, "--folder", folder}},
		{"--key-for data/{a}: ", nil, []string{"--key-for", "data/{a}=" + key, "--folder", folder}},
		{"--tls-cert and --tls-key go together", nil, []string{"-k", key, "--folder", folder, "--tls-cert", "x"}},
		{"state the credentials", nil, []string{"-k", key, "--folder", folder, "--listen", ":0"}},
		{"--access-key-id takes a secret", nil, []string{"-k", key, "--folder", folder, "--access-key-id", "x"}},
		{"--upstream: ", nil, []string{"-k", key, "--upstream", "s3://a/b?region=eu-west-1"}},
		{`no parameter "regoin"`, nil, []string{"-k", key, "--upstream", "s3://a?regoin=eu-west-1"}},
		{`--log-format "xml"`, nil, []string{"-k", key, "--folder", folder, "--log-format", "xml"}},
		{"nothing reads the environment variable PIKOKMS_GATEWAY_FOLDR", []string{"PIKOKMS_GATEWAY_FOLDR=x"}, []string{"-k", key}},
		{`"foldr" is no flag; the nearest is "folder"`, nil, []string{"-k", key, "--config", file}},
	} {
		out := runFailing(t, test.environment, test.args...)
		require.Contains(t, out, test.want)
		require.NotContains(t, out, "goroutine")
	}
}

// TestConfigured configures everything by the environment and a file, and serves by HTTP and with
// --health.
func TestConfigured(t *testing.T) {
	folder, health := t.TempDir(), freeAddress(t)
	file := filepath.Join(t.TempDir(), "gateway.toml")
	require.NoError(t, os.WriteFile(file, []byte("folder = '"+folder+"'\nkey-for = ['data/a/="+newKey(t)+"', 'data/b/="+newKey(t)+"']\nbind-object-names = true\n"), 0o600))
	t.Setenv("PIKOKMS_GATEWAY_CONFIG", file)
	t.Setenv("PIKOKMS_GATEWAY_HEALTH", health)
	t.Setenv("PIKOKMS_GATEWAY_SERVICE_HOST", "10.0.0.1") // Kubernetes sets it
	g := start(t)
	g.makeBucket(t, "data")
	put := func(key string) error {
		_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: &key, Body: strings.NewReader("of " + key)})
		return err
	}
	require.NoError(t, put("a/x"))
	require.NoError(t, put("b/x"))
	requireCode(t, "AccessDenied", put("c/x")) // which has no KEY

	// Each prefix has its own key, and an object that is moved to another is refused.
	stored := filepath.Join(folder, "data")
	swapped, err := os.ReadFile(filepath.Join(stored, "a", "x"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(stored, "b", "x"), swapped, 0o600))
	_, err = g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("b/x")})
	require.Error(t, err)

	answer, err := http.Get("http://" + health + "/readyz")
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	var ready struct {
		Keys []struct{ Key, Breaker string }
	}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&ready))
	require.Len(t, ready.Keys, 2)
	require.Equal(t, "closed", ready.Keys[0].Breaker)
}

func requireCode(t *testing.T, want string, err error) {
	t.Helper()
	var failed smithy.APIError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, want, failed.ErrorCode())
}

// TestUpstream runs the gateway in front of one bucket of another S3, with keys of a KMS that goes
// down.
func TestUpstream(t *testing.T) {
	const outagesToOpen = 5 // of the circuit breaker of package service
	behind := t.TempDir()
	upstream := startAs(t, asEngine, behind)
	upstream.makeBucket(t, "data")
	upstream.makeBucket(t, "other")
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{}).ARN
	t.Setenv("AWS_ACCESS_KEY_ID", testKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	health := freeAddress(t)
	g := start(t, "-k", "awskms:///"+key+"?endpoint="+url.QueryEscape(kms.URL),
		"--upstream", "s3://data?region=us-east-1&endpoint="+url.QueryEscape(upstream.url), "--health", health)

	content := bytes.Repeat([]byte("a secret that nobody finds. "), 10_000)
	_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("a"), Body: bytes.NewReader(content)})
	require.NoError(t, err)
	got, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a")})
	require.NoError(t, err)
	whole, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Equal(t, content, whole)

	list, err := g.client.ListBuckets(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, list.Buckets, 1)
	_, err = g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("other"), Key: aws.String("a")})
	requireCode(t, "AccessDenied", err)
	_, err = g.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("other")})
	requireCode(t, "AccessDenied", err)
	_, err = g.client.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: aws.String("other")})
	requireCode(t, "AccessDenied", err)
	_, err = g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("data"), Key: aws.String("b"), CopySource: aws.String("other/a")})
	requireCode(t, "AccessDenied", err)

	// While the KMS is down nothing is stored, and clients are asked to try again.
	kms.Inject(kmstest.Fault{Do: kmstest.Error("KMSInternalException", "down")})
	failures := make(chan error)
	for range outagesToOpen { // at the same time, since each waits while the KMS is asked again
		go func() {
			_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("b"), Body: strings.NewReader("x")},
				func(o *s3.Options) { o.Retryer = aws.NopRetryer{} })
			failures <- err
		}()
	}
	for range outagesToOpen {
		err = <-failures
		requireCode(t, "ServiceUnavailable", err)
	}
	var answered *awshttp.ResponseError
	require.ErrorAs(t, err, &answered)
	require.NotEmpty(t, answered.Response.Header.Get("Retry-After"))
	answer, err := http.Get("http://" + health + "/readyz")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Len(t, storedFiles(t, filepath.Join(behind, "data")), 1)
}

// TestUpstreamAnswers asks for what is not there, or is not encrypted, in front of another S3.
func TestUpstreamAnswers(t *testing.T) {
	upstream := startAs(t, asEngine, t.TempDir())
	t.Setenv("AWS_ACCESS_KEY_ID", testKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	g := start(t, "-k", newKey(t), "--upstream", "s3://?region=us-east-1&endpoint="+url.QueryEscape(upstream.url))
	g.makeBucket(t, "data")
	data, none := aws.String("data"), aws.String("none")

	_, err := g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: data, Key: aws.String("copy"), CopySource: aws.String("data/none")})
	requireCode(t, "NoSuchKey", err)
	_, err = g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: data, Key: aws.String("copy"), CopySource: aws.String("none/none")})
	requireCode(t, "NoSuchBucket", err)
	_, err = g.client.GetObjectAttributes(t.Context(), &s3.GetObjectAttributesInput{
		Bucket: data, Key: none, ObjectAttributes: []types.ObjectAttributes{types.ObjectAttributesObjectSize},
	})
	requireCode(t, "NoSuchKey", err)
	_, err = g.client.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: none, Key: none, UploadId: none, PartNumber: aws.Int32(1), Body: strings.NewReader("part"),
	})
	requireCode(t, "NoSuchBucket", err)

	// A folder has the checksum that the client names.
	sum := md5.Sum(nil)
	text := base64.StdEncoding.EncodeToString(sum[:])
	put, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: data, Key: aws.String("folder/"), Body: strings.NewReader(""), ChecksumMD5: &text,
	})
	require.NoError(t, err)
	require.Equal(t, text, *put.ChecksumMD5)
	_, err = g.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: data, Key: aws.String("folder/")})
	require.NoError(t, err)

	// Settings that would not be kept are refused.
	_, err = g.client.PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: data, Policy: aws.String(
		`{"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/*"}]}`)})
	requireCode(t, "NotImplemented", err)
	_, err = g.client.PutBucketCors(t.Context(), &s3.PutBucketCorsInput{Bucket: data, CORSConfiguration: &types.CORSConfiguration{
		CORSRules: []types.CORSRule{{AllowedMethods: []string{"GET"}, AllowedOrigins: []string{"*"}}},
	}})
	requireCode(t, "NotImplemented", err)
	_, err = g.client.PutBucketWebsite(t.Context(), &s3.PutBucketWebsiteInput{Bucket: data, WebsiteConfiguration: &types.WebsiteConfiguration{
		IndexDocument: &types.IndexDocument{Suffix: aws.String("index.html")},
	}})
	requireCode(t, "NotImplemented", err)

	// The bucket can be deleted with an upload that was not completed.
	_, err = g.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: data, Key: aws.String("large")})
	require.NoError(t, err)
	_, err = g.client.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: data})
	require.NoError(t, err)
}

// TestStop stops the gateway while an object is read. The reader gets all of it.
func TestStop(t *testing.T) {
	g := start(t, "-k", newKey(t), "--folder", t.TempDir())
	g.makeBucket(t, "data")
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20)
	_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("big"), Body: bytes.NewReader(content)})
	require.NoError(t, err)
	got, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("big")})
	require.NoError(t, err)
	defer got.Body.Close()
	first := make([]byte, 1000)
	_, err = io.ReadFull(got.Body, first)
	require.NoError(t, err)
	require.NoError(t, g.process.Process.Signal(os.Interrupt))
	time.Sleep(200 * time.Millisecond) // so that it would have ended by now
	rest, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Equal(t, content, append(first, rest...))
	require.NoError(t, g.process.Wait())
}

// TestFormsAreStreams checks that the gateway writes no content of a form to a temporary file, and
// takes objects whose type says that they are forms.
func TestFormsAreStreams(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	folder := t.TempDir()
	g := start(t, "-k", newKey(t), "--folder", folder)
	g.makeBucket(t, "data")
	_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("a"), Body: strings.NewReader("no form"), ContentType: aws.String("multipart/form-data; boundary=x")})
	require.NoError(t, err)
	got, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a")})
	require.NoError(t, err)
	content, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Equal(t, "no form", string(content))
	require.Equal(t, "multipart/form-data; boundary=x", *got.ContentType)

	// This form is not signed, and its file is cut short.
	connection, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	require.NoError(t, err)
	defer connection.Close()
	secret := strings.Repeat("a secret that nobody finds. ", 1<<20)
	_, err = fmt.Fprintf(connection, "POST /data HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"+
		"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n", 2*len(secret))
	require.NoError(t, err)
	_, _ = io.WriteString(connection, secret) // it may be refused meanwhile
	time.Sleep(200 * time.Millisecond)
	for _, at := range []string{temporary, folder} {
		for _, file := range storedFiles(t, at) {
			require.NotContains(t, string(file), "secret")
		}
	}
}

// TestForms posts objects by forms. The gateway does not keep the fields of an unsigned form in
// memory, however long they are.
func TestForms(t *testing.T) {
	g := start(t, "-k", newKey(t), "--folder", t.TempDir())
	g.makeBucket(t, "data")
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		_, _ = io.WriteString(h, text) // it never fails
		return h.Sum(nil)
	}
	now := time.Now().UTC()
	day := now.Format("20060102")
	policy := base64.StdEncoding.EncodeToString([]byte(`{"expiration":"` + now.Add(time.Hour).Format("2006-01-02T15:04:05.000Z") +
		`","conditions":[{"bucket":"data"},["starts-with","$key",""],["starts-with","$x-amz-algorithm",""],["starts-with","$x-amz-credential",""],["starts-with","$x-amz-date",""]]}`))
	key := mac(mac(mac(mac([]byte("AWS4"+testSecret), day), "us-east-1"), "s3"), "aws4_request")
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	for signature, status := range map[string]int{
		hex.EncodeToString(mac(key, policy)): http.StatusNoContent, strings.Repeat("0", 64): http.StatusForbidden,
	} {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for _, field := range [][2]string{
			{"key", "a"}, {"x-amz-algorithm", "AWS4-HMAC-SHA256"}, {"x-amz-credential", testKey + "/" + day + "/us-east-1/s3/aws4_request"},
			{"x-amz-date", now.Format("20060102T150405Z")}, {"policy", policy}, {"x-amz-signature", signature},
		} {
			require.NoError(t, w.WriteField(field[0], field[1]))
		}
		file, err := w.CreateFormFile("file", "f")
		require.NoError(t, err)
		_, err = file.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		answer, err := http.Post(g.url+"/data", w.FormDataContentType(), &body)
		if status == http.StatusForbidden && err != nil {
			continue // the connection was closed before all was sent
		}
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, status, answer.StatusCode, "%s", text)
	}
	got, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a")})
	require.NoError(t, err)
	stored, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, stored))

	connection, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	require.NoError(t, err)
	defer connection.Close()
	require.NoError(t, connection.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(connection, "POST /data?x=y HTTP/1.1\r\nHost: x\r\nContent-Type: Multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"+
		"--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n%s", 1<<40, strings.Repeat("k", 2*maxUnauthorized))
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	require.NoError(t, err, "the gateway waits for the rest of a field")
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)
}

// TestBoto3 writes and reads with AWS's SDK for Python.
func TestBoto3(t *testing.T) {
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		t.Skip("PIKOKMS_PYTHON is not set: the path of a Python with boto3")
	}
	folder := t.TempDir()
	g := start(t, "-k", newKey(t), "--folder", folder)
	command := exec.Command(python, "testdata/boto3_client.py")
	command.Env = append(os.Environ(), "AWS_ENDPOINT_URL_S3="+g.url, "AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+testSecret, "AWS_DEFAULT_REGION=us-east-1")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, file := range storedFiles(t, folder) {
		require.NotContains(t, string(file), "PLAINTEXTMARKER")
	}
}
