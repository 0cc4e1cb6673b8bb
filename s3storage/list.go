package s3storage

import (
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// List yields the keys that begin with prefix, in the order of Objects.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for object, err := range s.Objects(ctx, prefix) {
			if !yield(aws.ToString(object.Key), err) {
				return
			}
		}
	}
}

// Objects yields the objects whose keys begin with prefix, in the order of the keys' bytes. A
// directory bucket has no order (Amazon S3 API Reference, "ListObjectsV2"). Key and Size of each
// object are stated, and the key is decoded. Objects stops at the first error.
//
// A listing is whole or an error. The error holds ErrAnswer if the service leaves something out or
// lists something twice, as far as can be seen: a page that is not the last and names no next one,
// or the same one again, keys outside the prefix, and keys that repeat or go backwards.
func (s *Storage) Objects(ctx context.Context, prefix string) iter.Seq2[s3types.Object, error] {
	return func(yield func(s3types.Object, error) bool) {
		l := listing{prefix: prefix, unordered: isDirectory(s.bucket)}
		// Keys may have control characters, most of which XML can't hold, so they are asked for in
		// an encoding.
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, EncodingType: s3types.EncodingTypeUrl}
		for {
			page, err := s.client.ListObjectsV2(ctx, in)
			if err == nil {
				err = l.begin(page)
			}
			if err != nil {
				yield(s3types.Object{}, s.failed("list", prefix, err))
				return
			}
			for _, object := range page.Contents {
				if err := l.object(page, &object); err != nil {
					yield(s3types.Object{}, s.failed("list", prefix, err))
					return
				}
				if !yield(object, nil) {
					return
				}
			}
			if !*page.IsTruncated {
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	}
}

// isDirectory reports whether a name is that of a directory bucket, or of an access point of one
// (Amazon S3 User Guide, "Directory bucket naming rules").
func isDirectory(bucket string) bool {
	return strings.HasSuffix(bucket, "--x-s3") || strings.HasSuffix(bucket, "--xa-s3")
}

// maxEmptyPages is how many pages in a row may have no keys and name a next one. Services that pass
// over deleted objects send a few.
const maxEmptyPages = 1000

// listing checks the pages of a listing.
type listing struct {
	prefix    string
	unordered bool

	token string // of the next page
	last  string // the last key
	empty int    // how many pages in a row had no keys

	// In a listing without order, these are the hashes of the tokens and of the first keys of the
	// pages. That is some bytes for a page of 1,000 keys.
	seed maphash.Seed
	seen map[uint64]bool
}

// begin checks a page, but for its objects.
func (l *listing) begin(page *s3.ListObjectsV2Output) error {
	if page.IsTruncated == nil {
		return fmt.Errorf("%w: it is no listing, since it does not say whether it is whole", ErrAnswer)
	}
	if len(page.Contents) > 0 {
		l.empty = 0
	}
	if !*page.IsTruncated {
		return nil
	}
	token := aws.ToString(page.NextContinuationToken)
	switch {
	case token == "":
		return fmt.Errorf("%w: the listing is not whole, and names no next page", ErrAnswer)
	case token == l.token || l.unordered && l.again("token", token):
		return fmt.Errorf("%w: the listing goes round in circles: the page %.100q is named again", ErrAnswer, token)
	}
	l.token = token
	if len(page.Contents) == 0 {
		if l.empty++; l.empty > maxEmptyPages {
			return fmt.Errorf("%w: the listing has %d pages without a key in a row, and no end", ErrAnswer, l.empty)
		}
	}
	if l.unordered && len(page.Contents) > 0 {
		if key := aws.ToString(page.Contents[0].Key); l.again("key", key) {
			return fmt.Errorf("%w: the listing goes round in circles: the page from %q on comes again", ErrAnswer, key)
		}
	}
	return nil
}

// again reports whether it was called with these arguments before.
func (l *listing) again(kind, text string) bool {
	if l.seen == nil {
		l.seed, l.seen = maphash.MakeSeed(), make(map[uint64]bool)
	}
	sum := maphash.String(l.seed, kind+text)
	known := l.seen[sum]
	l.seen[sum] = true
	return known
}

// object checks an object of a page, and decodes its key.
func (l *listing) object(page *s3.ListObjectsV2Output, object *s3types.Object) error {
	key, err := decodeKey(page, object)
	switch {
	case err != nil:
		return err
	case key == "":
		return fmt.Errorf("%w: an object of the listing has no key", ErrAnswer)
	case !strings.HasPrefix(key, l.prefix):
		return fmt.Errorf("%w: the listing has the key %q, which does not begin with the prefix", ErrAnswer, key)
	case !l.unordered && key <= l.last:
		return fmt.Errorf("%w: the listing repeats or goes backwards: after the key %q comes %q", ErrAnswer, l.last, key)
	case object.Size == nil || *object.Size < 0:
		return fmt.Errorf("%w: the listing does not state the size of %q", ErrAnswer, key)
	}
	l.last, object.Key = key, &key
	return nil
}

// decodeKey returns a listed object's key. A service without encodings states none.
func decodeKey(page *s3.ListObjectsV2Output, object *s3types.Object) (string, error) {
	key := aws.ToString(object.Key)
	if page.EncodingType != s3types.EncodingTypeUrl {
		// XML can't hold most control characters. Servers put this character in their place.
		if strings.ContainsRune(key, utf8.RuneError) {
			return "", fmt.Errorf("%w: it does not encode the keys of its listing, and %q is what is left of one", ErrAnswer, key)
		}
		return key, nil
	}
	decoded, err := url.QueryUnescape(key)
	if err != nil {
		return "", fmt.Errorf("%w: the listed key %q is not encoded as it says: %w", ErrAnswer, key, err)
	}
	return decoded, nil
}
