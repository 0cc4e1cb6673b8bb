package main_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

func withLocks(in *s3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) }

// properties returns what the AWS SDK finds of an object beside its content.
func (b *bucket) properties(t *testing.T, key string) map[string]string {
	t.Helper()
	ctx := t.Context()
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &key, ChecksumMode: s3types.ChecksumModeEnabled})
	require.NoError(t, err)
	p := map[string]string{
		"content type": aws.ToString(out.ContentType), "cache control": aws.ToString(out.CacheControl), "disposition": aws.ToString(out.ContentDisposition),
		"encoding": strings.TrimSuffix(strings.ReplaceAll(aws.ToString(out.ContentEncoding), "aws-chunked", ""), ","), "language": aws.ToString(out.ContentLanguage),
		"redirect": aws.ToString(out.WebsiteRedirectLocation), "expires": aws.ToString(out.ExpiresString),
		"storage class": string(out.StorageClass), "sse": string(out.ServerSideEncryption), "sse key": aws.ToString(out.SSEKMSKeyId), "bucket key": fmt.Sprint(aws.ToBool(out.BucketKeyEnabled)),
		"checksums": fmt.Sprint(out.ChecksumSHA256 != nil, out.ChecksumSHA1 != nil, out.ChecksumCRC32C != nil),
	}
	for name, value := range out.Metadata {
		if name != "pikokms-header-size" { // it is about the content
			p["metadata "+name] = value
		}
	}
	tags, err := b.client.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &b.name, Key: &key})
	require.NoError(t, err)
	for _, tag := range tags.TagSet {
		p["tag "+*tag.Key] = *tag.Value
	}
	if out.ObjectLockMode != "" {
		p["lock"] = fmt.Sprint(out.ObjectLockMode, " ", aws.ToTime(out.ObjectLockRetainUntilDate).UTC().Format(time.RFC3339))
	}
	if hold, err := b.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &b.name, Key: &key}); err == nil && hold.LegalHold != nil {
		p["legal hold"] = string(hold.LegalHold.Status)
	}
	return p
}

// builtCommand builds the command, and returns the path of its binary.
func builtCommand(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pikokms")
	build := exec.Command("go", "build", "-o", path, "../pikokms")
	build.Env = append(os.Environ(), "GOFLAGS=") // not with the race detector, even if the tests are
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return path
}

// runProgram runs a program with the environment of the tests.
func runProgram(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	out, err := exec.Command(name, arguments...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, arguments, out)
	return string(out)
}

// TestJobAndCommandKeepTheSame works on two copies of objects with every property but locks, which
// moto does not implement. A job encrypts and rewraps one copy in place, and the command the other.
// The AWS SDK then finds the same properties in both, and they are those from before.
func TestJobAndCommandKeepTheSame(t *testing.T) {
	endpoint := emulator.Moto(t)
	binary, command := bootstrap(t), builtCommand(t)
	b := newBucketOf(t, endpoint, true)
	kms := kmstest.NewServer(t)
	url1, url2 := newKEY(kms), newKEY(kms)
	encrypting, _ := start(t, binary, endpoint, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": url1})
	rewrapping, _ := start(t, binary, endpoint, map[string]string{"PIKOKMS_JOB": "rewrap", "PIKOKMS_KEY": url2, "PIKOKMS_OLD_KEYS": url1})

	kinds := map[string]func(*s3.PutObjectInput){
		"plain": func(*s3.PutObjectInput) {},
		"headers": func(in *s3.PutObjectInput) {
			in.ContentType, in.CacheControl, in.ContentDisposition = aws.String("image/png"), aws.String("max-age=60"), aws.String(`attachment; filename="a b.png"`)
			in.ContentLanguage, in.Expires, in.WebsiteRedirectLocation = aws.String("cy"), aws.Time(time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)), aws.String("/else where")
		},
		"metadata": func(in *s3.PutObjectInput) {
			in.Metadata = map[string]string{"name": "My photo (1)/2.jpg", "percent": "100%", "with_underscore": "x=y; z", "pikokms-header-size": "7"}
		},
		"tags":  func(in *s3.PutObjectInput) { in.Tagging = aws.String("team=a%2Bb+c&empty=") },
		"class": func(in *s3.PutObjectInput) { in.StorageClass = s3types.StorageClassStandardIa },
		"sse": func(in *s3.PutObjectInput) {
			in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = s3types.ServerSideEncryptionAwsKms, aws.String("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"), aws.Bool(true)
		},
		"sha256": func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = s3types.ChecksumAlgorithmSha256 },
	}
	before := make(map[string]map[string]string)
	contents := make(map[string][]byte)
	var tasks []task
	for name, change := range kinds {
		contents[name] = noise(3000)
		for _, folder := range []string{"job/", "command/"} {
			version := b.mustPut(t, folder+name, contents[name], change)
			if folder == "job/" {
				tasks = append(tasks, task{bucket: b.name, key: folder + name, version: version})
			}
		}
		before[name] = b.properties(t, "job/"+name)
		delete(before[name], "metadata pikokms-header-size")
	}
	place := "s3://" + b.name + "/command/?region=eu-west-1&use_path_style=true&endpoint=" + url.QueryEscape(endpoint)
	same := func(after, keyURL string) {
		host := b.host(t, keyURL)
		for name, want := range before {
			for _, folder := range []string{"job/", "command/"} {
				require.Equal(t, want, b.properties(t, folder+name), "%s%s after %s", folder, name, after)
				stored, _ := b.get(t, folder+name, "")
				require.True(t, bytes.HasPrefix(stored, []byte{2, 4, 0x78}), folder+name)
				require.Equal(t, contents[name], read(t, host, folder+name), folder+name)
			}
		}
	}
	for _, result := range invoke(t, encrypting, request(tasks...), minute) {
		require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
	}
	runProgram(t, command, "encrypt", "-k", url1, "--in-place", place)
	same("encrypt", url1)
	for i := range tasks {
		tasks[i].version = ""
	}
	for _, result := range invoke(t, rewrapping, request(tasks...), minute) {
		require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
	}
	runProgram(t, command, "rewrap", "-k", url1, "--to", url2, "--in-place", place)
	same("rewrap", url2)
}

// newKEY makes a key of a KMS and returns its KEY.
func newKEY(kms *kmstest.Server) string {
	return keyURL(kms, kms.CreateKey(kmstest.Key{}).ARN)
}

func keyURL(kms *kmstest.Server, arn string) string {
	return "awskms:///" + arn + "?endpoint=" + url.QueryEscape(kms.URL)
}

// behind returns the URL of a proxy before a service.
func behind(t *testing.T, endpoint string, answer func(w http.ResponseWriter, r *http.Request, forward http.Handler)) string {
	t.Helper()
	backend, err := url.Parse(endpoint)
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	forward := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(backend) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, forward) }))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	return server.URL
}

// TestLocksThatTheGETDoesNotState works with an S3 that does not state locks with the content, as
// for users who lack a permission for it. The function asks for them. If it may not see whether
// there is a lock, it does not replace the object.
func TestLocksThatTheGETDoesNotState(t *testing.T) {
	moto := emulator.Moto(t)
	b := newBucketOf(t, moto, false, withLocks)
	kms := kmstest.NewServer(t)
	key := newKEY(kms)
	until := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	lock := func(in *s3.PutObjectInput) {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = s3types.ObjectLockModeCompliance, &until
		in.ObjectLockLegalHoldStatus = s3types.ObjectLockLegalHoldStatusOn
		in.ChecksumAlgorithm = s3types.ChecksumAlgorithmCrc32 // S3 wants one
	}
	silent := func(denied string) string {
		return behind(t, moto, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			if denied != "" && r.URL.Query().Has(denied) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code></Error>")
				return
			}
			if r.URL.Query().Has("retention") { // moto fails
				fmt.Fprintf(w, "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>%s</RetainUntilDate></Retention>", until.Format(time.RFC3339))
				return
			}
			forward.ServeHTTP(&withoutLocks{w}, r)
		})
	}
	b.mustPut(t, "asked", noise(100), lock)
	want := b.properties(t, "asked")
	require.Equal(t, "COMPLIANCE "+until.Format(time.RFC3339), want["lock"])
	sandbox, _ := start(t, bootstrap(t), silent(""), map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": key})
	result := invoke(t, sandbox, request(task{bucket: b.name, key: "asked"}), minute)[0]
	require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
	require.Equal(t, want, b.properties(t, "asked"), "the current version is locked")
	stored, _ := b.get(t, "asked", "")
	require.True(t, bytes.HasPrefix(stored, []byte{2, 4}))

	for _, denied := range []string{"retention", "legal-hold"} {
		content := noise(100)
		b.mustPut(t, denied, content, lock)
		settings := map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": key}
		sandbox, _ := start(t, bootstrap(t), silent(denied), settings)
		result := invoke(t, sandbox, request(task{bucket: b.name, key: denied}), minute)[0]
		require.Equal(t, "PermanentFailure", result.ResultCode, result.ResultString)
		require.Contains(t, result.ResultString, "lock: it may be locked, and the permission s3:GetObject")
		stored, _ := b.get(t, denied, "")
		require.Equal(t, content, stored)

		allowed := maps.Clone(settings)
		allowed["PIKOKMS_ALLOW_LOSSES"] = "lock"
		sandbox, _ = start(t, bootstrap(t), silent(denied), allowed)
		result = invoke(t, sandbox, request(task{bucket: b.name, key: denied}), minute)[0]
		require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
	}
}

// withoutLocks leaves out the headers that state a lock.
type withoutLocks struct{ http.ResponseWriter }

func (w *withoutLocks) WriteHeader(status int) {
	for name := range w.Header() {
		if strings.HasPrefix(name, "X-Amz-Object-Lock") {
			w.Header().Del(name)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap shows the writer to http.ResponseController.
func (w *withoutLocks) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestS3EncryptionClient works on objects that AWS's S3 Encryption Client wrote, in each of its
// formats. No job encrypts them again, and their bytes stay.
func TestS3EncryptionClient(t *testing.T) {
	b := newBucketOf(t, emulator.Moto(t), false)
	kms := kmstest.NewServer(t)
	sandbox, _ := start(t, bootstrap(t), b.endpoint, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": newKEY(kms)})
	objects := map[string]map[string]string{
		"v1":             {"x-amz-key": "a", "x-amz-iv": "b", "x-amz-matdesc": "{}"},
		"v2":             {"x-amz-key-v2": "a", "x-amz-iv": "b", "x-amz-wrap-alg": "kms+context"},
		"v3":             {"x-amz-3": "a", "x-amz-c": "115", "x-amz-i": "b", "x-amz-d": "c", "x-amz-w": "12"},
		"v3 beside":      {"x-amz-c": "115", "x-amz-i": "b", "x-amz-d": "c"},
		"v2 beside":      nil,
		"a.instruction":  {"x-amz-crypto-instr-file": ""},
		"mixed case":     {"X-Amz-Key-V2": "a"},
		"no such client": {"x-amz-c": "115", "x-amz-iv": "b"},
	}
	b.mustPut(t, "v2 beside.instruction", []byte(`{"x-amz-key-v2":"a"}`), func(in *s3.PutObjectInput) { in.Metadata = objects["a.instruction"] })
	for name, metadata := range objects {
		content := noise(300)
		b.mustPut(t, name, content, func(in *s3.PutObjectInput) { in.Metadata = metadata })
		for _, job := range []string{"encrypt", "rewrap", "verify"} {
			result := invoke(t, sandbox, request2(map[string]string{"job": job}, task{bucket: b.name, key: name}), minute)[0]
			stored, _ := b.get(t, name, "")
			if name == "no such client" {
				if job == "encrypt" {
					require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
				}
				continue
			}
			want := "PermanentFailure"
			if name == "a.instruction" && job != "encrypt" {
				want = "Succeeded" // it is left alone
			}
			require.Equal(t, want, result.ResultCode, "%s of %s: %s", job, name, result.ResultString)
			require.Equal(t, content, stored, name)
			if job == "encrypt" || name != "v2 beside" {
				require.Contains(t, result.ResultString, "S3 Encryption Client", "%s of %s", job, name)
			}
		}
	}
}

// TestWhatTheClientWrote works on objects that the client itself wrote. They are first left as they
// are, and then moved.
func TestWhatTheClientWrote(t *testing.T) {
	python := cmp.Or(os.Getenv("PIKOKMS_PYTHON"), "python3")
	if exec.Command(python, "-c", "import s3_encryption, aws_encryption_sdk").Run() != nil {
		t.Skipf("skipped: %s has no amazon-s3-encryption-client-python and aws-encryption-sdk", python)
	}
	b := newBucketOf(t, emulator.Moto(t), false)
	kms := kmstest.NewServer(t)
	before, after := kms.CreateKey(kmstest.Key{}).ARN, kms.CreateKey(kmstest.Key{}).ARN
	client := func(do, arn string) {
		command := exec.Command(python, filepath.Join("testdata", "s3ec.py"), b.name, do, arn)
		command.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+b.endpoint, "AWS_ENDPOINT_URL_KMS="+kms.URL, "AWS_DEFAULT_REGION="+kmstest.Region)
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	client("write", before)
	sandbox, _ := start(t, bootstrap(t), b.endpoint, map[string]string{
		"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL(kms, after), "PIKOKMS_OLD_KEYS": keyURL(kms, before),
	})
	job := func(job, want, text string) {
		t.Helper()
		for _, name := range []string{"v2", "v3"} {
			result := invoke(t, sandbox, request2(map[string]string{"job": job}, task{bucket: b.name, key: name}), minute)[0]
			require.Equal(t, want, result.ResultCode, result.ResultString)
			require.Contains(t, result.ResultString, text)
		}
	}
	job("encrypt", "PermanentFailure", "S3 Encryption Client")
	job("verify", "Succeeded", "")
	client("read", before)
	job("rewrap", "Succeeded", "")
	client("moved", after)
	job("verify", "Succeeded", "")
}

// TestRequesterPays works on a bucket that refuses requests that do not say who pays.
func TestRequesterPays(t *testing.T) {
	storage := oneObject(t)
	kms := kmstest.NewServer(t)
	paid := behind(t, storage, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if r.Header.Get("X-Amz-Request-Payer") != "requester" || !strings.Contains(r.Header.Get("Authorization"), "x-amz-request-payer") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code></Error>")
			return
		}
		forward.ServeHTTP(w, r)
	})
	for pays, want := range map[string]string{"": "PermanentFailure", "true": "Succeeded"} {
		sandbox, _ := start(t, bootstrap(t), paid, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": newKEY(kms), "PIKOKMS_REQUESTER_PAYS": pays})
		result := invoke(t, sandbox, request(task{bucket: "photos", key: "a+b", encoded: "a+b"}), minute)[0]
		require.Equal(t, want, result.ResultCode, result.ResultString)
	}
}
