package s3storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Page is a page of what is directly below a prefix.
type Page struct {
	Objects []Listed
	Folders []string // the beginnings of keys up to a further slash, with it
	Next    string   // the token of the page that follows; empty if this is the last
}

// Folder returns a page of what is directly below a prefix, which is empty or ends in a slash. The
// token is empty, or Next of the page before. A page has n entries at most, and S3 gives no more
// than 1,000. What is further below is not listed. The error holds ErrAnswer as in Objects.
func (s *Storage) Folder(ctx context.Context, prefix, token string, n int) (*Page, error) {
	out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: &s.bucket, Prefix: &prefix, Delimiter: aws.String("/"), EncodingType: s3types.EncodingTypeUrl,
		MaxKeys: aws.Int32(int32(min(n, 1000))), ContinuationToken: optional(token),
	})
	if err != nil {
		return nil, s.failed("list", prefix, err)
	}
	page, err := pageOf(prefix, token, out)
	if err != nil {
		return nil, s.failed("list", prefix, err)
	}
	return page, nil
}

func pageOf(prefix, token string, out *s3.ListObjectsV2Output) (*Page, error) {
	l := listing{prefix: prefix, token: token, unordered: true}
	if err := l.begin(out); err != nil {
		return nil, err
	}
	page := new(Page)
	if *out.IsTruncated {
		page.Next = l.token
	}
	for _, object := range out.Contents {
		listed, err := l.object(out, object)
		if err != nil {
			return nil, err
		}
		page.Objects = append(page.Objects, listed)
	}
	for _, common := range out.CommonPrefixes {
		folder := aws.ToString(common.Prefix)
		if out.EncodingType == s3types.EncodingTypeUrl {
			var err error
			if folder, err = url.QueryUnescape(folder); err != nil {
				return nil, errors.Join(ErrAnswer, err)
			}
		}
		if !strings.HasPrefix(folder, prefix) {
			return nil, fmt.Errorf("%w: the listing has the folder %q, which does not begin with the prefix", ErrAnswer, folder)
		}
		page.Folders = append(page.Folders, folder)
	}
	return page, nil
}
