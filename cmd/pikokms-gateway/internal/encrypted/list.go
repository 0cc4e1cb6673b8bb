package encrypted

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/transfer"
)

// pastHidden is a marker that sorts after all hidden keys.
const pastHidden = hiddenPrefix + "\U0010FFFF"

// ListObjectsV2 lists the objects of clients, with the sizes of their plaintext.
func (b *Backend) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	out, err := b.inner.ListObjectsV2(ctx, in)
	if err == nil && hasHidden(out.Contents, out.CommonPrefixes) {
		out, err = b.listWithoutHidden(ctx, in, out)
	}
	if err == nil {
		err = b.describeObjects(ctx, in.Bucket, out.Contents)
	}
	return out, b.fail(ctx, "list", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

// listWithoutHidden returns a listing without hidden keys. In their place it asks for further
// objects.
func (b *Backend) listWithoutHidden(ctx context.Context, in *s3.ListObjectsV2Input, first s3response.ListObjectsV2Result) (s3response.ListObjectsV2Result, error) {
	objects, prefixes := withoutHidden(first.Contents, first.CommonPrefixes)
	out := first
	if aws.ToBool(first.IsTruncated) && lastOf(objects, prefixes) < pastHidden { // the page ends among the hidden keys
		next := *in
		next.ContinuationToken, next.StartAfter = aws.String(""), aws.String(pastHidden)
		more := aws.ToInt32(in.MaxKeys) - int32(len(objects)+len(prefixes))
		next.MaxKeys = &more
		rest, err := b.inner.ListObjectsV2(ctx, &next)
		if err != nil {
			return out, err
		}
		objects, prefixes = append(objects, rest.Contents...), append(prefixes, rest.CommonPrefixes...)
		out.IsTruncated, out.NextContinuationToken = rest.IsTruncated, rest.NextContinuationToken
	}
	out.Contents, out.CommonPrefixes = objects, prefixes
	out.KeyCount = aws.Int32(int32(len(objects) + len(prefixes)))
	return out, nil
}

// ListObjects lists the objects of clients, as ListObjectsV2 does.
func (b *Backend) ListObjects(ctx context.Context, in *s3.ListObjectsInput) (s3response.ListObjectsResult, error) {
	out, err := b.inner.ListObjects(ctx, in)
	if err == nil && hasHidden(out.Contents, out.CommonPrefixes) {
		objects, prefixes := withoutHidden(out.Contents, out.CommonPrefixes)
		if aws.ToBool(out.IsTruncated) && lastOf(objects, prefixes) < pastHidden {
			next := *in
			more := aws.ToInt32(in.MaxKeys) - int32(len(objects)+len(prefixes))
			next.Marker, next.MaxKeys = aws.String(pastHidden), &more
			var rest s3response.ListObjectsResult
			if rest, err = b.inner.ListObjects(ctx, &next); err == nil {
				objects, prefixes = append(objects, rest.Contents...), append(prefixes, rest.CommonPrefixes...)
				out.IsTruncated, out.NextMarker = rest.IsTruncated, rest.NextMarker
			}
		}
		out.Contents, out.CommonPrefixes = objects, prefixes
	}
	if err == nil {
		err = b.describeObjects(ctx, in.Bucket, out.Contents)
	}
	return out, b.fail(ctx, "list", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

func isHidden(key *string) bool { return strings.HasPrefix(aws.ToString(key), hiddenPrefix) }

// hasHidden reports whether a listing has hidden keys.
func hasHidden(objects []s3response.Object, prefixes []types.CommonPrefix) bool {
	for _, o := range objects {
		if isHidden(o.Key) {
			return true
		}
	}
	for _, p := range prefixes {
		if isHidden(p.Prefix) {
			return true
		}
	}
	return false
}

func withoutHidden(objects []s3response.Object, prefixes []types.CommonPrefix) (o []s3response.Object, p []types.CommonPrefix) {
	for _, object := range objects {
		if !isHidden(object.Key) {
			o = append(o, object)
		}
	}
	for _, prefix := range prefixes {
		if !isHidden(prefix.Prefix) {
			p = append(p, prefix)
		}
	}
	return o, p
}

func lastOf(objects []s3response.Object, prefixes []types.CommonPrefix) (last string) {
	if n := len(objects); n > 0 {
		last = *objects[n-1].Key
	}
	if n := len(prefixes); n > 0 {
		last = max(last, *prefixes[n-1].Prefix)
	}
	return last
}

// How many objects are asked about at a time, by one listing and by all. Each takes some 30 ms in
// S3.
const (
	listingRequests    = 128
	allListingRequests = 256
)

// description is what a listing shows of an object.
type description struct {
	size      int64
	tag       *string
	algorithm types.ChecksumAlgorithm
	kind      types.ChecksumType
}

// algorithms returns the algorithm as listings have it.
func (d *description) algorithms() []types.ChecksumAlgorithm {
	if d.algorithm == "" {
		return nil
	}
	return []types.ChecksumAlgorithm{d.algorithm}
}

// maxDescribed is how many objects are known, in each of two generations. One takes some 300 bytes.
const maxDescribed = 50_000

// listed is an object of a listing of the inner backend.
type listed struct {
	key, version, tag *string
	stored            int64 // bytes
}

// describe returns what clients see of listed objects. It asks for the metadata of each, unless it
// has seen the same ETag lately: no two messages are equal, so the same ETag means the same
// message.
func (b *Backend) describe(ctx context.Context, bucket *string, objects []listed) ([]description, error) {
	all := make([]description, len(objects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listingRequests)
	for i, o := range objects {
		name := knownName(bucket, o.key, o.tag)
		if d, ok := b.known.get(name); ok && o.stored > 0 {
			all[i] = d
			continue
		}
		if d, ok := b.describeFile(bucket, o); ok {
			b.known.put(name, d)
			all[i] = d
			continue
		}
		group.Go(func() error {
			if err := b.describing.Acquire(ctx, 1); err != nil {
				return err
			}
			defer b.describing.Release(1)
			return b.catchPanic("describe an object", func() error {
				d, known, err := b.describeOne(ctx, bucket, o)
				if known {
					b.known.put(name, d)
				}
				all[i] = d
				return err
			})
		})
	}
	return all, group.Wait()
}

// knownName returns the name under which an object is remembered.
func knownName(bucket, key, tag *string) string {
	return *bucket + "/" + *key + "/" + aws.ToString(tag)
}

// describeFile describes an object of a folder by two attributes of its file, which takes a tenth
// of the time of a HeadObject. If it can't, a HeadObject is needed.
func (b *Backend) describeFile(bucket *string, o listed) (d description, ok bool) {
	const metadata, etag = "metadata", "etag" // where the engine's posix keeps them
	if !b.isFolder || o.version != nil || isFolder(o.key) {
		return d, false
	}
	if _, _, err := b.key(*bucket, *o.key); err != nil {
		return d, false
	}
	text, err := meta.XattrMeta{}.RetrieveAttribute(nil, *bucket, *o.key, metadata)
	if err != nil {
		return d, false
	}
	var own map[string]string
	if err := json.Unmarshal(text, &own); err != nil {
		return d, false
	}
	size, ok := transfer.PlaintextSize(own, o.stored)
	if !ok {
		return d, false
	}
	tag, err := meta.XattrMeta{}.RetrieveAttribute(nil, *bucket, *o.key, etag)
	if err != nil || string(tag) != aws.ToString(o.tag) { // it was replaced since
		return d, false
	}
	d = description{size: size, tag: outerTag(o.tag)}
	d.algorithm, d.kind = checksumKind(own)
	return d, true
}

// checksumKind returns the algorithm and the type of the checksum that is sealed with an object.
func checksumKind(own map[string]string) (types.ChecksumAlgorithm, types.ChecksumType) {
	algorithm, kind, _ := strings.Cut(own[checksumName], " ")
	return types.ChecksumAlgorithm(algorithm), types.ChecksumType(kind)
}

// describeOne describes a listed object. If the gateway did not write it, its size is the stored
// one. describeOne also reports whether the object still has the listed ETag.
func (b *Backend) describeOne(ctx context.Context, bucket *string, o listed) (d description, known bool, err error) {
	d = description{size: o.stored, tag: outerTag(o.tag)}
	k, _, err := b.key(*bucket, *o.key)
	if errors.Is(err, errNoKey) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	head, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: o.key, VersionId: o.version, Range: aws.String(""), ChecksumMode: folderMode(o.key, types.ChecksumModeEnabled)})
	if isMissing(err) {
		return d, false, nil // it was deleted since
	}
	if err != nil {
		return d, false, err
	}
	own, _ := ownMetadata(head.Metadata)
	size, err := b.size(ctx, k, bucket, o.key, o.version, aws.ToInt64(head.ContentLength), own)
	if err != nil {
		return d, false, nil
	}
	d.size, d.tag = size, outerTag(head.ETag)
	d.algorithm, d.kind = checksumKind(own)
	if isFolder(o.key) {
		d.algorithm, d.kind = takeChecksum(head).Algorithm, head.ChecksumType
	}
	return d, aws.ToString(head.ETag) == aws.ToString(o.tag), nil
}

// describeObjects replaces the sizes and the ETags of stored objects by those that clients see.
func (b *Backend) describeObjects(ctx context.Context, bucket *string, objects []s3response.Object) error {
	all := make([]listed, len(objects))
	for i, o := range objects {
		all[i] = listed{key: o.Key, tag: o.ETag, stored: aws.ToInt64(o.Size)}
	}
	descriptions, err := b.describe(ctx, bucket, all)
	if err != nil {
		return err
	}
	for i, d := range descriptions {
		o := &objects[i]
		o.Size, o.ETag, o.ChecksumAlgorithm, o.ChecksumType = &d.size, d.tag, d.algorithms(), d.kind
	}
	return nil
}

// ListObjectVersions lists the versions of the objects of clients, with the sizes of their
// plaintext.
func (b *Backend) ListObjectVersions(ctx context.Context, in *s3.ListObjectVersionsInput) (s3response.ListVersionsResult, error) {
	out, err := b.listVersions(ctx, in)
	return out, b.fail(ctx, "list versions", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

func (b *Backend) listVersions(ctx context.Context, in *s3.ListObjectVersionsInput) (s3response.ListVersionsResult, error) {
	out, err := b.inner.ListObjectVersions(ctx, in)
	for err == nil {
		all := len(out.Versions) + len(out.DeleteMarkers) + len(out.CommonPrefixes)
		out.Versions = slices.DeleteFunc(out.Versions, func(v s3response.ObjectVersion) bool { return isHidden(v.Key) })
		out.DeleteMarkers = slices.DeleteFunc(out.DeleteMarkers, func(m types.DeleteMarkerEntry) bool { return isHidden(m.Key) })
		out.CommonPrefixes = slices.DeleteFunc(out.CommonPrefixes, func(p types.CommonPrefix) bool { return isHidden(p.Prefix) })
		left := len(out.Versions) + len(out.DeleteMarkers) + len(out.CommonPrefixes)
		if left > 0 || left == all || !aws.ToBool(out.IsTruncated) {
			break
		}
		next := *in // this page had hidden keys alone
		next.KeyMarker, next.VersionIdMarker = aws.String(pastHidden), aws.String("")
		marker, versionMarker := out.KeyMarker, out.VersionIdMarker
		out, err = b.inner.ListObjectVersions(ctx, &next)
		out.KeyMarker, out.VersionIdMarker = marker, versionMarker
	}
	if err != nil {
		return out, err
	}
	all := make([]listed, len(out.Versions))
	for i, v := range out.Versions {
		all[i] = listed{v.Key, v.VersionId, v.ETag, aws.ToInt64(v.Size)}
		if aws.ToString(v.VersionId) == "null" && aws.ToBool(v.IsLatest) { // which a folder without versions does not take
			all[i].version = nil
		}
	}
	descriptions, err := b.describe(ctx, in.Bucket, all)
	if err != nil {
		return out, err
	}
	for i, d := range descriptions {
		v := &out.Versions[i]
		v.Size, v.ETag, v.ChecksumAlgorithm, v.ChecksumType = &d.size, d.tag, d.algorithms(), d.kind
	}
	return out, nil
}

// DeleteObject deletes an object. A condition on the size is about the plaintext.
func (b *Backend) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	if err := b.checkServed(*in.Bucket, in.Key); err != nil {
		return nil, err
	}
	inner := *in
	inner.IfMatch, inner.IfMatchSize = innerTag(in.IfMatch), nil
	if in.IfMatchSize != nil {
		head, err := b.HeadObject(ctx, &s3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key, VersionId: in.VersionId})
		switch {
		case err != nil: // the inner backend will report what is wrong
		case aws.ToInt64(head.ContentLength) != *in.IfMatchSize:
			return nil, s3err.GetPreconditionFailedErr(s3err.ConditionIfMatchSize)
		case in.IfMatch == nil:
			inner.IfMatch = innerTag(head.ETag)
		}
	}
	return b.inner.DeleteObject(ctx, &inner)
}

// DeleteObjects deletes objects.
func (b *Backend) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (out s3response.DeleteResult, err error) {
	refused := make([]types.Error, 0)
	inner := *in
	inner.Delete = &types.Delete{Quiet: in.Delete.Quiet}
	for _, object := range in.Delete.Objects {
		if err := b.checkServed(*in.Bucket, object.Key); err != nil {
			refusal, ok := errors.AsType[s3err.S3Error](err)
			if !ok {
				return out, err
			}
			base := refusal.BaseError()
			refused = append(refused, types.Error{Key: object.Key, VersionId: object.VersionId, Code: &base.Code, Message: &base.Description})
			continue
		}
		object.ETag = innerTag(object.ETag)
		inner.Delete.Objects = append(inner.Delete.Objects, object)
	}
	if len(inner.Delete.Objects) > 0 {
		out, err = b.inner.DeleteObjects(ctx, &inner)
	}
	out.Error = append(out.Error, refused...)
	return out, err
}

// DeleteBucket deletes a bucket without objects of clients. Uploads that were not completed go with
// it, as in S3.
func (b *Backend) DeleteBucket(ctx context.Context, bucket string) error {
	err := b.inner.DeleteBucket(ctx, bucket)
	if full, ok := errors.AsType[s3err.S3Error](err); !ok || full.StatusCode() != http.StatusConflict {
		return err
	}
	page, failed := b.listVersions(ctx, &s3.ListObjectVersionsInput{
		Bucket: &bucket, MaxKeys: aws.Int32(1), Prefix: aws.String(""), Delimiter: aws.String(""), KeyMarker: aws.String(""), VersionIdMarker: aws.String(""),
	})
	if failed != nil || len(page.Versions)+len(page.DeleteMarkers) > 0 {
		return err
	}
	if err := b.removeHidden(ctx, bucket); err != nil {
		return err
	}
	return b.inner.DeleteBucket(ctx, bucket)
}

// removeHidden deletes all that is hidden in a bucket, with its versions.
func (b *Backend) removeHidden(ctx context.Context, bucket string) error {
	versioning, err := b.inner.GetBucketVersioning(ctx, bucket)
	if err != nil {
		return err
	}
	for {
		page, err := b.inner.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{
			Bucket: &bucket, MaxKeys: aws.Int32(1000), Prefix: aws.String(hiddenPrefix), Delimiter: aws.String(""), KeyMarker: aws.String(""), VersionIdMarker: aws.String(""),
		})
		if err != nil {
			return err
		}
		var all []types.ObjectIdentifier
		add := func(key, version *string) {
			if versioning.Status == nil || *versioning.Status == "" { // not every S3 then takes the version null
				version = nil
			}
			all = append(all, types.ObjectIdentifier{Key: key, VersionId: version})
		}
		for _, v := range page.Versions {
			add(v.Key, v.VersionId)
		}
		for _, m := range page.DeleteMarkers {
			add(m.Key, m.VersionId)
		}
		if len(all) == 0 {
			return nil
		}
		if err := b.removeObjects(ctx, bucket, all); err != nil {
			return err
		}
	}
}
