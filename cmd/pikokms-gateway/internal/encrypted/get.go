package encrypted

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/transfer"
)

// HeadObject returns what GetObject would, without the content. It asks the key service only to
// open a checksum, so the size is only as trustworthy as what the inner backend reports of the
// stored object.
func (b *Backend) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	out, err := b.headObject(ctx, in)
	return out, b.fail(ctx, "head", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) headObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	if err := checkKey(in.Key); err != nil {
		return nil, err
	}
	k, name, err := b.key(*in.Bucket, *in.Key)
	if err != nil {
		return nil, err
	}
	inner := *in
	inner.Range, inner.PartNumber, inner.ChecksumMode = aws.String(""), nil, folderMode(in.Key, in.ChecksumMode)
	inner.IfMatch, inner.IfNoneMatch = innerTag(in.IfMatch), innerTag(in.IfNoneMatch)
	out, err := b.inner.HeadObject(ctx, &inner)
	if err != nil {
		return out, err
	}
	own, others := ownMetadata(out.Metadata)
	stored := aws.ToInt64(out.ContentLength)
	size, err := b.size(ctx, k, in.Bucket, in.Key, in.VersionId, stored, own)
	if err != nil {
		return nil, err
	}
	part, err := partOf(size, own, in.Range, in.PartNumber)
	if err != nil {
		return nil, err
	}
	if stored > 0 || !isFolder(in.Key) {
		takeChecksum(out)
		out.ChecksumType = ""
	}
	if in.ChecksumMode == types.ChecksumModeEnabled && part.length == size && own[sealedName] != "" {
		sum, err := b.checksum(ctx, k, name, in.Bucket, in.Key, in.VersionId, out, own)
		if err != nil {
			return nil, err
		}
		sum.put(out)
	}
	out.Metadata, out.ETag, out.ContentLength = others, outerTag(out.ETag), &part.length
	out.ContentRange, out.PartsCount, out.AcceptRanges = part.contentRange, part.count, aws.String("bytes")
	return out, nil
}

// size returns the size of an object's plaintext.
func (b *Backend) size(ctx context.Context, k *Key, bucket, key, version *string, stored int64, own map[string]string) (int64, error) {
	if stored == 0 && isFolder(key) {
		return 0, nil
	}
	if size, ok := transfer.PlaintextSize(own, stored); ok {
		return size, nil
	}
	object, err := b.open(ctx, bucket, key, &s3.GetObjectInput{VersionId: version})
	if err != nil {
		return 0, err
	}
	defer object.Close()
	size, err := k.host.StatedSize(io.NewSectionReader(object, 0, object.Size()), object.Size())
	if err != nil || size >= 0 {
		return size, err
	}
	opened, err := k.open(ctx, b.inner.NormalizeObjectKey(*bucket, *key), object)
	if err != nil {
		return 0, err
	}
	return opened.Size(), nil
}

// checksum returns the checksum that is sealed with the object of head, or an empty one.
func (b *Backend) checksum(ctx context.Context, k *Key, name string, bucket, key, version *string, head *s3.HeadObjectOutput, own map[string]string) (sum checksum, err error) {
	ctx, dataKey := keepDataKey(ctx)
	defer func() { err = errors.Join(err, dataKey.Close()) }()
	stored, err := b.open(ctx, bucket, key, &s3.GetObjectInput{VersionId: version, IfMatch: bare(head.ETag)})
	if err != nil {
		return checksum{}, err
	}
	defer stored.Close()
	start := io.NewSectionReader(stored, 0, stored.Size())
	content, _, err := k.decrypt(ctx, name, start, stored.Size())
	if err != nil {
		return checksum{}, err
	}
	read, ok := content.(*message.DecryptReader)
	if !ok || read.Header() == nil {
		return checksum{}, nil
	}
	return dataKey.checksum(read.Header(), own[sealedName]), nil
}

// isFolder reports whether a key is that of a folder marker, an empty object that stands for a
// folder.
func isFolder(key *string) bool { return strings.HasSuffix(*key, "/") }

// folderMode returns the checksum mode of a request to the inner backend. Only of a folder marker,
// which is not encrypted, does that backend know a checksum for clients.
func folderMode(key *string, mode types.ChecksumMode) types.ChecksumMode {
	if isFolder(key) {
		return mode
	}
	return ""
}

// checksum opens the checksum that is sealed with a message. It is empty if it was changed, or if
// another program wrote the object.
func (s *keptDataKey) checksum(h *header.Header, text string) checksum {
	if text == "" {
		return checksum{}
	}
	aead, err := s.sealer(h)
	if err != nil {
		return checksum{}
	}
	opened, err := unseal(aead, text)
	if err != nil {
		return checksum{}
	}
	return opened.Checksum
}

// GetObject decrypts an object. No byte of a frame is sent before the frame is verified, and the
// last byte only once the whole object is.
func (b *Backend) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	// The engine reads the content after this method has returned, when the request's context has no
	// values any more.
	reading, cancel := context.WithCancel(context.Background())
	out, err := b.getObject(ctx, reading, in)
	if err != nil {
		cancel()
	} else {
		out.Body = &answerBody{out.Body, b, strings.Clone(*in.Bucket), strings.Clone(*in.Key), cancel}
	}
	return out, b.fail(ctx, "get", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) getObject(ctx, reading context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	if err := checkKey(in.Key); err != nil {
		return nil, err
	}
	k, name, err := b.key(*in.Bucket, *in.Key)
	if err != nil {
		return nil, err
	}
	own := *in // the content is read after the engine has used the memory of the request's strings again
	own.Bucket, own.Key = aws.String(strings.Clone(*in.Bucket)), aws.String(strings.Clone(*in.Key))
	if in.VersionId != nil {
		own.VersionId = aws.String(strings.Clone(*in.VersionId))
	}
	in = &own
	if aws.ToString(in.Range) == "" && in.PartNumber == nil {
		return b.getWhole(ctx, reading, k, name, in)
	}
	return b.getPart(ctx, reading, k, name, in)
}

// innerRequest returns a client's request as it is passed on to the inner backend.
func innerRequest(in *s3.GetObjectInput, byteRange string) *s3.GetObjectInput {
	inner := *in
	inner.Range, inner.PartNumber, inner.ChecksumMode = &byteRange, nil, folderMode(in.Key, in.ChecksumMode)
	inner.IfMatch, inner.IfNoneMatch = innerTag(in.IfMatch), innerTag(in.IfNoneMatch)
	return &inner
}

// getWhole gets an object from its beginning to its end, by one request.
func (b *Backend) getWhole(ctx, reading context.Context, k *Key, name string, in *s3.GetObjectInput) (_ *s3.GetObjectOutput, err error) {
	out, err := b.inner.GetObject(reading, innerRequest(in, ""))
	if err != nil {
		return out, err
	}
	if out.Body == nil { // a folder marker
		out.Body = io.NopCloser(bytes.NewReader(nil))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Body.Close())
		}
	}()
	own, others := ownMetadata(out.Metadata)
	stored, size := aws.ToInt64(out.ContentLength), int64(0)
	if stored > 0 || !isFolder(in.Key) {
		takeChecksum(out)
		out.ChecksumType = ""
		ctx, dataKey := keepDataKey(ctx)
		defer func() { err = errors.Join(err, dataKey.Close()) }()
		var content io.Reader
		content, size, err = k.decrypt(ctx, name, out.Body, stored)
		if err != nil {
			return nil, err
		}
		if size < 0 { // another program compressed it, so its size shows only in random access
			if err := out.Body.Close(); err != nil {
				return nil, err
			}
			return b.getPart(ctx, reading, k, name, in)
		}
		if read, ok := content.(*message.DecryptReader); ok && read.Header() != nil && in.ChecksumMode == types.ChecksumModeEnabled {
			dataKey.checksum(read.Header(), own[sealedName]).put(out)
		}
		out.Body = &verified{content, out.Body, size}
	}
	out.Metadata, out.ETag, out.ContentLength = others, outerTag(out.ETag), &size
	out.AcceptRanges, out.PartsCount = aws.String("bytes"), nil
	return out, nil
}

// getPart gets a range of an object, or a part by its number.
func (b *Backend) getPart(ctx, reading context.Context, k *Key, name string, in *s3.GetObjectInput) (_ *s3.GetObjectOutput, err error) {
	ctx, dataKey := keepDataKey(ctx)
	defer func() { err = errors.Join(err, dataKey.Close()) }()
	stored, err := b.open(reading, in.Bucket, in.Key, innerRequest(in, ""))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stored.Close())
		}
	}()
	out := stored.first
	own, others := ownMetadata(out.Metadata)
	var content pikokms.Object = stored
	if stored.Size() > 0 || !isFolder(in.Key) {
		if content, err = k.open(ctx, name, stored); err != nil {
			return nil, err
		}
	}
	size := content.Size()
	part, err := partOf(size, own, in.Range, in.PartNumber)
	if err != nil {
		return nil, err
	}
	if stored.Size() > 0 || !isFolder(in.Key) {
		takeChecksum(out)
		out.ChecksumType = ""
	}
	if in.ChecksumMode == types.ChecksumModeEnabled && part.length == size && own[sealedName] != "" {
		h, err := message.ReadHeader(io.NewSectionReader(stored, 0, stored.Size()), header.Limits{}) // OpenObject has verified it
		if err != nil {
			return nil, err
		}
		dataKey.checksum(h, own[sealedName]).put(out)
	}
	stored.Expect(part.length)
	out.Body = &section{io.NewSectionReader(content, part.start, part.length), content}
	out.Metadata, out.ETag, out.ContentLength = others, outerTag(out.ETag), &part.length
	out.ContentRange, out.PartsCount, out.AcceptRanges = part.contentRange, part.count, aws.String("bytes")
	return out, nil
}

// storedObject is an object of the inner backend that is open for random access.
type storedObject struct {
	*transfer.RangeObject
	first *s3.GetObjectOutput // the first answer, whose body was read
	file  io.Closer           // of a folder behind, or nil
}

func (s *storedObject) Close() error {
	err := s.RangeObject.Close()
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// openFile returns the object of an answer of a folder, whose body is an open file.
func openFile(out *s3.GetObjectOutput, file io.ReaderAt) (*storedObject, error) {
	size := aws.ToInt64(out.ContentLength)
	start := make([]byte, min(size, transfer.ProbeSize))
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, size), start); err != nil {
		return nil, errors.Join(err, out.Body.Close())
	}
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(file, offset, length)), nil
	}
	return &storedObject{transfer.NewRangeObject(size, aws.ToTime(out.LastModified), start, fetch), out, out.Body}, nil
}

// open opens an object of the inner backend, by a request for its beginning with the conditions of
// in.
func (b *Backend) open(ctx context.Context, bucket, key *string, in *s3.GetObjectInput) (_ *storedObject, err error) {
	request := *in
	request.Bucket, request.Key, request.Range = bucket, key, byteRange(0, transfer.ProbeSize)
	if b.isFolder { // which then answers with a file
		request.Range = aws.String("")
	}
	first, err := b.inner.GetObject(ctx, &request)
	if answered, ok := errors.AsType[s3err.S3Error](err); ok && answered.StatusCode() == 416 { // it is empty
		request.Range = aws.String("")
		first, err = b.inner.GetObject(ctx, &request)
	}
	if err != nil {
		return nil, err
	}
	if first.Body == nil {
		first.Body = io.NopCloser(bytes.NewReader(nil))
	}
	if file, ok := first.Body.(io.ReaderAt); ok {
		return openFile(first, file)
	}
	defer func() { err = errors.Join(err, first.Body.Close()) }()
	start, err := io.ReadAll(io.LimitReader(first.Body, transfer.ProbeSize))
	if err != nil {
		return nil, err
	}
	size := int64(len(start))
	if text := aws.ToString(first.ContentRange); text != "" {
		_, total, _ := strings.Cut(text, "/")
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			return nil, fmt.Errorf("the backend behind answers with Content-Range %.100q", text)
		}
	} else if n := aws.ToInt64(first.ContentLength); n > size {
		return nil, fmt.Errorf("the backend behind ignores ranges: it answers with %d bytes", n)
	}
	if want := min(size, transfer.ProbeSize); int64(len(start)) != want {
		return nil, fmt.Errorf("the backend behind gives %d bytes of a range of %d: %w", len(start), want, io.ErrUnexpectedEOF)
	}
	version := bare(first.ETag)
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		out, err := b.inner.GetObject(ctx, &s3.GetObjectInput{
			Bucket: bucket, Key: key, VersionId: in.VersionId, Range: byteRange(offset, length), IfMatch: version,
		})
		if answered, ok := errors.AsType[s3err.S3Error](err); ok && (answered.StatusCode() == 412 || answered.StatusCode() == 416) {
			return nil, fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
		}
		if err != nil {
			return nil, err
		}
		return out.Body, nil
	}
	return &storedObject{transfer.NewRangeObject(size, aws.ToTime(first.LastModified), start, fetch), first, nil}, nil
}

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}

// requestedPart is what a request asks for of an object.
type requestedPart struct {
	start, length int64
	contentRange  *string
	count         *int32 // of the parts that the object was uploaded in
}

// partOf returns the part of an object of size bytes that a range or the number of a part names.
// Without either it is the whole.
func partOf(size int64, own map[string]string, byteRange *string, number *int32) (requestedPart, error) {
	if number == nil {
		start, length, ranged, err := backend.ParseObjectRange(size, aws.ToString(byteRange))
		if err != nil || !ranged {
			return requestedPart{length: size}, err
		}
		return requestedPart{start, length, contentRange(start, length, size), nil}, nil
	}
	sizes, err := parseParts(own[partsName], size)
	if err != nil {
		return requestedPart{}, err
	}
	if sizes == nil {
		if *number > 1 {
			return requestedPart{}, s3err.GetInvalidPartNumberRangeErr(1, *number)
		}
		return requestedPart{0, size, contentRange(0, size, size), nil}, nil
	}
	count := int32(len(sizes))
	if *number > count {
		return requestedPart{}, s3err.GetInvalidPartNumberRangeErr(count, *number)
	}
	var start int64
	for _, n := range sizes[:*number-1] {
		start += n
	}
	length := sizes[*number-1]
	return requestedPart{start, length, contentRange(start, length, size), &count}, nil
}

func contentRange(start, length, size int64) *string {
	if length == 0 {
		return nil
	}
	return aws.String(fmt.Sprintf("bytes %d-%d/%d", start, start+length-1, size))
}

// GetObjectAttributes returns what HeadObject knows.
func (b *Backend) GetObjectAttributes(ctx context.Context, in *s3.GetObjectAttributesInput) (out attributes, err error) {
	head, err := b.HeadObject(ctx, &s3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key, VersionId: in.VersionId, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		if head != nil && errors.Is(err, s3err.GetAPIError(s3err.ErrMethodNotAllowed)) {
			return attributes{DeleteMarker: head.DeleteMarker, VersionId: head.VersionId}, s3err.GetAPIError(s3err.ErrNoSuchKey)
		}
		return attributes{}, b.nameMissing(ctx, in.Bucket, err)
	}
	out = attributes{
		ETag: backend.TrimEtag(head.ETag), ObjectSize: head.ContentLength, StorageClass: head.StorageClass,
		LastModified: head.LastModified, VersionId: head.VersionId, DeleteMarker: head.DeleteMarker, Checksum: &types.Checksum{},
	}
	sum := takeChecksum(head)
	sum.Type = head.ChecksumType
	sum.put(out.Checksum)
	return out, nil
}
