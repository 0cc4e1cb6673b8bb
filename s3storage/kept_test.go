package s3storage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// servers are S3 servers, and what they have.
var servers = []struct {
	name           string
	start          func(t testing.TB) string
	classes, locks bool // it has storage classes and KMS; it answers GetObjectRetention
}{
	{"versitygw", emulator.VersityGW, false, true},
	{"moto", emulator.Moto, true, false},
	{"LocalStack", emulator.LocalStack, true, true},
}

// odd are metadata that clients write, and that S3 returns as they were. It returns what is not
// ASCII as RFC 2047 says.
var odd = map[string]string{
	"md5chksum": "q83v+/8=", "name": "invoices/7 (final).pdf", "mtime": "1700000000.123456", "json": `{"a":"b"}`, "percent": "100%",
	"escaped": "a%2Fb", "plus": "1+1", "colon": "a:b,c", "tilde": "~me", "under_score": "v", "dotted.name": "x", "pikokms-header-size": "7",
	"encoded": "=?UTF-8?B?w6bDpSDml6U=?=", "quoted": "=?UTF-8?Q?caf=C3=A9?=", "long": strings.Repeat("m", 100), "spaces": "a  b", "empty": "",
}

// properties is what an S3 client sees of an object beside its content.
func properties(t *testing.T, client *s3.Client, bucket, key string) string {
	t.Helper()
	head, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &key, ChecksumMode: s3types.ChecksumModeEnabled})
	require.NoError(t, err)
	delete(head.Metadata, "pikokms-header-size")
	var b strings.Builder
	fmt.Fprintln(&b, head.Metadata)
	for _, text := range []*string{
		head.CacheControl, head.ContentDisposition, head.ContentEncoding, head.ContentLanguage, head.ContentType, head.ExpiresString,
		head.WebsiteRedirectLocation, head.SSEKMSKeyId,
	} {
		fmt.Fprintf(&b, "%q\n", aws.ToString(text))
	}
	fmt.Fprintln(&b, head.StorageClass, head.ServerSideEncryption, aws.ToBool(head.BucketKeyEnabled), head.ChecksumSHA256 != nil, head.ChecksumCRC32 != nil)
	fmt.Fprintln(&b, head.ObjectLockMode, aws.ToTime(head.ObjectLockRetainUntilDate).UTC().Truncate(time.Second), head.ObjectLockLegalHoldStatus)
	tags, err := client.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &bucket, Key: &key})
	require.NoError(t, err)
	all := make(map[string]string)
	for _, tag := range tags.TagSet {
		all[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	fmt.Fprintln(&b, all)
	return b.String()
}

// newLockedBucket makes a bucket whose objects can be locked.
func newLockedBucket(t *testing.T, endpoint string) *bucket {
	return newBucketAt(t, endpoint, func(in *s3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) })
}

// TestReplacementsKeepWhatTheObjectHas compares what an S3 client sees of an object before it is
// replaced and thereafter.
func TestReplacementsKeepWhatTheObjectHas(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			endpoint := server.start(t)
			unlocked, locked := newBucketAt(t, endpoint), newLockedBucket(t, endpoint)
			var key *string
			if server.classes {
				keys := kms.New(kms.Options{Region: emulator.Region, BaseEndpoint: &endpoint, Credentials: login(), HTTPClient: &http.Client{Transport: &locked.requests}})
				made, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
				require.NoError(t, err)
				key = made.KeyMetadata.Arn
			}
			until := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
			for mode, in := range map[string]*s3.PutObjectInput{
				"nothing":    {},
				"governance": {ObjectLockMode: s3types.ObjectLockModeGovernance, ObjectLockRetainUntilDate: &until},
				"compliance": {ObjectLockMode: s3types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &until},
				"held":       {ObjectLockLegalHoldStatus: s3types.ObjectLockLegalHoldStatusOn},
				"all": {
					Metadata: odd, ContentType: aws.String("text/plain; charset=iso-8859-1"), ContentDisposition: aws.String(`attachment; filename="a b.txt"`),
					CacheControl: aws.String("max-age=60"), ContentLanguage: aws.String("cy"), ContentEncoding: aws.String("gzip"), Tagging: aws.String("retain=7y&class=b%2B%2F%20c"),
					WebsiteRedirectLocation: aws.String("/else"), Expires: aws.Time(time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)), ChecksumAlgorithm: s3types.ChecksumAlgorithmSha256,
				},
				"all, at rest": {StorageClass: s3types.StorageClassOnezoneIa, ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: key, BucketKeyEnabled: aws.Bool(true)},
			} {
				if in.StorageClass != "" && !server.classes {
					continue
				}
				b := unlocked
				if in.ObjectLockMode != "" || in.ObjectLockLegalHoldStatus != "" {
					b = locked
				}
				options := []s3storage.Option{s3storage.WithParts(5<<20, 3)}
				if !server.locks {
					options = append(options, s3storage.WithAllowedLosses(s3storage.LossLock))
				}
				storage := s3storage.New(b.client, b.name, options...)
				host := newHost(t, storage)
				if in.ChecksumAlgorithm == "" {
					in.ChecksumAlgorithm = s3types.ChecksumAlgorithmCrc32 // as the SDK has it by default
				}
				for _, size := range []int{10, inParts} {
					content := noise(size)
					for name, replace := range map[string]func() error{
						"rewrapped": func() error { return host.Rewrap(t.Context(), "object") },
						"replaced": func() error {
							v, err := storage.OpenVersion(t.Context(), "object", "")
							require.NoError(t, err)
							defer v.Body.Close()
							renewed, err := host.RewrapObject(t.Context(), "object", v.Body)
							require.NoError(t, err)
							losses, err := storage.NotKept(t.Context(), v)
							require.NoError(t, err)
							if server.locks {
								require.Empty(t, losses)
							}
							return storage.Replace(t.Context(), v, renewed)
						},
					} {
						if size == inParts && name == "rewrapped" {
							continue // it makes the same requests
						}
						if size == inParts && server.name == "moto" && in.BucketKeyEnabled != nil {
							continue // moto 5.2.5 forgets that flag of an upload in parts
						}
						what := fmt.Sprintf("%s, %d bytes, %s", mode, size, name)
						put := *in
						put.Bucket, put.Key = &b.name, aws.String("object")
						put.Body = bytes.NewReader(encrypted(t, host, "object", content))
						_, err := b.client.PutObject(t.Context(), &put)
						require.NoError(t, err, what)
						before := properties(t, b.client, b.name, "object")
						require.NoError(t, replace(), what)
						require.True(t, bytes.Equal(content, get(t, host, "object")), what)
						require.Equal(t, before, properties(t, b.client, b.name, "object"), what)
						if mode == "all" {
							require.Contains(t, before, "percent:100%")
							require.Contains(t, before, "06 May 2031 07:08:09")
							require.Contains(t, before, "b+/ c")
						}
						if mode == "compliance" {
							require.Contains(t, before, "COMPLIANCE")
						}
						if mode == "all, at rest" {
							require.Contains(t, before, "aws:kms true")
						}
					}
				}
			}
		})
	}
}

// encrypted returns what a host stores.
func encrypted(t *testing.T, host *pikokms.Host, key string, content []byte) []byte {
	t.Helper()
	r, err := host.EncryptObject(t.Context(), key, bytes.NewReader(content), nil)
	require.NoError(t, err)
	stored, err := io.ReadAll(r)
	require.NoError(t, err)
	return stored
}

// TestAnExpiryThatIsNoDateIsKept has the header Expires as HTTP allows it, which the SDK has no way
// to put.
func TestAnExpiryThatIsNoDateIsKept(t *testing.T) {
	b := newBucketInMemory()
	client := b.serve(t)
	_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("object"), Body: strings.NewReader("x")},
		s3.WithAPIOptions(smithyhttp.SetHeaderValue("Expires", "0")))
	require.NoError(t, err)
	storage := s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 1))
	for _, size := range []int{10, inParts} {
		v, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, storage.Replace(t.Context(), v, bytes.NewReader(noise(size))))
		require.NoError(t, v.Body.Close())
		require.Equal(t, "0", b.header("object").Get("Expires"))
	}
}

// blind hides headers of answers, as S3 hides what the caller may not read.
func blind(o *s3.Options, hidden ...string) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("blind", func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleDeserialize(ctx, in)
			if answer, ok := out.RawResponse.(*smithyhttp.Response); ok {
				for _, name := range hidden {
					answer.Header.Del(name)
				}
			}
			return out, metadata, err
		}), middleware.After)
	})
}

// TestLocksThatTheAnswerHidesAreKept has a service that does not state a lock with the object.
func TestLocksThatTheAnswerHidesAreKept(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			if !server.locks {
				t.Skip("skipped: it answers GetObjectRetention with the object")
			}
			b := newLockedBucket(t, server.start(t))
			client := s3.New(b.client.Options(), func(o *s3.Options) {
				blind(o, "X-Amz-Object-Lock-Mode", "X-Amz-Object-Lock-Retain-Until-Date", "X-Amz-Object-Lock-Legal-Hold")
			})
			storage := s3storage.New(client, b.name)
			until := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
			_, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{
				Bucket: &b.name, Key: aws.String("object"), Body: strings.NewReader("x"), ObjectLockLegalHoldStatus: s3types.ObjectLockLegalHoldStatusOn,
				ChecksumAlgorithm: s3types.ChecksumAlgorithmCrc32, ObjectLockMode: s3types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &until,
			})
			require.NoError(t, err)
			before := properties(t, b.client, b.name, "object")
			require.Contains(t, before, "COMPLIANCE")
			require.Contains(t, before, "ON")
			v, err := storage.OpenVersion(t.Context(), "object", "")
			require.NoError(t, err)
			defer v.Body.Close()
			require.NoError(t, storage.Replace(t.Context(), v, strings.NewReader("y")))
			require.Equal(t, before, properties(t, b.client, b.name, "object"))
		})
	}
}

// TestWhatCannotBeKeptIsRefused denies the permissions to read what an object has, or has what
// can't be put.
func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	const denial, none = "<Error><Code>AccessDenied</Code></Error>", "<Error><Code>%s</Code></Error>"
	grants := func(ids ...string) string {
		text := "<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList>"
		for _, id := range ids {
			text += "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"><ID>" + id + "</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
		}
		return text + "</AccessControlList></AccessControlPolicy>"
	}
	controls := func(ownership string) string {
		return "<OwnershipControls><Rule><ObjectOwnership>" + ownership + "</ObjectOwnership></Rule></OwnershipControls>"
	}
	type answers map[string]string // by what is asked; those with an error are 403 or 404
	plain := answers{"tagging": "<Tagging><TagSet/></Tagging>", "ownershipControls": controls("BucketOwnerEnforced"), "object-lock": fmt.Sprintf(none, "ObjectLockConfigurationNotFoundError")}
	locked := "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
	unlocked := fmt.Sprintf(none, "NoSuchObjectLockConfiguration")
	for name, c := range map[string]struct {
		answers answers
		headers http.Header
		losses  []string // beginnings of kind and reason
	}{
		"all is known":                       {},
		"tags are hidden":                    {answers: answers{"tagging": denial}, losses: []string{"tags: it may have tags, and the permission s3:GetObjectVersionTagging is missing"}},
		"lists exist, the owner's":           {answers: answers{"ownershipControls": controls("ObjectWriter"), "acl": grants("me")}},
		"lists exist, another's":             {answers: answers{"ownershipControls": controls("BucketOwnerPreferred"), "acl": grants("me", "you")}, losses: []string{"acl: its access control list has 1 grants"}},
		"old bucket, another's":              {answers: answers{"ownershipControls": fmt.Sprintf(none, "OwnershipControlsNotFoundError"), "acl": grants("you", "they")}, losses: []string{"acl: its access control list has 2 grants"}},
		"lists are hidden":                   {answers: answers{"ownershipControls": denial, "acl": denial}, losses: []string{"acl: it may have an access control list, and the permission s3:GetObjectVersionAcl is missing"}},
		"lists are hidden in the bucket":     {answers: answers{"ownershipControls": denial, "acl": grants("me")}},
		"locks exist, not here":              {answers: answers{"object-lock": locked, "retention": unlocked, "legal-hold": unlocked}},
		"locks are hidden":                   {answers: answers{"object-lock": denial, "retention": denial, "legal-hold": denial}, losses: []string{"lock: it may be locked, and the permission s3:GetObjectRetention is missing", "lock: it may be locked, and the permission s3:GetObjectLegalHold"}},
		"locks are hidden in the bucket":     {answers: answers{"object-lock": denial, "retention": unlocked, "legal-hold": unlocked}},
		"legal holds are hidden":             {answers: answers{"object-lock": locked, "retention": unlocked, "legal-hold": denial}, losses: []string{"lock: it may be locked, and the permission s3:GetObjectLegalHold"}},
		"metadata that are not HTTP":         {headers: http.Header{"X-Amz-Missing-Meta": {"2"}}, losses: []string{"metadata: 2 of its metadata"}},
		"a checksum that can't be made":      {headers: http.Header{"X-Amz-Checksum-Xxhash64": {"AAAAAAAAAAA="}}, losses: []string{"checksum: its checksum is of the algorithm XXHASH64"}},
		"nothing but objects is implemented": {answers: answers{"tagging": "", "ownershipControls": "", "object-lock": "", "acl": "", "retention": "", "legal-hold": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucketInMemory()
			client := b.serve(t)
			storage := s3storage.New(client, "bucket")
			require.NoError(t, storage.Put(t.Context(), "object", strings.NewReader("first")))
			var questions []string
			b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("X-Amz-Version-Id", "1")
				for name, values := range c.headers {
					w.Header()[name] = values
				}
				for _, asked := range []string{"tagging", "ownershipControls", "acl", "object-lock", "retention", "legal-hold"} {
					if !r.URL.Query().Has(asked) {
						continue
					}
					questions = append(questions, asked)
					answer, ok := c.answers[asked]
					if !ok {
						answer = plain[asked]
					}
					switch {
					case answer == "":
						w.WriteHeader(http.StatusNotImplemented)
					case answer == denial:
						w.WriteHeader(http.StatusForbidden)
					case strings.HasPrefix(answer, "<Error>"):
						w.WriteHeader(http.StatusNotFound)
					}
					_, _ = io.WriteString(w, answer)
					return true
				}
				return false
			})
			v, err := storage.OpenVersion(t.Context(), "object", "")
			require.NoError(t, err)
			defer v.Body.Close()
			losses, err := storage.NotKept(t.Context(), v)
			require.NoError(t, err)
			require.Len(t, losses, len(c.losses), "%v", losses)
			var kinds []string
			for i, loss := range losses {
				require.Contains(t, loss.Kind+": "+loss.Reason, c.losses[i])
				kinds = append(kinds, loss.Kind)
			}
			err = storage.Replace(t.Context(), v, strings.NewReader("second"))
			if len(losses) == 0 {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, s3storage.ErrNotKept)
			for _, loss := range c.losses {
				require.ErrorContains(t, err, loss)
			}
			require.Equal(t, "first", string(b.content("object")))
			_, version, err := storage.GetVersion(t.Context(), "object")
			require.NoError(t, err)
			require.ErrorIs(t, storage.PutIf(t.Context(), "object", version, strings.NewReader("second")), s3storage.ErrNotKept)

			another := s3storage.New(client, "bucket", s3storage.WithAllowedLosses("unknown"))
			require.ErrorIs(t, another.Replace(t.Context(), v, strings.NewReader("second")), s3storage.ErrNotKept)
			allowed := s3storage.New(client, "bucket", s3storage.WithAllowedLosses(kinds...))
			questions = nil
			require.NoError(t, allowed.PutIf(t.Context(), "object", version, strings.NewReader("second")))
			require.Contains(t, questions, "tagging", "what can be kept is kept")
			require.Contains(t, questions, "object-lock")
			if slices.Contains(kinds, s3storage.LossACL) {
				require.NotContains(t, questions, "acl")
				require.NotContains(t, questions, "ownershipControls")
			}
			require.Equal(t, "second", string(b.content("object")))
		})
	}
}

// TestObjectsOfTheS3EncryptionClientAreNotReplaced has metadata in each of its formats.
func TestObjectsOfTheS3EncryptionClientAreNotReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		metadata map[string]string
		is       bool
	}{
		"V1":               {map[string]string{"X-Amz-Key": "a2V5", "x-amz-iv": "aXY="}, true},
		"V2":               {map[string]string{"x-amz-key-v2": "a2V5", "x-amz-iv": "aXY=", "x-amz-wrap-alg": "kms+context"}, true},
		"V3":               {map[string]string{"x-amz-c": "115", "x-amz-3": "a2V5"}, true},
		"half of V3":       {map[string]string{"x-amz-3": "a2V5"}, false},
		"another's":        {map[string]string{"x-amz-iv": "aXY=", "key": "x-amz-key"}, false},
		"V1 with no value": {map[string]string{"x-amz-key": ""}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucketInMemory()
			client := b.serve(t)
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("object"), Body: strings.NewReader("first"), Metadata: c.metadata})
			require.NoError(t, err)
			storage := s3storage.New(client, "bucket")
			v, err := storage.OpenVersion(t.Context(), "object", "")
			require.NoError(t, err)
			defer v.Body.Close()
			require.Equal(t, c.is, v.S3EncryptionClient())
			r, version, err := storage.GetVersion(t.Context(), "object")
			require.NoError(t, err)
			require.NoError(t, r.Close())
			for door, put := range map[string]func() error{
				"PutLike": func() error { return storage.PutLike(t.Context(), "copy", v, strings.NewReader("second")) },
				"PutNew":  func() error { return storage.PutNew(t.Context(), "new", v, strings.NewReader("second")) },
				"PutIf":   func() error { return storage.PutIf(t.Context(), "object", version, strings.NewReader("second")) },
			} {
				err := put()
				if !c.is {
					require.NoError(t, err, door)
					continue
				}
				require.ErrorIs(t, err, s3ec.ErrS3EncryptionClient, door)
				require.Len(t, b.keys(), 1)
				require.Equal(t, "first", string(b.content("object")), door)
			}
			if c.is {
				require.ErrorIs(t, storage.Replace(t.Context(), v, strings.NewReader("second")), s3ec.ErrS3EncryptionClient)
				require.Equal(t, "first", string(b.content("object")))
			}
		})
	}
}

// TestCopiesKeepWhatIsNotTheBucketsOwn copies an object to another bucket of another server.
func TestCopiesKeepWhatIsNotTheBucketsOwn(t *testing.T) {
	from := newLockedBucket(t, emulator.VersityGW(t))
	until := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	_, err := from.client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: &from.name, Key: aws.String("object"), Body: strings.NewReader("first"), Metadata: odd, ContentType: aws.String("text/plain"), CacheControl: aws.String("max-age=60"),
		ContentLanguage: aws.String("cy"), ContentDisposition: aws.String("inline"), Tagging: aws.String("retain=7y"), Expires: aws.Time(time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)),
		ChecksumAlgorithm: s3types.ChecksumAlgorithmSha256, ObjectLockMode: s3types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &until,
	})
	require.NoError(t, err)
	v, err := s3storage.New(from.client, from.name).OpenVersion(t.Context(), "object", "")
	require.NoError(t, err)
	defer v.Body.Close()
	want := properties(t, from.client, from.name, "object")
	require.Contains(t, want, "COMPLIANCE")
	to := newBucket(t)
	storage := s3storage.New(to.client, to.name, s3storage.WithParts(5<<20, 3))
	for _, size := range []int{10, inParts} {
		content := noise(size)
		for key, put := range map[string]func(key string) error{
			"like": func(key string) error { return storage.PutLike(t.Context(), key, v, bytes.NewReader(content)) },
			"new": func(key string) error {
				return storage.PutNew(t.Context(), fmt.Sprint(key, size), v, bytes.NewReader(content))
			},
		} {
			require.NoError(t, put(key))
			if key == "new" {
				require.ErrorIs(t, storage.PutNew(t.Context(), fmt.Sprint(key, size), v, bytes.NewReader(noise(size))), fs.ErrExist)
				key = fmt.Sprint(key, size)
			}
			require.True(t, bytes.Equal(content, get(t, storage, key)))
			got := properties(t, to.client, to.name, key)
			require.Equal(t, strings.Replace(want, "COMPLIANCE "+until.String(), " 0001-01-01 00:00:00 +0000 UTC", 1), got)
			head, err := to.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &to.name, Key: &key})
			require.NoError(t, err)
			require.NotContains(t, head.Metadata, "pikokms-header-size", "that is another content's")
		}
	}
}

// TestCopiesFromAnotherService copies an object that is not in S3, of which only headers are known.
func TestCopiesFromAnotherService(t *testing.T) {
	b := newBucketInMemory()
	storage := s3storage.New(b.serve(t), "bucket")
	b.setLie(func(_ http.ResponseWriter, r *http.Request) bool {
		require.False(t, r.URL.Query().Has("tagging"), "there are no tags to ask for")
		return false
	})
	like := func(metadata map[string]string) *s3storage.Version {
		return &s3storage.Version{GetObjectOutput: &s3.GetObjectOutput{
			ContentType: aws.String("text/plain"), ContentLanguage: aws.String("cy"), Metadata: metadata,
		}}
	}
	require.NoError(t, storage.PutLike(t.Context(), "a", like(map[string]string{"color": "blue"}), strings.NewReader("x")))
	require.NoError(t, storage.PutNew(t.Context(), "b", like(nil), strings.NewReader("x")))
	for key, color := range map[string]string{"a": "blue", "b": ""} {
		require.Equal(t, "text/plain", b.header(key).Get("Content-Type"))
		require.Equal(t, "cy", b.header(key).Get("Content-Language"))
		require.Equal(t, color, b.header(key).Get("X-Amz-Meta-Color"))
	}
	clients := like(map[string]string{"x-amz-key-v2": "a2V5", "x-amz-iv": "aXY="})
	require.ErrorIs(t, storage.PutLike(t.Context(), "c", clients, strings.NewReader("x")), s3ec.ErrS3EncryptionClient)
	require.ErrorIs(t, storage.Replace(t.Context(), like(nil), strings.NewReader("x")), s3storage.ErrNoConditions)
	require.Len(t, b.keys(), 2)
}

// TestOneRefusedQuestionIsNoAnswerForAll has a service that takes one key's question for tags
// amiss. The tags of the others are still asked for, and that object is left as it is.
func TestOneRefusedQuestionIsNoAnswerForAll(t *testing.T) {
	b := newBucketInMemory()
	storage := s3storage.New(b.serve(t), "bucket")
	for _, key := range []string{"amiss", "object"} {
		require.NoError(t, storage.Put(t.Context(), key, strings.NewReader("first")))
	}
	b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
		if !r.URL.Query().Has("tagging") {
			return false
		}
		if strings.HasSuffix(r.URL.Path, "amiss") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "<Error><Code>InvalidArgument</Code></Error>")
		} else {
			_, _ = io.WriteString(w, "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>")
		}
		return true
	})
	for _, key := range []string{"amiss", "object"} {
		v, err := storage.OpenVersion(t.Context(), key, "")
		require.NoError(t, err)
		require.NoError(t, v.Body.Close())
		err = storage.Replace(t.Context(), v, strings.NewReader("second"))
		if key == "amiss" {
			require.ErrorContains(t, err, "InvalidArgument")
			require.Equal(t, "first", string(b.content(key)))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "a=b", b.header(key).Get("X-Amz-Tagging"))
	}
	require.ErrorIs(t, storage.Replace(t.Context(), &s3storage.Version{Key: "object"}, strings.NewReader("x")), s3storage.ErrNoConditions, "it was not opened")
}
