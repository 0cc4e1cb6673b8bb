package encrypted

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
)

// pages yields the pages of a listing of the gateway's own objects below a prefix.
func (b *Backend) pages(ctx context.Context, bucket, prefix, delimiter string) iter.Seq2[s3response.ListObjectsV2Result, error] {
	return func(yield func(s3response.ListObjectsV2Result, error) bool) {
		in := &s3.ListObjectsV2Input{
			Bucket: &bucket, Prefix: &prefix, Delimiter: &delimiter, MaxKeys: aws.Int32(1000), ContinuationToken: aws.String(""), StartAfter: aws.String(""),
		}
		for {
			page, err := b.inner.ListObjectsV2(ctx, in)
			if !yield(page, err) || err != nil || !aws.ToBool(page.IsTruncated) || aws.ToString(page.NextContinuationToken) == "" {
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	}
}

// ownObjects yields the gateway's own objects below a prefix.
func (b *Backend) ownObjects(ctx context.Context, bucket, prefix string) iter.Seq2[s3response.Object, error] {
	return func(yield func(s3response.Object, error) bool) {
		for page, err := range b.pages(ctx, bucket, prefix, "") {
			if err != nil {
				yield(s3response.Object{}, err)
				return
			}
			for _, object := range page.Contents {
				if !yield(object, nil) {
					return
				}
			}
		}
	}
}

// uploadIDs yields the IDs of all uploads of which something is stored. That includes those that a
// gateway left behind when it was stopped.
func (b *Backend) uploadIDs(ctx context.Context, bucket string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for page, err := range b.pages(ctx, bucket, uploadsPrefix, "/") {
			if err != nil {
				yield("", err)
				return
			}
			for _, p := range page.CommonPrefixes {
				if !yield(strings.TrimSuffix(strings.TrimPrefix(*p.Prefix, uploadsPrefix), "/"), nil) {
					return
				}
			}
		}
	}
}

// remove deletes what is stored of an upload. The record goes last, so that a sweep still finds the
// upload if the gateway is stopped meanwhile.
func (b *Backend) remove(ctx context.Context, bucket, id string) error {
	var names []types.ObjectIdentifier
	for object, err := range b.ownObjects(ctx, bucket, folderOf(id)) {
		if err != nil {
			return err
		}
		if *object.Key != recordName(id) {
			names = append(names, types.ObjectIdentifier{Key: object.Key})
		}
	}
	names = append(names, types.ObjectIdentifier{Key: aws.String(recordName(id))})
	for some := range slices.Chunk(names, 1000) {
		if err := b.removeObjects(ctx, bucket, some); err != nil {
			return err
		}
	}
	return nil
}

// removeObjects deletes at most 1000 of the gateway's own objects.
func (b *Backend) removeObjects(ctx context.Context, bucket string, objects []types.ObjectIdentifier) error {
	out, err := b.inner.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &bucket, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)}})
	if err != nil {
		return err
	}
	if len(out.Error) > 0 {
		return fmt.Errorf("%s: %s", aws.ToString(out.Error[0].Key), aws.ToString(out.Error[0].Message))
	}
	return nil
}

// AbortMultipartUpload deletes the parts of an upload, even if the upload's key can't be used any
// more.
func (b *Backend) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput) error {
	return b.fail(ctx, "abort upload", aws.ToString(in.Bucket), aws.ToString(in.Key), b.abort(ctx, in))
}

func (b *Backend) abort(ctx context.Context, in *s3.AbortMultipartUploadInput) error {
	_, name, id, err := b.checkUpload(ctx, in.Bucket, in.Key, in.UploadId)
	if err != nil {
		return err
	}
	upload, err := b.labelOf(ctx, *in.Bucket, id)
	if isMissing(err) || err == nil && upload.key != name {
		return s3err.GetNoSuchUploadErr(id)
	}
	if err != nil {
		return err
	}
	if in.IfMatchInitiatedTime != nil {
		r, err := b.recordOf(ctx, *in.Bucket, id)
		if err != nil {
			return err
		}
		if in.IfMatchInitiatedTime.Unix() != r.Initiated.Unix() {
			return s3err.GetPreconditionFailedErr(s3err.ConditionIfMatchInitiatedTime)
		}
	}
	b.records.drop(id)
	return b.remove(ctx, *in.Bucket, id)
}

// ListMultipartUploads lists the uploads that were neither completed nor aborted.
func (b *Backend) ListMultipartUploads(ctx context.Context, in *s3.ListMultipartUploadsInput) (s3response.ListMultipartUploadsResult, error) {
	out, err := b.listUploads(ctx, in)
	return out, b.fail(ctx, "list uploads", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

func (b *Backend) listUploads(ctx context.Context, in *s3.ListMultipartUploadsInput) (out s3response.ListMultipartUploadsResult, err error) {
	prefix, delimiter, marker, idMarker := aws.ToString(in.Prefix), aws.ToString(in.Delimiter), aws.ToString(in.KeyMarker), aws.ToString(in.UploadIdMarker)
	var all []s3response.Upload
	for id, err := range b.uploadIDs(ctx, *in.Bucket) {
		if err != nil {
			return out, err
		}
		r, err := b.recordOf(ctx, *in.Bucket, id)
		if isMissing(err) || isForeign(err) {
			continue
		}
		if isKeyGone(err) { // it can still be aborted
			upload, failed := b.labelOf(ctx, *in.Bucket, id)
			if isMissing(failed) {
				continue
			}
			r, err = &record{ID: id, Key: upload.key, Initiated: upload.written}, failed
		}
		if err != nil {
			return out, err
		}
		if !strings.HasPrefix(r.Key, prefix) || marker != "" && r.Key <= marker {
			continue
		}
		all = append(all, s3response.Upload{
			Key: r.Key, UploadID: r.ID, StorageClass: types.StorageClassStandard, Initiated: r.Initiated, ChecksumAlgorithm: r.Algorithm, ChecksumType: r.Type,
		})
	}
	slices.SortStableFunc(all, func(x, y s3response.Upload) int {
		if c := strings.Compare(x.Key, y.Key); c != 0 {
			return c
		}
		return x.Initiated.Compare(y.Initiated)
	})
	most := int(aws.ToInt32(in.MaxUploads))
	page, err := backend.ListMultipartUploads(all, prefix, delimiter, marker, idMarker, most)
	if err != nil {
		return out, err
	}
	return s3response.ListMultipartUploadsResult{
		Bucket: *in.Bucket, Delimiter: delimiter, KeyMarker: marker, UploadIDMarker: idMarker, MaxUploads: most, Prefix: prefix,
		NextKeyMarker: page.NextKeyMarker, NextUploadIDMarker: page.NextUploadIDMarker, IsTruncated: page.IsTruncated,
		Uploads: page.Uploads, CommonPrefixes: page.CommonPrefixes,
	}, nil
}

// isForeign reports whether an error means that this gateway can't read a record: the gateway has
// no KEY for its place, it is under another key, or no gateway wrote it.
func isForeign(err error) bool {
	return slices.ContainsFunc([]error{
		errNoKey, errInvalid, provider.ErrUntrustedKey, provider.ErrDecryptionFailed, provider.ErrInvalidCiphertext, provider.ErrContextMismatch,
		pikokms.ErrPlaintext, pikokms.ErrNotObject,
	}, func(foreign error) bool { return errors.Is(err, foreign) })
}

// isKeyGone reports whether a record is under a key that was destroyed, disabled or deleted, such
// as that of one tenant of many.
func isKeyGone(err error) bool {
	return errors.Is(err, provider.ErrKeyDisabled) || errors.Is(err, provider.ErrKeyPendingDeletion) || errors.Is(err, provider.ErrKeyNotFound)
}

// Sweep deletes what is left of uploads in a bucket: the parts of completed uploads, and what has
// no record and is older than age.
func (b *Backend) Sweep(ctx context.Context, bucket string, age time.Duration) error {
	for id, err := range b.uploadIDs(ctx, bucket) {
		if err != nil {
			return err
		}
		upload, err := b.labelOf(ctx, bucket, id)
		switch {
		case isMissing(err):
			if err := b.removeOlder(ctx, bucket, id, age); err != nil {
				return err
			}
			continue
		case err != nil:
			b.config.Logger.WarnContext(ctx, "sweep: an upload is left, since its record can't be read", "bucket", bucket, "upload", id, "error", err)
			continue
		}
		if b.wasMadeBy(ctx, bucket, upload.key, id) {
			if err := b.remove(ctx, bucket, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// How often SweepAlways sweeps, and how old something without a record must be to be deleted. A
// part takes less time to arrive.
const (
	sweepInterval = time.Hour
	sweepAge      = 24 * time.Hour
)

// SweepAlways sweeps one bucket, or all if only is empty, at intervals until ctx ends. Several
// gateways may do so.
func (b *Backend) SweepAlways(ctx context.Context, only string) {
	for {
		err := b.catchPanic("sweep", func() error { return b.sweepAll(ctx, only) })
		if err != nil && ctx.Err() == nil {
			b.config.Logger.WarnContext(ctx, "sweep", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval):
		}
	}
}

// sweepAll sweeps one bucket, or all if only is empty. It goes on if one fails.
func (b *Backend) sweepAll(ctx context.Context, only string) (err error) {
	buckets := []s3response.ListAllMyBucketsEntry{{Name: only}}
	if only == "" {
		all, err := b.inner.ListBuckets(ctx, s3response.ListBucketsInput{IsAdmin: true, MaxBuckets: 10_000})
		if err != nil {
			return err
		}
		buckets = all.Buckets.Bucket
	}
	for _, bucket := range buckets {
		if failed := b.Sweep(ctx, bucket.Name, sweepAge); failed != nil {
			err = errors.Join(err, fmt.Errorf("bucket %s: %w", bucket.Name, failed))
		}
	}
	return err
}

// removeOlder deletes an upload without a record, unless some of it is younger than age.
func (b *Backend) removeOlder(ctx context.Context, bucket, id string, age time.Duration) error {
	for object, err := range b.ownObjects(ctx, bucket, folderOf(id)) {
		if err != nil {
			return err
		}
		if time.Since(aws.ToTime(object.LastModified)) < age {
			return nil
		}
	}
	return b.remove(ctx, bucket, id)
}
