package places

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"piko.sh/pikokms"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// s3Objects are the objects of a bucket in S3 whose keys begin with a prefix.
type s3Objects struct {
	*s3storage.Storage
	client *s3.Client
	bucket string
	prefix string

	instructions instructions
}

// The parts of an upload to S3, and how many are under way at once. All jobs together have
// partsAtOnce, or one each if there are more jobs.
const (
	partSize      = 8 << 20
	partsOfUpload = 5
	partsAtOnce   = 8 * partsOfUpload
)

func (b *s3Objects) setWriting(w Writing) {
	options := []s3storage.Option{
		s3storage.WithInstructionSuffix(b.instructions.suffix), s3storage.WithAllowedLosses(w.Allowed...),
		s3storage.WithParts(partSize, min(max(partsAtOnce/w.Jobs, 1), partsOfUpload)),
	}
	if w.SoleWriter {
		options = append(options, s3storage.WithSoleWriter())
	}
	b.Storage = s3storage.New(b.client, b.bucket, options...)
}

func (b *s3Objects) Close() error { return nil }

// unnamed returns an error of the storage without the object's name, which the caller adds.
func unnamed(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "s3 storage: ") {
		if cause := errors.Unwrap(err); cause != nil {
			return cause
		}
	}
	return err
}

func (b *s3Objects) list(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		for object, err := range b.Objects(ctx, b.prefix+prefix) {
			if err != nil {
				yield(Listed{}, unnamed(err))
				return
			}
			listed := b.listed(object)
			b.instructions.note(listed.Key)
			if !yield(listed, nil) {
				return
			}
		}
		if prefix == "" {
			b.instructions.end()
		}
	}
}

func (b *s3Objects) listed(object s3types.Object) Listed {
	return Listed{Key: strings.TrimPrefix(*object.Key, b.prefix), Size: *object.Size}
}

func (b *s3Objects) page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error) {
	page, err := b.Folder(ctx, b.prefix+folder, string(token), n)
	if err != nil {
		return nil, nil, unnamed(err)
	}
	for _, object := range page.Contents {
		if listed := b.listed(object); !listed.IsMarker() {
			keys = append(keys, listed)
		}
	}
	for _, folder := range page.CommonPrefixes {
		keys = append(keys, Listed{Key: strings.TrimPrefix(*folder.Prefix, b.prefix)})
	}
	return keys, []byte(aws.ToString(page.NextContinuationToken)), nil
}

func (b *s3Objects) stat(ctx context.Context, key string) (Listed, error) {
	object, err := b.Stat(ctx, b.prefix+key)
	return Listed{Key: key, Size: aws.ToInt64(object.Size)}, unnamed(err)
}

func (b *s3Objects) open(ctx context.Context, key string) (pikokms.Object, error) {
	object, err := b.Open(ctx, b.prefix+key)
	if err != nil {
		return nil, unnamed(err)
	}
	return listedObject{object, b, key}, nil
}

func (b *s3Objects) read(ctx context.Context, key string) (*opened, error) {
	v, err := b.OpenVersion(ctx, b.prefix+key, "")
	if err != nil {
		return nil, unnamed(err)
	}
	s := &opened{ReadCloser: v.Body, Length: *v.ContentLength, ModTime: aws.ToTime(v.LastModified), version: v}
	s.Replace = func(ctx context.Context, content io.Reader) error { return unnamed(b.Replace(ctx, v, content)) }
	s.remove = func(ctx context.Context) error { return b.remove(ctx, v) }
	s.NotKept = func(ctx context.Context) ([]s3storage.Loss, error) {
		found, err := b.NotKept(ctx, v)
		return found, unnamed(err)
	}
	s.clientHeader = func(ctx context.Context, beside bool) (*s3ec.Header, error) {
		return b.clientHeader(ctx, v, key, beside)
	}
	return s, nil
}

func (b *s3Objects) put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error {
	like := from.version
	if like == nil && from.attributes != nil {
		h := headersOf(from)
		like = &s3storage.Version{GetObjectOutput: &s3.GetObjectOutput{
			CacheControl: optional(h.CacheControl), ContentDisposition: optional(h.ContentDisposition), ContentEncoding: optional(h.ContentEncoding),
			ContentLanguage: optional(h.ContentLanguage), ContentType: &h.ContentType, Metadata: h.Metadata,
		}}
	}
	if replace {
		return unnamed(b.PutLike(ctx, b.prefix+key, like, content))
	}
	return unnamed(b.PutNew(ctx, b.prefix+key, like, content))
}

// optional returns the value of a header, or nil if it is empty.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
