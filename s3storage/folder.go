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

// Folder returns a page of what is directly below a prefix, which is empty or ends in a slash.
// Contents has the objects, as Objects yields them. CommonPrefixes has the beginnings of all other
// keys, up to and including the next slash, decoded. The token is empty, or the
// NextContinuationToken of the previous page, which is nil in the last one. A page has n entries at
// most, and S3 gives no more than 1,000. The error holds ErrAnswer as in Objects.
func (s *Storage) Folder(ctx context.Context, prefix, token string, n int) (*s3.ListObjectsV2Output, error) {
	out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: &s.bucket, Prefix: &prefix, Delimiter: aws.String("/"), EncodingType: s3types.EncodingTypeUrl,
		MaxKeys: aws.Int32(int32(min(n, 1000))), ContinuationToken: optional(token),
	})
	if err != nil {
		return nil, s.failed("list", prefix, err)
	}
	if err := checkFolder(prefix, token, out); err != nil {
		return nil, s.failed("list", prefix, err)
	}
	return out, nil
}

// checkFolder checks a page, and decodes its keys.
func checkFolder(prefix, token string, page *s3.ListObjectsV2Output) error {
	l := listing{prefix: prefix, token: token, unordered: true}
	if err := l.begin(page); err != nil {
		return err
	}
	if !*page.IsTruncated {
		page.NextContinuationToken = nil
	}
	for i := range page.Contents {
		if err := l.object(page, &page.Contents[i]); err != nil {
			return err
		}
	}
	for i, common := range page.CommonPrefixes {
		folder := aws.ToString(common.Prefix)
		if page.EncodingType == s3types.EncodingTypeUrl {
			var err error
			if folder, err = url.QueryUnescape(folder); err != nil {
				return errors.Join(ErrAnswer, err)
			}
		}
		if !strings.HasPrefix(folder, prefix) {
			return fmt.Errorf("%w: the listing has the folder %q, which does not begin with the prefix", ErrAnswer, folder)
		}
		page.CommonPrefixes[i].Prefix = &folder
	}
	page.EncodingType = ""
	return nil
}
