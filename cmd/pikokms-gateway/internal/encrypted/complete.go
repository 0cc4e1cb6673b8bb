package encrypted

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/message"
)

// CompleteMultipartUpload joins the parts of an upload to one message. If the client repeats the
// request because it got no answer, it gets the same answer.
func (b *Backend) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	type result struct {
		out     s3response.CompleteMultipartUploadResult
		version string
	}
	// Clients repeat the request while the first one is under way.
	flight := fmt.Sprintf("%s/%s/%s %v", aws.ToString(in.Bucket), aws.ToString(in.Key), aws.ToString(in.UploadId), partTags(in.MultipartUpload))
	done, err, _ := b.completing.Do(flight, func() (any, error) {
		out, version, err := b.complete(ctx, in)
		return result{out, version}, err
	})
	r, _ := done.(result)
	r.out.Bucket, r.out.Key = in.Bucket, in.Key // another request may have made the result, and its strings don't outlive it
	return r.out, r.version, b.fail(ctx, "complete upload", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func partTags(u *types.CompletedMultipartUpload) (tags []string) {
	if u == nil {
		return nil
	}
	for _, p := range u.Parts {
		tags = append(tags, fmt.Sprint(aws.ToInt32(p.PartNumber), aws.ToString(p.ETag)))
	}
	return tags
}

// complete completes an upload. If that fails, another request may have completed it.
func (b *Backend) complete(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	out, version, err := b.completeOnce(ctx, in)
	if err != nil && checkKey(in.Key) == nil {
		if done, version, ok := b.completed(ctx, in); ok {
			return done, version, nil
		}
	}
	return out, version, err
}

func (b *Backend) completeOnce(ctx context.Context, in *s3.CompleteMultipartUploadInput) (out s3response.CompleteMultipartUploadResult, version string, err error) {
	r, k, err := b.record(ctx, in.Bucket, in.Key, in.UploadId)
	if err != nil {
		return out, "", err
	}
	if in.MultipartUpload == nil {
		return out, "", s3err.GetAPIError(s3err.ErrInvalidRequest)
	}
	if err := b.checkWrite(ctx, in); err != nil {
		return out, "", err
	}
	all, err := b.parts(ctx, r)
	if err != nil {
		return out, "", err
	}
	chosen, sum, err := choose(r, all, in)
	if err != nil {
		return out, "", err
	}
	if out, version, err = b.join(ctx, r, k, chosen, sum, in); err != nil {
		return out, "", err
	}
	b.records.drop(r.ID)
	if err := b.remove(ctx, r.Bucket, r.ID); err != nil {
		b.config.Logger.WarnContext(ctx, "the parts of a completed upload are left", "bucket", r.Bucket, "upload", r.ID, "error", err)
	}
	return out, version, nil
}

// checkWrite checks the conditions of a request before its work begins. They are checked again when
// it ends.
func (b *Backend) checkWrite(ctx context.Context, in *s3.CompleteMultipartUploadInput) error {
	if in.IfMatch == nil && in.IfNoneMatch == nil {
		return nil
	}
	head, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key, Range: aws.String("")})
	if err != nil && !isMissing(err) {
		return err
	}
	tag := ""
	if err == nil {
		tag = aws.ToString(outerTag(head.ETag))
	}
	return backend.EvaluateObjectPutPreconditions(tag, in.IfMatch, in.IfNoneMatch, err == nil)
}

// completed returns the answer for an upload that was completed before, if the object is still the
// one that it made.
func (b *Backend) completed(ctx context.Context, in *s3.CompleteMultipartUploadInput) (out s3response.CompleteMultipartUploadResult, version string, ok bool) {
	if !b.wasMadeBy(ctx, *in.Bucket, *in.Key, aws.ToString(in.UploadId)) {
		return out, "", false
	}
	head, err := b.headObject(ctx, &s3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return out, "", false
	}
	out = s3response.CompleteMultipartUploadResult{Bucket: in.Bucket, Key: in.Key, ETag: head.ETag}
	sum := takeChecksum(head)
	sum.Type = head.ChecksumType
	sum.put(&out)
	return out, aws.ToString(head.VersionId), true
}

// wasMadeBy reports whether an object is the one that this upload made.
func (b *Backend) wasMadeBy(ctx context.Context, bucket, key, id string) bool {
	head, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &key, Range: aws.String("")})
	if err != nil {
		return false
	}
	own, _ := ownMetadata(head.Metadata)
	return id != "" && own[uploadName] == id
}

// choose returns the parts that a request names, and the checksum of the whole.
func choose(r *record, all []*donePart, in *s3.CompleteMultipartUploadInput) (chosen []*donePart, sum checksum, err error) {
	named := in.MultipartUpload.Parts
	if in.ChecksumType != "" && r.Type != in.ChecksumType {
		kind := r.Type
		if kind == "" {
			kind = "null"
		}
		return nil, sum, s3err.GetChecksumTypeMismatchOnMpErr(kind)
	}
	whole, err := newWholeSum(r)
	if err != nil {
		return nil, sum, err
	}
	var total int64
	last := int32(0)
	for i := range named {
		p := &named[i]
		if p.PartNumber == nil {
			return nil, sum, s3err.GetAPIError(s3err.ErrMalformedXML)
		}
		n := *p.PartNumber
		switch {
		case n < 1:
			return nil, sum, s3err.GetInvalidArgumentErr(s3err.InvalidArgCompleteMpPartNumber, fmt.Sprint(n))
		case n <= last:
			return nil, sum, s3err.GetAPIError(s3err.ErrInvalidPartOrder)
		}
		last = n
		found := findPart(all, n, aws.ToString(p.ETag))
		if found == nil {
			return nil, sum, s3err.GetInvalidPartErr(r.ID, n, aws.ToString(p.ETag))
		}
		if i+1 < len(named) && found.size < backend.MinPartSize {
			return nil, sum, s3err.GetEntityTooSmallErr(found.size, backend.MinPartSize)
		}
		if p.ETag == nil {
			return nil, sum, s3err.GetAPIError(s3err.ErrMalformedXML)
		}
		if !backend.AreEtagsSame(*found.tag(), *p.ETag) {
			return nil, sum, s3err.GetInvalidPartErr(r.ID, n, *found.tag())
		}
		if err := checkPart(r, found, p); err != nil {
			return nil, sum, err
		}
		if err := whole.add(found); err != nil {
			return nil, sum, err
		}
		total += found.size
		chosen = append(chosen, found)
	}
	if in.MpuObjectSize != nil && total != *in.MpuObjectSize {
		return nil, sum, s3err.GetIncorrectMpObjectSizeErr(total, *in.MpuObjectSize)
	}
	sum = whole.sum()
	request := *in
	if stated := takeChecksum(&request); r.Type != "" && stated.Algorithm == sum.Algorithm {
		if r.Type == types.ChecksumTypeComposite && !strings.Contains(stated.Value, "-") {
			stated.Value = fmt.Sprintf("%s-%d", stated.Value, len(named))
		}
		if stated.Value != sum.Value {
			return nil, sum, s3err.GetChecksumBadDigestErr(sum.Algorithm)
		}
	}
	return chosen, sum, nil
}

// findPart returns the part of this number and ETag, or else the last one of the number.
func findPart(all []*donePart, number int32, tag string) (found *donePart) {
	for _, p := range all {
		if p.number != number {
			continue
		}
		if found = p; backend.AreEtagsSame(*p.tag(), tag) {
			break
		}
	}
	return found
}

// checkPart compares a part with the checksum that a request names for it.
func checkPart(r *record, found *donePart, named *types.CompletedPart) error {
	stated := checksumsIn(named)
	if len(stated) > 1 {
		var text strings.Builder
		for _, sum := range stated {
			fmt.Fprintf(&text, "%s:%s;", sum.Algorithm, sum.Value)
		}
		return s3err.GetInvalidArgumentErr(s3err.InvalidArgChecksumPart, text.String())
	}
	invalidPart := s3err.GetInvalidPartErr(r.ID, found.number, aws.ToString(named.ETag))
	switch {
	case r.Type == "" && len(stated) > 0:
		return invalidPart
	case r.Type == "":
		return nil
	case len(stated) == 0:
		return s3err.APIError{
			Code:           "InvalidRequest",
			Description:    fmt.Sprintf("The upload was created using a %s checksum. The complete request must include the checksum for each part. It was missing for part %d in the request.", strings.ToLower(string(r.Algorithm)), found.number),
			HTTPStatusCode: http.StatusBadRequest,
		}
	case !utils.IsValidChecksum(stated[0].Value, stated[0].Algorithm):
		return s3err.GetInvalidArgumentErr(s3err.InvalidArgChecksumPart, stated[0].Value)
	case stated[0].Algorithm != r.Algorithm:
		return s3err.APIError{
			Code:           "BadDigest",
			Description:    fmt.Sprintf("The %s you specified for part %d did not match what we received.", strings.ToLower(string(stated[0].Algorithm)), found.number),
			HTTPStatusCode: http.StatusBadRequest,
		}
	case stated[0].Value != found.checksum.Value:
		return invalidPart
	}
	return nil
}

// wholeSum computes the checksum of an object from those of its parts.
type wholeSum struct {
	checksum
	own       bool // the client asked for no checksum, and the gateway computes one of its own
	composite *utils.CompositeChecksumReader
	parts     int
}

func newWholeSum(r *record) (w *wholeSum, err error) {
	w = &wholeSum{checksum: checksum{Algorithm: r.Algorithm, Type: r.Type}}
	switch r.Type {
	case "":
		w.own, w.Algorithm, w.Type = true, types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject
	case types.ChecksumTypeComposite:
		w.composite, err = utils.NewCompositeChecksumReader(utils.HashType(strings.ToLower(string(r.Algorithm))))
	}
	return w, err
}

func (w *wholeSum) add(p *donePart) (err error) {
	value := p.checksum.Value
	if w.own {
		value = p.crc64
	}
	w.parts++
	switch {
	case w.composite != nil:
		return w.composite.Process(value)
	case w.parts == 1:
		w.Value = value
	default:
		w.Value, err = utils.AddCRCChecksum(w.Algorithm, w.Value, value, p.size)
	}
	return err
}

func (w *wholeSum) sum() checksum {
	if w.composite != nil {
		w.Value = fmt.Sprintf("%s-%d", w.composite.Sum(), w.parts)
	}
	return w.checksum
}

// join stores the parts as one object.
func (b *Backend) join(ctx context.Context, r *record, k *Key, chosen []*donePart, sum checksum, in *s3.CompleteMultipartUploadInput) (out s3response.CompleteMultipartUploadResult, version string, err error) {
	var sizes []int64
	var total int64
	for _, p := range chosen {
		sizes, total = append(sizes, p.size), total+p.size
	}
	put := r.Put
	put.Bucket, put.Key, put.IfMatch, put.IfNoneMatch = in.Bucket, in.Key, in.IfMatch, in.IfNoneMatch
	put.Metadata = make(map[string]string, len(r.Put.Metadata)+2)
	maps.Copy(put.Metadata, r.Put.Metadata)
	put.Metadata[uploadName] = r.ID
	if text := formatParts(sizes); text != "" {
		put.Metadata[partsName] = text
	}
	parts := &joined{ctx: ctx, b: b, record: r, key: k, parts: chosen}
	defer parts.Close()
	body := &requestContent{source: parts, left: total, sum: &sum, finish: func() string { return sum.Value }, known: true, joined: true}
	stored, err := b.store(ctx, k, r.Key, put, body, total)
	if err != nil {
		return out, "", err
	}
	out = s3response.CompleteMultipartUploadResult{Bucket: in.Bucket, Key: in.Key, ETag: &stored.out.ETag}
	sum.put(&out)
	return out, stored.out.VersionID, nil
}

// joined reads parts one after the other.
type joined struct {
	ctx    context.Context
	b      *Backend
	record *record
	key    *Key
	parts  []*donePart

	content io.Reader // of the first of parts
	stored  io.Closer
	left    int64
}

func (j *joined) Read(p []byte) (int, error) {
	for {
		if j.content == nil {
			if len(j.parts) == 0 {
				return 0, io.EOF
			}
			if err := j.open(j.parts[0]); err != nil {
				return 0, fmt.Errorf("part %d: %w", j.parts[0].number, err)
			}
		}
		n, err := j.content.Read(p)
		j.left -= int64(n)
		switch {
		case err == io.EOF && j.left == 0:
			if err := j.Close(); err != nil {
				return n, err
			}
			j.content, j.parts = nil, j.parts[1:]
			if n == 0 {
				continue
			}
			return n, nil
		case err == io.EOF || j.left < 0:
			return n, fmt.Errorf("part %d: %w", j.parts[0].number, errInvalid)
		case n > 0 || err != nil:
			return n, err
		}
	}
}

// open opens a part. It must be the very message that was stored as the part.
func (j *joined) open(p *donePart) error {
	name := partName(j.record.ID, p.number, p.try)
	out, err := j.b.inner.GetObject(j.ctx, &s3.GetObjectInput{Bucket: &j.record.Bucket, Key: &name, Range: aws.String("")})
	if err != nil {
		return err
	}
	j.stored, j.left = out.Body, p.size
	j.content, _, err = j.key.decrypt(j.ctx, name, out.Body, aws.ToInt64(out.ContentLength))
	if err != nil {
		return err
	}
	if read, ok := j.content.(*message.DecryptReader); !ok || read.Header() == nil || !bytes.Equal(read.Header().MessageID, p.messageID) {
		return errInvalid
	}
	return nil
}

func (j *joined) Close() error {
	if j.stored == nil {
		return nil
	}
	stored := j.stored
	j.stored = nil
	return stored.Close()
}
