package verbs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider/local"
)

// motoBucket is a bucket of moto. Tests look into it with AWS's own SDK.
type motoBucket struct {
	t        *testing.T
	client   *s3.Client
	name     string
	endpoint string
	key      string // a KEY
}

func newMotoBucket(t *testing.T) *motoBucket {
	t.Helper()
	b := &motoBucket{t: t, name: "bucket", endpoint: emulator.Moto(t), key: filepath.Join(t.TempDir(), "key")}
	setCredentials(t)
	b.client = s3.New(s3.Options{Region: "us-east-1", BaseEndpoint: &b.endpoint, UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	_, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &b.name})
	require.NoError(t, err)
	require.NoError(t, local.Generate(b.key))
	b.key = "local:" + b.key
	return b
}

func setCredentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv(keys.Variable, "")
}

// url returns the URL of a prefix or a key.
func (b *motoBucket) url(path string) string {
	u := url.URL{Scheme: "s3", Host: b.name, Path: "/" + path, RawQuery: url.Values{"region": {"us-east-1"}, "endpoint": {b.endpoint}, "use_path_style": {"true"}}.Encode()}
	return u.String()
}

func (b *motoBucket) put(key, content string, more ...func(*s3.PutObjectInput)) {
	b.t.Helper()
	in := &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: strings.NewReader(content)}
	for _, m := range more {
		m(in)
	}
	_, err := b.client.PutObject(b.t.Context(), in)
	require.NoError(b.t, err, "%q", key)
}

func (b *motoBucket) get(key string) (string, *s3.GetObjectOutput) {
	b.t.Helper()
	out, err := b.client.GetObject(b.t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	require.NoError(b.t, err, "%q", key)
	content, err := io.ReadAll(out.Body)
	require.NoError(b.t, err)
	return string(content), out
}

// run runs the command, and requires that it succeeds or fails.
func (b *motoBucket) run(succeeds bool, arguments ...string) (stdout, stderr string) {
	b.t.Helper()
	stdout, stderr, _, err := execute(b.t, arguments...)
	require.Equal(b.t, succeeds, err == nil, "%q: %s", arguments, stderr)
	return stdout, stderr
}

// TestOddKeysOfS3 checks that every key that S3 takes is an object of its own: in place, as OUT, in
// listings and in proofs.
func TestOddKeysOfS3(t *testing.T) {
	race.SkipShort(t)
	b := newMotoBucket(t)
	keys := []string{
		"content/", "a/b", "a__0x2f__b", "x/../y.txt", "x/./y.txt", "tab\there", "100%", "%2F", "q?a=1#f", `quote"'`, "über ~ +",
		"a//b", "trail ", "../up", strings.Repeat("k", 1020),
	}
	for _, key := range keys {
		b.put("in/"+key, "secret of "+key)
	}
	b.put("in/marker/", "")
	check := func(prefix string, encrypted bool) {
		t.Helper()
		for _, key := range keys {
			content, _ := b.get(prefix + key)
			if encrypted {
				require.Equal(t, byte(2), content[0], "%q", key)
				require.NotContains(t, content, "secret", "%q", key)
			} else {
				require.Equal(t, "secret of "+key, content)
			}
		}
	}
	_, said := b.run(true, "encrypt", "-k", b.key, "--in-place", b.url("in/"))
	require.Contains(t, said, fmt.Sprintf("encrypted %d objects", len(keys)))
	require.Contains(t, said, "left out 1 empty folder")
	check("in/", true)
	_, said = b.run(true, "verify", "-k", b.key, b.url("in/"))
	require.Contains(t, said, fmt.Sprintf("verified %d objects", len(keys)))
	_, said = b.run(true, "rewrap", "-k", b.key, "--to", b.key, "--in-place", b.url("in/"))
	require.Contains(t, said, fmt.Sprintf("%d skipped", len(keys)))
	listed, _ := b.run(true, "ls", b.url("in/"))
	require.Equal(t, len(keys), strings.Count(listed, "encrypted"))
	require.NotContains(t, listed, "plain")
	for _, key := range []string{"q?a=1#f", "100%", "tab\there", "x/../y.txt"} {
		plain, _ := b.run(true, "cat", "-k", b.key, b.url("in/"+key))
		require.Equal(t, "secret of "+key, plain)
	}
	b.run(true, "decrypt", "-k", b.key, "-o", b.url("out/"), b.url("in/"))
	check("out/", false)
	folder := filepath.Join(t.TempDir(), "folder")
	_, said = b.run(false, "decrypt", "-k", b.key, "-o", folder, b.url("in/"))
	require.Contains(t, said, "in/content/")
	require.NoFileExists(t, filepath.Join(filepath.Dir(folder), "up"))
	content, err := os.ReadFile(filepath.Join(folder, "a", "b"))
	require.NoError(t, err)
	require.Equal(t, "secret of a/b", string(content))
	b.run(true, "decrypt", "-k", b.key, "--in-place", b.url("in/"))
	check("in/", false)
	require.NotContains(t, first2(b.get("in/a/b")).Metadata, "pikokms-header-size")
}

func first2[T any](_ string, out T) T { return out }

// TestPrefixOfS3WithoutSlash names a prefix without its slash. If there is an object of that name,
// the object is meant.
func TestPrefixOfS3WithoutSlash(t *testing.T) {
	b := newMotoBucket(t)
	b.put("photos/a", "a")
	b.put("photos/b", "b")
	b.put("both", "object")
	b.put("both/c", "c")
	b.put("phot", "other")
	_, said := b.run(true, "encrypt", "-k", b.key, "--in-place", b.url("photos"))
	require.Contains(t, said, "encrypted 2 objects")
	_, said = b.run(true, "encrypt", "-k", b.key, "--in-place", b.url("both"))
	require.Contains(t, said, "encrypted 1 object")
	content, _ := b.get("both/c")
	require.Equal(t, "c", content)
	_, said = b.run(false, "encrypt", "-k", b.key, "--in-place", b.url("nothing"))
	require.Contains(t, said, "nothing")
}

// An object's headers, user metadata and tags stay as they are, byte by byte, in place and in a
// copy.
func TestPropertiesOfS3Stay(t *testing.T) {
	race.SkipShort(t)
	b := newMotoBucket(t)
	k := kms.New(kms.Options{Region: "us-east-1", BaseEndpoint: &b.endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	key, err := k.CreateKey(t.Context(), nil)
	require.NoError(t, err)
	b.put("in/o", "hello", func(in *s3.PutObjectInput) {
		in.Metadata = map[string]string{
			"name": "My photo (1)/2.jpg", "percent": "100%", "escaped": "a%2Fb", "plus": "1+1", "json": `{"a":"b"}`, "sum": "q83v+/8=", "under_score": "v",
		}
		in.ContentType, in.ContentDisposition = aws.String("text/plain; charset=iso-8859-1"), aws.String(`attachment; filename="a b.txt"`)
		in.CacheControl, in.ContentLanguage, in.ContentEncoding = aws.String("max-age=60"), aws.String("cy"), aws.String("x-own")
		in.WebsiteRedirectLocation, in.Expires = aws.String("/else"), aws.Time(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))
		in.Tagging, in.StorageClass = aws.String("retain=7y&class=p+ii"), s3types.StorageClassStandardIa
		in.ServerSideEncryption, in.SSEKMSKeyId = s3types.ServerSideEncryptionAwsKms, key.KeyMetadata.Arn
	})
	state := func(at string) string {
		t.Helper()
		_, out := b.get(at)
		tags, err := b.client.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &b.name, Key: &at})
		require.NoError(t, err)
		named := make(map[string]string)
		for _, tag := range tags.TagSet {
			named[*tag.Key] = *tag.Value
		}
		delete(out.Metadata, "pikokms-header-size")
		all, err := json.Marshal([]any{
			out.Metadata, named, out.ContentType, out.ContentDisposition, out.CacheControl, out.ContentLanguage, out.ContentEncoding,
			out.WebsiteRedirectLocation, out.ExpiresString, out.StorageClass,
		})
		require.NoError(t, err)
		if strings.HasPrefix(at, "in/") {
			require.Equal(t, s3types.ServerSideEncryptionAwsKms, out.ServerSideEncryption)
			require.Equal(t, *key.KeyMetadata.Arn, *out.SSEKMSKeyId)
		}
		return string(all)
	}
	before := state("in/o")
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, local.Generate(other))
	for _, arguments := range [][]string{
		{"encrypt", "-k", b.key, "--in-place", b.url("in/")},
		{"rewrap", "-k", b.key, "--to", "local:" + other, "--in-place", b.url("in/")},
		{"rewrap", "-k", "local:" + other, "--to", b.key, "-o", b.url("copy/"), b.url("in/")},
		{"decrypt", "-k", "local:" + other, "--in-place", b.url("in/")},
		{"decrypt", "-k", b.key, "-o", b.url("plain/"), b.url("copy/")},
	} {
		b.run(true, arguments...)
		require.Equal(t, before, state("in/o"), "%q", arguments)
	}
	require.Equal(t, before, state("copy/o"))
	require.Equal(t, before, state("plain/o"))
	content, _ := b.get("plain/o")
	require.Equal(t, "hello", content)
}

// TestS3EncryptionClientObjects checks that what AWS's S3 Encryption Client wrote is neither
// encrypted again nor listed as plain.
func TestS3EncryptionClientObjects(t *testing.T) {
	b := newMotoBucket(t)
	with := func(metadata map[string]string) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) { in.Metadata = metadata }
	}
	encoded := func(size int) string { return base64.StdEncoding.EncodeToString(make([]byte, size)) }
	v2 := map[string]string{
		"x-amz-key-v2": encoded(60), "x-amz-iv": encoded(12), "x-amz-wrap-alg": "AES/GCM",
		"x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128", "x-amz-matdesc": "{}",
	}
	instruction, err := json.Marshal(v2)
	require.NoError(t, err)
	ciphertext := strings.Repeat("\x9f\x01\x77", 100)
	b.put("in/v1", ciphertext, with(map[string]string{"x-amz-key": encoded(48), "x-amz-iv": encoded(16), "x-amz-matdesc": "{}"}))
	b.put("in/v2", ciphertext, with(v2))
	b.put("in/v3", ciphertext, with(map[string]string{"x-amz-3": encoded(60), "x-amz-w": "02", "x-amz-c": "115", "x-amz-i": encoded(28), "x-amz-d": encoded(28)}))
	b.put("in/beside", ciphertext)
	b.put("in/beside-other", "plain")
	b.put("in/beside.instruction", string(instruction))
	b.put("in/notes", "plain")
	b.put("in/notes.instruction", "how to read the notes")
	foreign := []string{"v1", "v2", "v3", "beside", "beside.instruction"}
	_, said := b.run(false, "encrypt", "-k", b.key, "--in-place", b.url("in/"))
	require.Contains(t, said, "encrypted 3 objects")
	for _, name := range foreign {
		require.Contains(t, said, "failed s3://bucket/in/"+name+": AWS's S3 Encryption Client wrote it")
		content, _ := b.get("in/" + name)
		require.NotEqual(t, byte(2), content[0], name)
	}
	_, said = b.run(false, "encrypt", "-k", b.key, "--in-place", b.url("in/beside"))
	require.Contains(t, said, "AWS's S3 Encryption Client wrote it", "one object, whose neighbours are not listed")
	listed, _ := b.run(true, "ls", b.url("in/"))
	require.Equal(t, len(foreign), strings.Count(listed, " s3-client "), listed)
	require.NotContains(t, listed, "plain")
	inspected, _ := b.run(true, "inspect", "--json", b.url("in/"))
	require.Equal(t, len(foreign), strings.Count(inspected, `"kind":"s3-client"`), inspected)
	_, said = b.run(false, "verify", "-k", b.key, "--plain", "skip", b.url("in/"))
	require.Contains(t, said, "verified 3 objects of")
	require.Contains(t, said, "4 failed")
	require.Contains(t, said, "beside.instruction: AWS's S3 Encryption Client wrote it: it is an instruction file")
	b.run(true, "verify", "-k", b.key, "--exclude", "v?", "--exclude", "beside", "--exclude", "beside.instruction", b.url("in/"))
}

// An object whose replacement would lose something is counted beforehand, and replaced only if that
// is allowed.
func TestAllowedLosses(t *testing.T) {
	b := newMotoBucket(t)
	b.put("in/public", "hello", func(in *s3.PutObjectInput) { in.ACL = s3types.ObjectCannedACLPublicRead })
	b.put("in/private", "hello")
	_, said := b.run(false, "encrypt", "-k", b.key, "--in-place", "--dry-run", b.url("in/"))
	require.Contains(t, said, "1 object would lose their acl")
	require.Contains(t, said, "failed s3://bucket/in/public: a replacement could not keep all of it: acl: ")
	_, said = b.run(false, "encrypt", "-k", b.key, "--in-place", b.url("in/"))
	require.Contains(t, said, "--allow-loss KIND allows that")
	content, _ := b.get("in/public")
	require.Equal(t, "hello", content)
	_, said = b.run(false, "encrypt", "-k", b.key, "--in-place", "--allow-loss", "everything", b.url("in/"))
	require.Contains(t, said, "known are acl, ")
	_, said = b.run(true, "encrypt", "-k", b.key, "--in-place", "--allow-loss", "acl", b.url("in/"))
	require.Contains(t, said, "1 object lost their acl")
	content, _ = b.get("in/public")
	require.Equal(t, byte(2), content[0])
}

// TestServiceWithoutConditions checks that an error names a service without conditional writes, and
// that --sole-writer needs none.
func TestServiceWithoutConditions(t *testing.T) {
	race.SkipShort(t)
	server, endpoint := newS3Server(t)
	setCredentials(t)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, local.Generate(key))
	server.put("/bucket/in/a", s3Object{[]byte("hello"), http.Header{"Etag": {`"1"`}}, time.Now()})
	server.onRequest(func(r *http.Request) int {
		if r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != "" {
			return http.StatusNotImplemented
		}
		return 0
	})
	in, out := "s3://bucket/in/?region=eu-west-1&use_path_style=true&endpoint="+endpoint, "s3://bucket/out/?region=eu-west-1&use_path_style=true&endpoint="+endpoint
	for _, where := range [][]string{{"--in-place"}, {"-o", out}} {
		arguments := append([]string{"encrypt", "-k", "local:" + key, in}, where...)
		_, said, _, err := execute(t, arguments...)
		require.Error(t, err)
		require.Contains(t, said, "the service has no conditional writes")
		require.Contains(t, said, "--sole-writer")
	}
	require.Equal(t, "hello", string(server.content("/bucket/in/a")))
	for _, where := range [][]string{{"-o", out}, {"--in-place"}} {
		_, said, _, err := execute(t, append([]string{"encrypt", "-k", "local:" + key, "--sole-writer", in}, where...)...)
		require.NoError(t, err, said)
	}
	for _, path := range []string{"/bucket/in/a", "/bucket/out/a"} {
		require.Equal(t, byte(2), server.content(path)[0])
	}
	_, said, _, err := execute(t, "encrypt", "-k", "local:"+key, "--sole-writer", "-o", out, in)
	require.NoError(t, err)
	require.Contains(t, said, "1 skipped")
}

// TestURLsOfS3 checks that the parameters of a URL reach the requests.
func TestURLsOfS3(t *testing.T) {
	race.SkipShort(t)
	var mu sync.Mutex
	var seen []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r)
		mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/elsewhere") {
			w.Header().Set("X-Amz-Bucket-Region", "us-west-2")
			w.WriteHeader(http.StatusMovedPermanently)
			return
		}
		fmt.Fprint(w, `<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`)
	}))
	defer server.Close()
	setCredentials(t)
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	ls := func(place string) (string, error) {
		_, said, _, err := execute(t, "ls", place)
		return said, err
	}
	said, err := ls("s3://bucket/?region=eu-west-1&s3ForcePathStyle=true&awssdk=v2&rate_limiter_capacity=100&request_payer=requester&endpoint=" + server.URL)
	require.NoError(t, err, said)
	first := func() *http.Request {
		mu.Lock()
		defer mu.Unlock()
		defer func() { seen = nil }()
		return seen[0]
	}
	r := first()
	require.Equal(t, "requester", r.Header.Get("X-Amz-Request-Payer"))
	require.Contains(t, r.Header.Get("Authorization"), "x-amz-request-payer")
	require.Equal(t, "/bucket", strings.TrimSuffix(r.URL.Path, "/"))
	said, err = ls("s3://bucket/?region=eu-west-1&anonymous=true&use_path_style=true&endpoint=" + server.URL)
	require.NoError(t, err, said)
	require.Empty(t, first().Header.Get("Authorization"))
	for place, wrong := range map[string]string{
		"s3://bucket/?regoin=eu-west-1":                      `s3:// has no parameter "regoin"; known are accelerate, anonymous, awssdk,`,
		"s3://bucket/?region=eu-west-1&use_path_style=maybe": `use_path_style is "maybe"`,
		"s3://bucket/?region=eu-west-1&endpoint=localhost":   "give a URL such as",
		"s3://bucket/?region=eu-west-1&request_payer=me":     "only requester is known",
		"s3://bucket/":             "no Region is configured; give the bucket's as ?region=, or set AWS_REGION or the profile's region",
		"s3:///x?region=eu-west-1": "names no bucket",
		"s3://elsewhere/?region=eu-west-1&use_path_style=true&endpoint=" + server.URL: "in Region us-west-2",
	} {
		said, err := ls(place)
		require.Error(t, err, place)
		require.Contains(t, said, wrong)
	}
	without := exec.CommandContext(t.Context(), "pikokms", "ls", "s3://bucket/?region=eu-west-1")
	without.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(t.TempDir(), "none"))
	text, err := without.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "no AWS credentials; set them in the environment, a profile or a role")
}

// An object of many parts is stored whole.
func TestLargeObjectOfS3(t *testing.T) {
	b := newMotoBucket(t)
	// Moto 5 has no access control lists of objects that were uploaded in parts.
	_, err := b.client.PutBucketOwnershipControls(t.Context(), &s3.PutBucketOwnershipControlsInput{Bucket: &b.name, OwnershipControls: &s3types.OwnershipControls{
		Rules: []s3types.OwnershipControlsRule{{ObjectOwnership: s3types.ObjectOwnershipBucketOwnerEnforced}},
	}})
	require.NoError(t, err)
	content := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	name := filepath.Join(t.TempDir(), "large")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	b.run(true, "encrypt", "-k", b.key, "-o", b.url("large"), name)
	b.run(true, "rewrap", "-k", b.key, "--to", b.key, "-o", b.url("again"), b.url("large"))
	b.run(true, "decrypt", "-k", b.key, "--in-place", b.url("again"))
	got, _ := b.get("again")
	require.True(t, got == string(content))
}

// TestChecksumsOfS3AreKept checks that an object's checksum keeps its algorithm, in place and with
// -o. An algorithm that can't be kept is a loss.
func TestChecksumsOfS3AreKept(t *testing.T) {
	b := newMotoBucket(t)
	b.put("in/a", "hello", func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = s3types.ChecksumAlgorithmSha256 })
	b.put("in/b", "hello", func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = s3types.ChecksumAlgorithmSha1 })
	check := func(prefix string) {
		t.Helper()
		for key, has := range map[string]func(*s3.HeadObjectOutput) *string{
			"a": func(out *s3.HeadObjectOutput) *string { return out.ChecksumSHA256 },
			"b": func(out *s3.HeadObjectOutput) *string { return out.ChecksumSHA1 },
		} {
			out, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String(prefix + key), ChecksumMode: s3types.ChecksumModeEnabled})
			require.NoError(t, err)
			require.NotNil(t, has(out), prefix+key)
		}
	}
	check("in/")
	_, stderr := b.run(true, "encrypt", "--in-place", "-k", b.key, b.url("in/"))
	require.NotContains(t, stderr, "checksum")
	check("in/")
	b.run(true, "decrypt", "-k", b.key, "-o", b.url("out/"), b.url("in/"))
	check("out/")
}
