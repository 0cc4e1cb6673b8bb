package blobstorage

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3ec"
)

// part is a part of a listing.
type part struct {
	keys      []string
	next      string
	truncated bool
}

// lyingS3 answers as S3 does, but for listings, and for ETags if they are left out.
type lyingS3 struct {
	parts       func(token string) part
	noETag      bool // of PutObject
	noCompleted bool // nothing in the body that answers CompleteMultipartUpload

	mu       sync.Mutex
	requests []*http.Request
}

func (s *lyingS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && query.Has("list-type"):
		p := s.parts(query.Get("continuation-token"))
		fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>", p.truncated)
		if p.next != "" {
			fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", p.next)
		}
		for _, key := range p.keys {
			var escaped bytes.Buffer
			_ = xml.EscapeText(&escaped, []byte(key)) // a bytes.Buffer does not fail
			fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>3</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>", escaped.Bytes())
		}
		fmt.Fprint(w, "</ListBucketResult>")
	case r.Method == http.MethodPost && query.Has("uploads"):
		fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
	case r.Method == http.MethodPost && query.Has("uploadId"):
		if !s.noCompleted {
			fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>`)
		}
	case r.Method == http.MethodPut:
		if !s.noETag {
			w.Header().Set("ETag", `"1"`)
		}
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// open returns the bucket, and its client.
func (s *lyingS3) open(t *testing.T, options *s3blob.Options, client func(*s3.Options)) *blob.Bucket {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	bucket, err := s3blob.OpenBucket(t.Context(), s3.New(s3.Options{
		Region: "eu-west-1", BaseEndpoint: &server.URL, UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	}, client), "bucket", options)
	require.NoError(t, err)
	return bucket
}

func unchanged(*s3.Options) {}

// TestListingsAreWholeOrAnError lists buckets of a service that lies, through a storage and through
// an encrypting bucket.
func TestListingsAreWholeOrAnError(t *testing.T) {
	first := part{[]string{"p/a", "p/b"}, "2", true}
	for name, parts := range map[string]map[string]part{
		"truncated without a token": {"": {[]string{"p/a"}, "", true}},
		"nothing without a token":   {"": {nil, "", true}},
		"the same token again":      {"": first, "2": {[]string{"p/c"}, "2", true}},
		"the same token, no keys":   {"": first, "2": {nil, "2", true}},
		"tokens in a circle":        {"": first, "2": {[]string{"p/c"}, "3", true}, "3": {[]string{"p/d"}, "2", true}},
		"a part that comes again":   {"": first, "2": {[]string{"p/a", "p/b"}, "", false}},
		"a key that comes again":    {"": first, "2": {[]string{"p/b", "p/c"}, "", false}},
		"backwards":                 {"": {[]string{"p/c"}, "2", true}, "2": {[]string{"p/a"}, "", false}},
		"backwards in a part":       {"": {[]string{"p/c", "p/a"}, "", false}},
		"outside of the prefix":     {"": {[]string{"p/a", "q/b"}, "", false}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s := &lyingS3{parts: func(token string) part { return parts[token] }}
			encrypting, err := Encrypt(s.open(t, nil, unchanged), underKey(t)...)
			require.NoError(t, err)
			_, err = keysOf(New(s.open(t, nil, unchanged), nil).List(ctx, "p/"))
			require.ErrorIs(t, err, ErrAnswer)
			_, err = keysOf(New(blob.PrefixedBucket(s.open(t, nil, unchanged), "p/"), nil).List(ctx, ""))
			require.ErrorIs(t, err, ErrAnswer)
			objects := encrypting.List(&blob.ListOptions{Prefix: "p/"})
			for err = nil; err == nil; {
				_, err = objects.Next(ctx)
			}
			require.ErrorIs(t, err, ErrAnswer)
			require.Equal(t, gcerrors.Internal, gcerrors.Code(err))
		})
	}
}

// TestRightListings lists what is unusual, but right.
func TestRightListings(t *testing.T) {
	parts := map[string]part{
		"":  {[]string{"p/a", "p/a!", "p/a/b", "p/a__0x2f__c"}, "2", true},
		"2": {nil, "3", true},
		"3": {[]string{"p/b", "p/é", "p/\U0001F600"}, "", false},
	}
	want := []string{"p/a", "p/a!", "p/a/b", "p/a/c", "p/b", "p/é", "p/\U0001F600"} // gocloud.dev unescapes
	inner := (&lyingS3{parts: func(token string) part { return parts[token] }}).open(t, nil, unchanged)
	got, err := keysOf(New(inner, nil).List(t.Context(), "p/"))
	require.NoError(t, err)
	require.Equal(t, want, got)
	encrypting, err := Encrypt(inner, underKey(t)...)
	require.NoError(t, err)
	for size := range 4 { // pages of the encrypting bucket
		got = nil
		for token := blob.FirstPageToken; len(token) > 0; {
			var objects []*blob.ListObject
			objects, token, err = encrypting.ListPage(t.Context(), token, size+1, &blob.ListOptions{Prefix: "p/"})
			require.NoError(t, err)
			for _, o := range objects {
				got = append(got, o.Key)
			}
		}
		require.Equal(t, want, got)
	}
}

func keysOf(list func(func(string, error) bool)) (keys []string, err error) {
	for key, failed := range list {
		if failed != nil {
			return keys, failed
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// TestAnyCloudsListings lists a bucket of which nothing is known but what gocloud.dev passes on.
func TestAnyCloudsListings(t *testing.T) {
	for name, parts := range map[string]map[string]part{
		"the same token again":    {"": {[]string{"a"}, "2", true}, "2": {[]string{"b"}, "2", true}},
		"tokens in a circle":      {"": {[]string{"a"}, "2", true}, "2": {[]string{"b"}, "3", true}, "3": {[]string{"c"}, "2", true}},
		"a part that comes again": {"": {[]string{"a"}, "2", true}, "2": {[]string{"a"}, "", false}},
		"nothing, without an end": {"": {nil, "2", true}, "2": {nil, "2", true}},
	} {
		inner := blob.NewBucket(&listed{parts: parts})
		_, err := keysOf(New(inner, nil).List(t.Context(), ""))
		require.ErrorIs(t, err, ErrAnswer, name)
	}
}

// listed is a bucket that only lists. It gives one key more than a page may have, so that
// gocloud.dev shows each of its tokens.
type listed struct {
	driver.Bucket
	parts map[string]part
}

func (l *listed) ErrorCode(err error) gcerrors.ErrorCode { return gcerrors.Code(err) }

func (l *listed) ListPaged(_ context.Context, options *driver.ListOptions) (*driver.ListPage, error) {
	if err := options.BeforeList(func(any) bool { return false }); err != nil {
		return nil, err
	}
	p := l.parts[string(options.PageToken)]
	page := &driver.ListPage{NextPageToken: []byte(p.next)}
	for _, key := range p.keys {
		for i := range options.PageSize {
			page.Objects = append(page.Objects, &driver.ListObject{Key: fmt.Sprintf("%s%04d", key, i)})
		}
	}
	return page, nil
}

// TestUploadsAreConfirmed uploads to an S3 whose answers do not say that anything is stored.
func TestUploadsAreConfirmed(t *testing.T) {
	race.SkipShort(t)
	for name, s := range map[string]*lyingS3{"no ETag": {noETag: true}, "nothing in the last answer": {noCompleted: true}} {
		size := 1000
		if s.noCompleted {
			size = 40 << 20
		}
		inner := s.open(t, nil, unchanged)
		require.ErrorIs(t, New(inner, nil).Put(t.Context(), "k", bytes.NewReader(noise(size))), ErrAnswer, name)
		b, err := Encrypt(inner, underKey(t)...)
		require.NoError(t, err)
		require.ErrorIs(t, b.Upload(t.Context(), "k", bytes.NewReader(noise(size)), &blob.WriterOptions{ContentType: "a/b"}), ErrAnswer, name)
		require.ErrorIs(t, b.WriteAll(t.Context(), "k", noise(size), nil), ErrAnswer, name)
	}
	for _, size := range []int{0, 1000, 40 << 20} {
		require.NoError(t, New(new(lyingS3).open(t, nil, unchanged), nil).Put(t.Context(), "k", bytes.NewReader(noise(size))))
	}
}

// TestChecksumsAreTheClients uploads with a client that says when to send checksums.
func TestChecksumsAreTheClients(t *testing.T) {
	race.SkipShort(t)
	required := aws.RequestChecksumCalculationWhenRequired
	for _, test := range []struct {
		client, bucket aws.RequestChecksumCalculation
		want           bool
	}{{0, 0, true}, {required, 0, false}, {0, required, false}, {required, required, false}} {
		for _, size := range []int{1000, 20 << 20} {
			s := new(lyingS3)
			inner := s.open(t, &s3blob.Options{RequestChecksumCalculation: test.bucket}, func(o *s3.Options) { o.RequestChecksumCalculation = test.client })
			require.NoError(t, New(inner, nil).Put(t.Context(), "k", bytes.NewReader(noise(size))))
			sends := slices.ContainsFunc(s.requests, func(r *http.Request) bool {
				for name := range r.Header {
					if strings.HasPrefix(name, "X-Amz-Checksum") || name == "X-Amz-Trailer" || name == "X-Amz-Sdk-Checksum-Algorithm" {
						return true
					}
				}
				return false
			})
			require.Equal(t, test.want, sends, "%+v", test)
		}
	}
}

// TestPartsAreThoseAsked uploads with sizes of parts and a hook of the caller's own.
func TestPartsAreThoseAsked(t *testing.T) {
	s, called := new(lyingS3), false
	b, err := Encrypt(s.open(t, nil, unchanged), underKey(t)...)
	require.NoError(t, err)
	require.NoError(t, b.Upload(t.Context(), "k", bytes.NewReader(noise(60<<20)), &blob.WriterOptions{
		ContentType: "a/b", BufferSize: 20 << 20, BeforeWrite: func(func(any) bool) error { called = true; return nil },
	}))
	require.True(t, called)
	parts := slices.DeleteFunc(s.requests, func(r *http.Request) bool { return r.Method != http.MethodPut })
	require.Len(t, parts, 4, "of 60 MiB and what encryption adds")
}

// TestCopyMakesNothingAuthentic copies what was planted, or is from before encryption.
func TestCopyMakesNothingAuthentic(t *testing.T) {
	ctx := t.Context()
	open := func(inner *blob.Bucket, o ...pikokms.Option) *blob.Bucket {
		b, err := Encrypt(inner, underKey(t, o...)...)
		require.NoError(t, err)
		return b
	}
	inner := memblob.OpenBucket(nil)
	strict := open(inner, pikokms.BindObjectName("b"))
	lenient := open(inner, pikokms.BindObjectName("b"), pikokms.AllowPlaintext(), pikokms.AllowForeignMessages(), pikokms.AllowPikoV2())
	elsewhere := open(inner)
	require.NoError(t, inner.WriteAll(ctx, "planted", []byte("by whoever writes to the storage"), nil))
	require.NoError(t, elsewhere.WriteAll(ctx, "unbound", []byte("not bound"), nil))
	require.NoError(t, strict.WriteAll(ctx, "swapped", []byte("of another name"), nil))
	require.NoError(t, inner.Copy(ctx, "in its place", "swapped", nil))
	require.NoError(t, inner.WriteAll(ctx, "empty", nil, nil))
	require.NoError(t, inner.WriteAll(ctx, "foreign", foreign(t), nil))
	for from, want := range map[string]error{
		"planted": pikokms.ErrPlaintext, "empty": pikokms.ErrPlaintext, "foreign": pikokms.ErrNotObject, "unbound": nil, "in its place": nil,
	} {
		for _, b := range []*blob.Bucket{strict, lenient} {
			err := b.Copy(ctx, "invoices/7", from, nil)
			require.Error(t, err, from)
			if want != nil {
				require.ErrorIs(t, err, want)
			}
			exists, err := inner.Exists(ctx, "invoices/7")
			require.NoError(t, err)
			require.False(t, exists, from)
		}
	}
	content := noise(300_000)
	require.NoError(t, lenient.WriteAll(ctx, "own", content, &blob.WriterOptions{ContentType: "a/b", Metadata: map[string]string{"owner": "me"}}))
	require.NoError(t, lenient.Copy(ctx, "copy", "own", nil))
	got, err := strict.ReadAll(ctx, "copy")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	a, err := strict.Attributes(ctx, "copy")
	require.NoError(t, err)
	require.Equal(t, []any{"a/b", map[string]string{"owner": "me"}, int64(len(content))}, []any{a.ContentType, a.Metadata, a.Size})
}

// foreign returns a message under the key of underKey that no host wrote, bound to a name as a
// host's objects are.
func foreign(t *testing.T) []byte {
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	e := message.Encrypter{Keyring: p, Required: []string{pikokms.PairBucket, pikokms.PairObject}}
	r, err := e.NewReader(t.Context(), strings.NewReader("for another purpose"), map[string]string{pikokms.PairBucket: "b", pikokms.PairObject: "foreign"})
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	return text
}

// TestObjectsOfTheS3EncryptionClient reads, copies and migrates what AWS's S3 Encryption Client
// wrote while plaintext is allowed.
func TestObjectsOfTheS3EncryptionClient(t *testing.T) {
	ctx := t.Context()
	inner := memblob.OpenBucket(nil)
	b, err := Encrypt(inner, underKey(t, pikokms.AllowPlaintext(), pikokms.BindObjectName("b"))...)
	require.NoError(t, err)
	host, err := pikokms.New(underKey(t, pikokms.WithStorage(New(inner, nil)), pikokms.AllowPlaintext())...)
	require.NoError(t, err)
	put := func(key string, metadata map[string]string) {
		require.NoError(t, inner.WriteAll(ctx, key, noise(10_000), &blob.WriterOptions{Metadata: metadata}))
	}
	put("v1", map[string]string{"x-amz-key": "k", "x-amz-iv": "i"})
	put("v2", map[string]string{"x-amz-key-v2": "k", "x-amz-wrap-alg": "kms+context"})
	put("v3", map[string]string{"x-amz-3": "k", "x-amz-c": "115"})
	put("beside", nil)
	require.NoError(t, inner.WriteAll(ctx, "beside.instruction", []byte(`{"x-amz-key-v2":"k"}`), &blob.WriterOptions{Metadata: map[string]string{"x-amz-crypto-instr-file": ""}}))
	for _, key := range []string{"v1", "v2", "v3", "beside", "beside.instruction"} {
		before, err := inner.ReadAll(ctx, key)
		require.NoError(t, err)
		_, getErr := host.Get(ctx, key)
		_, openErr := host.Open(ctx, key)
		_, readErr := b.ReadAll(ctx, key)
		_, rangeErr := b.NewRangeReader(ctx, key, 5, 10, nil)
		_, sizeErr := b.Attributes(ctx, key)
		for i, err := range []error{host.Migrate(ctx, key), getErr, openErr, readErr, rangeErr, sizeErr} {
			require.ErrorIs(t, err, s3ec.ErrS3EncryptionClient, "%s, %d", key, i)
		}
		require.Error(t, b.Copy(ctx, "copy", key, nil))
		after, err := inner.ReadAll(ctx, key)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
	}
	put("usual", map[string]string{"x-amz-c": "not a suite"})
	require.NoError(t, host.Migrate(ctx, "usual"))
	objects := b.List(&blob.ListOptions{BeforeList: WithSizes})
	n := 0
	for {
		if _, err = objects.Next(ctx); err != nil {
			break
		}
		n++
	}
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 6, n, "one that can't be read does not spoil the listing of the others")
}
