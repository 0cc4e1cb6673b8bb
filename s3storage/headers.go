package s3storage

import (
	"maps"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Headers holds what objects have besides their content in every cloud.
type Headers struct {
	CacheControl, ContentDisposition, ContentEncoding, ContentLanguage, ContentType string
	Metadata                                                                        map[string]string
}

// Headers returns what a version has besides its content that other clouds also have.
func (v *Version) Headers() Headers {
	in := &v.found.Kept
	return Headers{
		CacheControl: aws.ToString(in.CacheControl), ContentDisposition: aws.ToString(in.ContentDisposition),
		ContentEncoding: aws.ToString(in.ContentEncoding), ContentLanguage: aws.ToString(in.ContentLanguage),
		ContentType: aws.ToString(in.ContentType), Metadata: maps.Clone(in.Metadata),
	}
}

// Like returns what PutLike and PutNew take for an object that has these headers, and nothing else.
// It can't be read or replaced.
func Like(h Headers) *Version {
	elsewhere := &Storage{}
	elsewhere.features.tags.none = true
	return &Version{client: &client{storage: elsewhere, metadata: h.Metadata}, found: found{Kept: s3.PutObjectInput{
		CacheControl: optional(h.CacheControl), ContentDisposition: optional(h.ContentDisposition), ContentEncoding: optional(h.ContentEncoding),
		ContentLanguage: optional(h.ContentLanguage), ContentType: optional(h.ContentType), Metadata: maps.Clone(h.Metadata),
	}}}
}
