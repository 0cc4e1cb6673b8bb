package blobstorage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
)

// ErrAnswer means that an answer of the storage can't be right: a part of a listing that repeats
// itself, goes backwards, has keys that were not asked for or is cut short, or an upload that S3
// did not confirm. Such answers come from proxies, and from services that imitate only parts of S3.
var ErrAnswer = errors.New("the storage's answer can't be right")

var errSameToken = fmt.Errorf("%w: a listing gives the same token again, and has no end", ErrAnswer)

// errPageToken means that a page token is malformed. The gcerrors code is InvalidArgument.
var errPageToken = errors.New("blobstorage: unknown page token")

// pageSize is how many keys a listing requests at once: the most that S3 returns.
const pageSize = 1000

// maxRequests is how many requests the driver may make for one page. Only a listing of empty pages
// without an end needs more.
const maxRequests = 100_000

// listing checks that a listing is whole, as far as the bucket exposes that.
type listing struct {
	prefix string
	seed   maphash.Seed
	seen   map[uint64]struct{} // hashes of tokens and of keys at the ends of pages
	last   string              // in S3, the previous object's name, as the bucket has it

	// folders is set if the listing has folders, too. gocloud.dev sorts them among the objects of a
	// page after it has unescaped both, which is not S3's order.
	folders bool
}

func newListing(options blob.ListOptions) *listing {
	return &listing{prefix: options.Prefix, folders: options.Delimiter != "", seed: maphash.MakeSeed(), seen: make(map[uint64]struct{})}
}

// page returns the next page of a listing, and the token of the one after it, which is nil at the
// end.
func (l *listing) page(ctx context.Context, bucket *blob.Bucket, token []byte, options blob.ListOptions, size int) (objects []*blob.ListObject, next []byte, err error) {
	var request s3Listing
	requests := 0
	callersBefore := options.BeforeList
	options.BeforeList = func(as func(any) bool) error {
		if callersBefore != nil {
			if err := callersBefore(as); err != nil {
				return err
			}
		}
		if err := request.record(as); err != nil {
			return err
		}
		if requests++; requests > maxRequests {
			return fmt.Errorf("%w: %d parts of a listing in a row name nothing, and it goes on", ErrAnswer, maxRequests)
		}
		return nil
	}
	objects, next, err = bucket.ListPage(ctx, token, size, &options)
	if err != nil {
		return nil, nil, err
	}
	if err := l.check(objects, next, request); err != nil {
		return nil, nil, err
	}
	return objects, next, nil
}

// token returns the page token of an encrypting bucket. It contains the last name of this page, so
// that resume can check the order across pages, and the token of the bucket below.
func (l *listing) token(next []byte) []byte {
	if len(next) == 0 {
		return nil
	}
	token := binary.AppendUvarint(nil, uint64(len(l.last)))
	return append(append(token, l.last...), next...)
}

// resume continues the listing that gave this token of an encrypting bucket, and returns the token
// of the bucket below.
func (l *listing) resume(token []byte) ([]byte, error) {
	n, size := binary.Uvarint(token)
	if size <= 0 || n >= uint64(len(token)-size) {
		return nil, fmt.Errorf("%w: it is of no listing of this bucket", errPageToken)
	}
	rest := token[size:]
	l.last = string(rest[:n])
	l.isNew("t" + string(rest[n:]))
	return rest[n:], nil
}

func (l *listing) check(objects []*blob.ListObject, next []byte, request s3Listing) error {
	if len(next) > 0 && !l.isNew("t"+string(next)) {
		return errSameToken
	}
	for i, o := range objects {
		name, prefix := o.Key, l.prefix
		var object s3types.Object
		var folder s3types.CommonPrefix
		switch { // gocloud.dev unescapes keys, and takes the prefix of a blob.PrefixedBucket away
		case request.isS3 && o.As(&object) && object.Key != nil:
			name, prefix = *object.Key, request.prefix
		case request.isS3 && o.As(&folder) && folder.Prefix != nil:
			name, prefix = *folder.Prefix, request.prefix
		}
		if !strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%w: a listing of %q has the key %q", ErrAnswer, prefix, name)
		}
		if request.ordered && !l.folders && object.Key != nil {
			if l.last != "" && name <= l.last {
				return fmt.Errorf("%w: in a listing, %q follows %q", ErrAnswer, name, l.last)
			}
			l.last = name
			continue
		}
		if (i == 0 || i == len(objects)-1) && !o.IsDir && !l.isNew("k"+name) {
			return fmt.Errorf("%w: a listing has the key %q twice", ErrAnswer, name)
		}
	}
	return nil
}

// isNew reports whether a text was not seen before in this listing, and remembers it.
func (l *listing) isNew(text string) bool {
	hash := maphash.String(l.seed, text)
	_, seen := l.seen[hash]
	l.seen[hash] = struct{}{}
	return !seen
}
